"""Reads the bundle out of an .onnx file with nothing but the standard library, for the edge half.

An .onnx file is one protocol buffer message. Only its outermost fields are read, and of those the metadata; the graph
is stepped over. Every length is checked against the file before it is followed.
"""

from __future__ import annotations

from collections.abc import Iterator

from tinyasc_export.bundle import METADATA_KEY, Bundle
from tinyasc_export.errors import ModelFileError

# Numbers of the fields that are read, from onnx.proto.
_MODEL_IR_VERSION = 1
_MODEL_GRAPH = 7
_MODEL_METADATA = 14
_ENTRY_KEY = 1
_ENTRY_VALUE = 2
# Wire types of protocol buffers, of which the groups (3, 4) are used by none of these messages.
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
_LONGEST_VARINT = 10


class _DamagedError(Exception):
    """A field that is none, or does not lie in its message."""


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
        for number, value in _fields(memoryview(data)):
            found.add(number)
            if number == _MODEL_METADATA and text is None:
                entry = dict(_fields(_message(value)))
                if bytes(_message(entry.get(_ENTRY_KEY, b""))) == METADATA_KEY.encode():
                    text = bytes(_message(entry.get(_ENTRY_VALUE, b"")))
    except _DamagedError as error:
        raise ModelFileError(f"{where}: not an ONNX model, or a damaged one ({error}); export it again") from None
    if not {_MODEL_IR_VERSION, _MODEL_GRAPH} <= found:
        raise ModelFileError(f"{where}: not an ONNX model (it holds no graph)")
    return None if text is None else Bundle.from_json(text, where)


def _fields(data: memoryview) -> Iterator[tuple[int, int | memoryview]]:
    """(number, value) of every field of a message: a whole number, or the bytes of what has a length."""
    at = 0
    while at < len(data):
        tag, at = _varint(data, at)
        number, kind = tag >> 3, tag & 7
        if kind == _VARINT:
            value, at = _varint(data, at)
        elif kind in (_FIXED32, _FIXED64, _BYTES):
            size = 4 if kind == _FIXED32 else 8
            if kind == _BYTES:
                size, at = _varint(data, at)
            if size > len(data) - at:
                raise _DamagedError(f"a field of {size} bytes starts at byte {at} of {len(data)}")
            value, at = data[at : at + size], at + size
        else:
            raise _DamagedError(f"no field starts at byte {at} of {len(data)}")
        if number == 0:
            raise _DamagedError("a field has the number 0")
        yield number, value


def _message(value: int | memoryview | bytes) -> memoryview:
    if isinstance(value, int):
        raise _DamagedError("a number stands where text is due")
    return memoryview(value)


def _varint(data: memoryview, at: int) -> tuple[int, int]:
    """The whole number at byte `at`, seven bits a byte, and where it ends."""
    value = 0
    for i in range(_LONGEST_VARINT):
        if at + i >= len(data):
            raise _DamagedError(f"the file ends inside a number at byte {at}")
        value |= (data[at + i] & 0x7F) << (7 * i)
        if data[at + i] < 0x80:
            return value, at + i + 1
    raise _DamagedError(f"the number at byte {at} does not end")
