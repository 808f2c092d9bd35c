"""Maps of any rank as the few nested loops that a kernel has: axes that are walked in one go are joined."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from tinyasc_export.errors import InputError

OUTER = 3


@dataclass(frozen=True)
class Loops:
    """Three outer axes and a row, with each operand's strides in values.

    Args:
        sizes: of the outer axes; 1 where there are fewer.
        strides: per operand, of the outer axes.
        row: length of the innermost axis.
        steps: per operand, its stride along the row, 0 or 1.
    """

    sizes: tuple[int, ...]
    strides: tuple[tuple[int, ...], ...]
    row: int
    steps: tuple[int, ...]


def contiguous(shape: Sequence[int]) -> tuple[int, ...]:
    """Strides of a map whose values lie one after the other."""
    strides, step = [], 1
    for n in reversed(shape):
        strides.append(step)
        step *= n
    return tuple(reversed(strides))


def broadcast(shape: Sequence[int], to: Sequence[int]) -> tuple[int, ...]:
    """Strides of an operand along the axes of a broadcast result: 0 where it is repeated."""
    padded = (1,) * (len(to) - len(shape)) + tuple(shape)
    return tuple(0 if n == 1 else step for n, step in zip(padded, contiguous(padded), strict=True))


def loops(shape: Sequence[int], strides: Sequence[Sequence[int]], where: str) -> Loops:
    """Joins the axes of `shape` that every operand walks in one go.

    Args:
        shape: of what is walked.
        strides: per operand, one per axis.
        where: the operator, for the error line.

    Raises:
        InputError: more than four axes are left.
    """
    joined: list[tuple[int, tuple[int, ...]]] = []
    for n, *steps in zip(shape, *strides, strict=True):
        if n == 1:
            continue
        if joined and all(outer == n * step for outer, step in zip(joined[-1][1], steps, strict=True)):
            joined[-1] = (joined[-1][0] * n, tuple(steps))
        else:
            joined.append((n, tuple(steps)))
    if not joined or max(joined[-1][1]) > 1:
        joined.append((1, (1,) * len(strides)))
    row, row_steps = joined.pop()
    if len(joined) > OUTER:
        raise InputError(f"{where}: {len(joined) + 1} axes that do not join; the C kernels walk {OUTER + 1}")
    joined = [(1, (0,) * len(strides))] * (OUTER - len(joined)) + joined
    sizes = tuple(n for n, _ in joined)
    return Loops(sizes, tuple(tuple(s[i] for _, s in joined) for i in range(len(strides))), row, row_steps)


def kept_and_reduced(shape: Sequence[int], axes: Sequence[int], where: str) -> tuple[int, int, int, int]:
    """A reduction as (kept, reduced, kept, reduced) axes in a row.

    Raises:
        InputError: the axes alternate more often.
    """
    runs: list[list[int]] = []
    for i, n in enumerate(shape):
        if n == 1:
            continue
        reduced = int(i in axes)
        if runs and runs[-1][0] == reduced:
            runs[-1][1] *= n
        else:
            runs.append([reduced, n])
    sizes = [1, 1, 1, 1]
    at = 0
    for reduced, n in runs:
        at += (at + reduced) % 2
        if at > 3:
            raise InputError(f"{where}: the C kernel averages over two runs of axes, not over {tuple(axes)} of {shape}")
        sizes[at] = n
        at += 1
    return sizes[0], sizes[1], sizes[2], sizes[3]
