"""Budgets as people write them."""

from __future__ import annotations

import re
from dataclasses import dataclass
from fractions import Fraction

from tinyasc.errors import InputError

UNITS = {
    "": 1, "B": 1,
    "kB": 1000, "KB": 1024, "KiB": 1024,
    "MB": 1024**2, "MiB": 1024**2,
}  # fmt: skip
LARGEST = 2**40


@dataclass(frozen=True)
class Budget:
    """A limit on the bytes of every constant tensor of the deployed graph, as typed and in bytes."""

    text: str
    bytes: int


def parse_budget(text: str, what: str = "budget") -> Budget:
    """Reads "128KB" (x 1024), "128kB" (x 1000), "131072" or "131072B", "0.125MB" (x 1024 x 1024), "128KiB".

    Args:
        text: as typed.
        what: the size is of, for the error line.

    Raises:
        InputError: no number, an unknown unit, zero, less than nothing, or not a whole number of bytes.
    """
    match = re.fullmatch(r"\s*(\d{1,18}(?:\.\d{0,18})?|\.\d{1,18})\s*([A-Za-z]*)\s*", text, flags=re.ASCII)
    if match is None or match[2] not in UNITS:
        raise InputError(
            f"{what} {text!r} is not a size; write it as 128KB (1024 each), 128kB (1000 each), 131072 or 0.125MB"
        )
    size = Fraction(match[1]) * UNITS[match[2]]  # exact: in floats 1.001 x 1000 is no whole number
    if not 1 <= size <= LARGEST or size.denominator != 1:
        raise InputError(
            f"{what} {text!r} is {float(size):.15g} bytes; a {what} is a whole number of bytes from 1 to {LARGEST}"
        )
    return Budget(text.strip(), int(size))
