"""Reads the bundle out of a .tflite file with nothing but the standard library, for the edge half.

A .tflite file is a flatbuffer. The reader below follows four offsets (model, metadata entry, buffer, bytes)
and checks each against the file before it looks there, so that a damaged file gives an error line and never a
crash. The generated schema classes are not used: they check nothing, and `tflite-runtime`, the only runtime
on armv7l, ships none.
"""

from __future__ import annotations

import struct

from tinyasc_export.bundle import METADATA_KEY, Bundle
from tinyasc_export.errors import ModelFileError

IDENTIFIER = b"TFL3"

# Positions of the fields that are read, from TensorFlow Lite's schema.fbs (version 3), in order of
# declaration.
_MODEL_BUFFERS = 4
_MODEL_METADATA = 6
_METADATA_NAME = 0
_METADATA_BUFFER = 1
_BUFFER_DATA = 0


class _DamagedError(Exception):
    """An offset or a length that points outside the file."""


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
        text = _metadata(data, METADATA_KEY.encode())
    except _DamagedError as error:
        raise ModelFileError(f"{where}: the file is truncated or damaged ({error}); copy or export it again") from None
    return None if text is None else Bundle.from_json(text, where)


def _metadata(data: bytes, key: bytes) -> bytes | None:
    """The bytes of the metadata entry named `key`, or None."""
    model = _follow(data, 0)
    entries = _field(data, model, _MODEL_METADATA)
    buffers = _field(data, model, _MODEL_BUFFERS)
    if entries is None or buffers is None:
        return None
    for entry in _tables(data, entries):
        name = _field(data, entry, _METADATA_NAME)
        if name is None or _vector(data, name) != key:
            continue
        at = _field(data, entry, _METADATA_BUFFER)
        index = 0 if at is None else _unpack("<I", data, at)
        tables = _tables(data, buffers)
        if index >= len(tables):
            raise _DamagedError(f"the metadata names buffer {index} of {len(tables)}")
        content = _field(data, tables[index], _BUFFER_DATA)
        return b"" if content is None else _vector(data, content)
    return None


def _unpack(form: str, data: bytes, at: int) -> int:
    """One integer at byte `at`."""
    if not 0 <= at <= len(data) - struct.calcsize(form):
        raise _DamagedError(f"an offset leads to byte {at} of {len(data)}")
    return struct.unpack_from(form, data, at)[0]


def _follow(data: bytes, at: int) -> int:
    """Where the offset at byte `at` leads; offsets are relative to their own place and never negative."""
    return at + _unpack("<I", data, at)


def _field(data: bytes, table: int, index: int) -> int | None:
    """The place of field `index` of the table at byte `table`, or None when the file leaves it out."""
    vtable = table - _unpack("<i", data, table)
    if 4 + 2 * index >= _unpack("<H", data, vtable):
        return None
    relative = _unpack("<H", data, vtable + 4 + 2 * index)
    return table + relative if relative else None


def _vector(data: bytes, at: int) -> bytes:
    """The bytes of the byte vector or string that the field at byte `at` refers to."""
    start = _follow(data, at)
    length = _unpack("<I", data, start)
    if length > len(data) - start - 4:
        raise _DamagedError(f"a vector of {length} bytes starts at byte {start} of {len(data)}")
    return data[start + 4 : start + 4 + length]


def _tables(data: bytes, at: int) -> list[int]:
    """The places of the tables in the vector that the field at byte `at` refers to."""
    start = _follow(data, at)
    count = _unpack("<I", data, start)
    if 4 * count > len(data) - start - 4:
        raise _DamagedError(f"a vector of {count} tables starts at byte {start} of {len(data)}")
    return [_follow(data, start + 4 + 4 * i) for i in range(count)]
