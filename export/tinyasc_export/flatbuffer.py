"""Reads a flatbuffer by a schema, with every offset, length and count held against the file before it is followed.

Standard library and numpy alone, for the edge half. Layout: FlatBuffers' "Internals" page. A table of the schema is a
tuple of fields in order of declaration, each `name:type` where a type is

* a `struct` code of one scalar ("i", "B", "f"), which reads as a number,
* "str", text, which reads as bytes, and `[i]`, numbers, which read as a numpy view of the file,
* `Table`, `[Table]`, and "union", whose table is named by the number in the field `name_type`,
* "-", a field that may not be there, and "_", one that is not looked at.

Absent fields are left out of what is read; so are fields behind the last one that the schema knows.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

Schema = Mapping[str, tuple[str, ...]]
Unions = Callable[[int], str | None]
MAX_TABLES = 50_000  # a student has about a thousand; tables may share bytes, so the file's size bounds nothing

_SIZES = {code: struct.calcsize("<" + code) for code in "bBhHiIqQfd?"}
_TABLE_ALIGNMENT = 4


class DamagedError(Exception):
    """An offset or a length that leads outside the file, or a field that may not be there."""


def read_flatbuffer(data: bytes, schema: Schema, root: str, unions: Unions = lambda _: None) -> dict[str, Any]:
    """The root table as nested dicts.

    Args:
        data: the whole file.
        schema: tables by name, as this module's docstring has them.
        root: the root table's name.
        unions: the table's name by the number before a union; None where it is not known.

    Raises:
        DamagedError: something leads outside the file, is not aligned, or is not what the schema says.
    """
    if len(data) < 8:
        raise DamagedError(f"{len(data)} bytes are no flatbuffer")
    return _Reader(data, schema, unions).table(_follow(data, 0), root)


class _Reader:
    """One pass over one file."""

    def __init__(self, data: bytes, schema: Schema, unions: Unions) -> None:
        self.data, self.unions, self.tables = data, unions, 0
        self.schema = {name: [field.split(":") for field in fields] for name, fields in schema.items()}

    def table(self, at: int, name: str) -> dict[str, Any]:
        data = self.data
        self.tables += 1
        if self.tables > MAX_TABLES:
            raise DamagedError(f"more than {MAX_TABLES} tables")
        if at % _TABLE_ALIGNMENT or at > len(data) - 4:
            raise DamagedError(f"table {name} at byte {at} of {len(data)}")
        vtable = at - struct.unpack_from("<i", data, at)[0]
        if vtable % 2 or not 0 <= vtable <= len(data) - 4:
            raise DamagedError(f"the layout of table {name} at byte {vtable} of {len(data)}")
        size, length = struct.unpack_from("<HH", data, vtable)
        if size % 2 or size < 4 or vtable + size > len(data) or length < 4 or at + length > len(data):
            raise DamagedError(f"table {name} at byte {at} of {len(data)} has {length} bytes, its layout {size}")
        places = struct.unpack_from(f"<{(size - 4) // 2}H", data, vtable + 4)
        read: dict[str, Any] = {}
        for (field, kind), place in zip(self.schema[name], places, strict=False):
            if not place or kind == "_":
                continue
            if kind == "-":
                raise DamagedError(f"{name}.{field} is there, which is not for models like these")
            width = _SIZES.get(kind, 4)
            if place < 4 or place + width > length or (at + place) % width:
                raise DamagedError(f"{name}.{field} stands at byte {place} of a table of {length}")
            read[field] = self.value(at + place, field, kind, name, read)
        return read

    def value(self, at: int, field: str, kind: str, name: str, before: dict[str, Any]) -> Any:
        """What stands at byte `at` of the file, or where the offset there leads."""
        if kind in _SIZES:
            return struct.unpack_from("<" + kind, self.data, at)[0]
        start = _follow(self.data, at)
        if kind == "union":
            number = before.get(f"{field}_type", 0)
            table = self.unions(number)
            if table is None:
                raise DamagedError(f"{name} has options of kind {number}, which is not known here")
            return self.table(start, table)
        if kind == "str":
            return self.vector(start, "B", name, tail=1).tobytes()
        if kind[0] != "[":
            return self.table(start, kind)
        inner = kind[1:-1]
        if inner in _SIZES:
            return self.vector(start, inner, name)
        offsets = self.vector(start, "I", name)
        if len(offsets) + self.tables > MAX_TABLES:
            raise DamagedError(f"more than {MAX_TABLES} tables")
        return [self.table(start + 4 + 4 * i + offset, inner) for i, offset in enumerate(offsets.tolist())]

    def vector(self, start: int, code: str, name: str, *, tail: int = 0) -> np.ndarray:
        """The numbers of a vector, whose length stands at byte `start`; `tail` more bytes must follow, of zeros."""
        data, width = self.data, _SIZES[code]
        if start % 4 or start > len(data) - 4 or (start + 4) % width:
            raise DamagedError(f"a vector of {name} at byte {start} of {len(data)}")
        count = struct.unpack_from("<I", data, start)[0]
        end = start + 4 + count * width
        if end + tail > len(data) or any(data[end : end + tail]):
            raise DamagedError(f"a vector of {name} of {count} values at byte {start} of {len(data)}")
        return np.frombuffer(data, np.dtype("<" + code), count, start + 4)


def _follow(data: bytes, at: int) -> int:
    """Where the offset at byte `at` leads; offsets are relative to their own place and never negative."""
    return at + struct.unpack_from("<I", data, at)[0]
