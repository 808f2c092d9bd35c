"""The constant arrays of a C net, each written once however often it is used, and how values look in C."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

C_TYPES = {"int8": "int8_t", "uint16": "uint16_t", "int16": "int16_t", "int32": "int32_t", "int64": "int64_t"}


@dataclass(frozen=True)
class Array:
    """A reference to a constant array: its C name and its element type."""

    name: str
    c_type: str


@dataclass
class Constants:
    """The arrays of one net, by content.

    Args:
        prefix: of their C names.
    """

    prefix: str
    arrays: dict[tuple[str, bytes], tuple[Array, np.ndarray]] = field(default_factory=dict)

    def add(self, values: np.ndarray, dtype: str) -> Array:
        """A reference to an array of these values, flattened; `dtype` must hold them."""
        stored = np.ascontiguousarray(values, dtype).reshape(-1)
        assert np.array_equal(stored, np.asarray(values).reshape(-1)), f"values that {dtype} cannot hold"
        key = (dtype, stored.tobytes())
        if key not in self.arrays:
            self.arrays[key] = (Array(f"{self.prefix}_c{len(self.arrays)}", C_TYPES[dtype]), stored)
        return self.arrays[key][0]

    @property
    def nbytes(self) -> int:
        """Bytes of all arrays."""
        return sum(values.nbytes for _, values in self.arrays.values())

    def declarations(self) -> str:
        """One extern declaration per array."""
        return "".join(f"extern const {a.c_type} {a.name}[{v.size}];\n" for a, v in self.arrays.values())

    def definitions(self) -> str:
        """The arrays themselves."""
        parts = []
        for array, values in self.arrays.values():
            body = textwrap.fill(", ".join(_literal(v, array.c_type) for v in values.tolist()), 116)
            parts.append(f"const {array.c_type} {array.name}[{values.size}] = {{\n{textwrap.indent(body, '    ')}}};\n")
        return "\n".join(parts)


def _literal(value: int, c_type: str) -> str:
    # The least number of a type has no literal: its digits without the sign are too large.
    if c_type == "int64_t":
        return f"(-{2**63 - 1}LL - 1)" if value == -(2**63) else f"{value}LL"
    return f"(-{2**31 - 1} - 1)" if value == -(2**31) else str(value)


def initializer(value: object) -> str:
    """A value of a struct in C: a number, an array's name, or braces around several."""
    if isinstance(value, Array):
        return value.name
    if isinstance(value, dict):
        return "{" + ", ".join(f".{key} = {initializer(item)}" for key, item in value.items()) + "}"
    if isinstance(value, Sequence):
        return "{" + ", ".join(initializer(item) for item in value) + "}"
    if isinstance(value, int | np.integer):
        return _literal(int(value), "int32_t")
    raise TypeError(f"{value!r} has no form in C")
