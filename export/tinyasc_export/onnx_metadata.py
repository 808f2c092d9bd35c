"""Reads the bundle out of an .onnx file with nothing but the standard library, for the edge half.

An .onnx file is one protocol buffer message. Only its outermost fields are read, and of those the metadata; the graph
is stepped over. Every length is checked against the file before it is followed.
"""

from __future__ import annotations

from tinyasc_export.bundle import METADATA_KEY, Bundle
from tinyasc_export.errors import ModelFileError
from tinyasc_export.protobuf import DamagedError, fields, message

# Numbers of the fields that are read, from onnx.proto.
_MODEL_IR_VERSION = 1
_MODEL_GRAPH = 7
_MODEL_METADATA = 14
_ENTRY_KEY = 1
_ENTRY_VALUE = 2


def read_onnx_bundle(data: bytes, where: str) -> Bundle | None:
    """The bundle inside an .onnx file.

    Args:
        data: the whole file.
        where: the file's name, for the error line.

    Returns:
        The bundle, or None when the file is an ONNX model that carries none.

    Raises:
        ModelFileError: the file is not an ONNX model, is truncated or damaged, or its bundle cannot be read.
    """
    found: set[int] = set()
    text: bytes | None = None
    try:
        for number, value in fields(memoryview(data)):
            found.add(number)
            if number == _MODEL_METADATA and text is None:
                entry = dict(fields(message(value)))
                if bytes(message(entry.get(_ENTRY_KEY, b""))) == METADATA_KEY.encode():
                    text = bytes(message(entry.get(_ENTRY_VALUE, b"")))
    except DamagedError as error:
        raise ModelFileError(f"{where}: not an ONNX model, or a damaged one ({error}); export it again") from None
    if not {_MODEL_IR_VERSION, _MODEL_GRAPH} <= found:
        raise ModelFileError(f"{where}: not an ONNX model (it holds no graph)")
    return None if text is None else Bundle.from_json(text, where)
