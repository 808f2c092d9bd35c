"""Steps through protocol buffer messages with nothing but the standard library, for the edge half.

Every length is checked against the message before it is followed. The encoding is Protocol Buffers' "Encoding" page.
"""

from __future__ import annotations

from collections.abc import Iterator

# Wire types, of which the groups (3, 4) are used by none of ONNX's messages.
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
_LONGEST_VARINT = 10


class DamagedError(Exception):
    """A field that is none, or does not lie in its message."""


def fields(data: memoryview) -> Iterator[tuple[int, int | memoryview]]:
    """(number, value) of every field of a message: a whole number, or the bytes of what has a length.

    Raises:
        DamagedError: bytes that are no field.
    """
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
                raise DamagedError(f"a field of {size} bytes starts at byte {at} of {len(data)}")
            value, at = data[at : at + size], at + size
        else:
            raise DamagedError(f"no field starts at byte {at} of {len(data)}")
        if number == 0:
            raise DamagedError("a field has the number 0")
        yield number, value


def message(value: int | memoryview | bytes) -> memoryview:
    """The bytes of a field that must be a message or text.

    Raises:
        DamagedError: it is a number.
    """
    if isinstance(value, int):
        raise DamagedError("a number stands where text is due")
    return memoryview(value)


def _varint(data: memoryview, at: int) -> tuple[int, int]:
    """The whole number at byte `at`, seven bits a byte, and where it ends."""
    value = 0
    for i in range(_LONGEST_VARINT):
        if at + i >= len(data):
            raise DamagedError(f"the file ends inside a number at byte {at}")
        value |= (data[at + i] & 0x7F) << (7 * i)
        if data[at + i] < 0x80:
            return value, at + i + 1
    raise DamagedError(f"the number at byte {at} does not end")
