"""One operator of a .tflite file while it is checked: its tensors, and how a broken rule is told."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from tinyasc_export.tflite_schema import FLOAT16, FLOAT32, INT8, INT16, INT32, INT64, NAMES, UINT8

Shape = tuple[int, ...]
VALUES = (FLOAT32, INT8, UINT8, INT16)  # types of activations


class RefusedError(Exception):
    """A file that can be read and breaks a rule."""


@dataclass(frozen=True)
class Operand:
    """A tensor as operators see it; `values` are the little-endian bytes of a constant, uint8."""

    where: str
    shape: Shape
    kind: int
    values: np.ndarray | None
    scale: np.ndarray
    zero_point: np.ndarray
    axis: int

    @property
    def size(self) -> int:
        """Count of its elements."""
        return math.prod(self.shape)


def integral(kind: int) -> bool:
    """Whether a type holds integers."""
    return kind not in (FLOAT32, FLOAT16)


@dataclass
class Call:
    """One operator of the file: its tensors, its options, and its place for the error line."""

    where: str
    inputs: list[Operand | None]
    output: Operand
    options: dict[str, Any]
    steps: int = field(default=0)

    def __getitem__(self, index: int) -> Operand:
        operand = self.inputs[index]
        if operand is None:
            self.refuse(f"lacks input {index}")
        return operand  # pyright: ignore[reportReturnType]

    def refuse(self, why: str) -> None:
        """Raises RefusedError with the operator's name."""
        raise RefusedError(f"{self.where} {why}")

    def need(self, true: Any, why: str) -> None:
        """Refuses with `why` unless `true`."""
        if not true:
            self.refuse(why)

    def numbers(self, index: int) -> list[int]:
        """The whole numbers of a constant operand."""
        t = self[index]
        self.need(t.values is not None and t.kind in (INT32, INT64), f"takes {t.where}, no constant of whole numbers")
        assert t.values is not None
        return t.values.view("<i4" if t.kind == INT32 else "<i8").tolist()

    def same_types(self, count: int) -> None:
        """The first `count` inputs and the output are of one type of activations, each with one scale if integral."""
        for t in [*(self[i] for i in range(count)), self.output]:
            self.need(t.kind == self.output.kind and t.kind in VALUES, f"has {t.where} in {NAMES[t.kind]}")
            self.one_scale(t)

    def one_scale(self, t: Operand) -> None:
        """Refuses integers without a scale of their own."""
        self.need(not integral(t.kind) or len(t.scale) == len(t.zero_point) == 1, f"has {t.where} without one scale")
