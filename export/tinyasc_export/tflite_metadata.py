"""Reads the bundle out of a .tflite file with nothing but numpy and the standard library, for the edge half.

A .tflite file is a flatbuffer. Every offset is checked against the file before it is followed, so that a damaged file
gives an error line and never a crash. The generated schema classes are not used: they check nothing, and
`tflite-runtime`, the only runtime on armv7l, ships none.
"""

from __future__ import annotations

from tinyasc_export.bundle import METADATA_KEY, Bundle
from tinyasc_export.errors import ModelFileError
from tinyasc_export.flatbuffer import DamagedError, read_flatbuffer

IDENTIFIER = b"TFL3"

# The path to the bundle alone: what else a file holds is for `tflite_check`.
_SCHEMA = {
    "Model": ("_:_", "_:_", "_:_", "_:_", "buffers:[Buffer]", "_:_", "metadata:[Metadata]"),
    "Buffer": ("data:[B]",),
    "Metadata": ("name:str", "buffer:I"),
}


def read_tflite_bundle(data: bytes, where: str) -> Bundle | None:
    """The bundle inside a .tflite file.

    Args:
        data: the whole file.
        where: the file's name, for the error line.

    Returns:
        The bundle, or None when the file is a TFLite model that carries none.

    Raises:
        ModelFileError: the file is not a TFLite model, is truncated or damaged, or its bundle cannot be read.
    """
    if data[4:8] != IDENTIFIER:
        raise ModelFileError(f"{where}: not a TFLite model (its bytes 4 to 8 are not 'TFL3')")
    try:
        model = read_flatbuffer(data, _SCHEMA, "Model")
        entry = next((e for e in model.get("metadata", []) if e.get("name") == METADATA_KEY.encode()), None)
        if entry is None:
            return None
        index, buffers = entry.get("buffer", 0), model.get("buffers", [])
        if index >= len(buffers):
            raise DamagedError(f"the metadata names buffer {index} of {len(buffers)}")
    except DamagedError as error:
        raise ModelFileError(f"{where}: the file is truncated or damaged ({error}); copy or export it again") from None
    content = buffers[index].get("data")
    return Bundle.from_json(b"" if content is None else content.tobytes(), where)
