"""Learning rate schedules: pure functions from the optimiser's step, counted from 0, to a factor on `training.lr`."""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Callable, Sequence

from tinyasc.training.recipe_parts import Training


def warm_up(step: int, *, steps: float) -> float:
    """Rises linearly to 1 at `steps`; never 0, so that the first step already learns."""
    return (step + 1) / (steps + 1) if step < steps else 1.0


def cosine(step: float, *, start: float, end: float, floor: float) -> float:
    """1 until `start`, then half a cosine down to `floor` at `end`, and `floor` from there (SGDR, ICLR 2017)."""
    progress = (step - start) / max(1, end - start)
    return floor + (1 - floor) * 0.5 * (1 + math.cos(math.pi * min(1.0, max(0.0, progress))))


def cosine_restarts(step: float, *, start: float, restarts: Sequence[float], end: float, floor: float) -> float:
    """Half a cosine from `start` to the first restart, from each restart to the next, and from the last to `end`.

    Args:
        step: where.
        start: of the first cosine.
        restarts: rising steps at which the factor is 1 again.
        end: of the last cosine.
        floor: which every cosine goes down to.
    """
    edges = [start, *restarts, end]
    cycle = min(max(bisect_right(edges, step), 1), len(edges) - 1)
    return cosine(step, start=edges[cycle - 1], end=edges[cycle], floor=floor)


def steps_down(step: int, *, every: int, factor: float) -> float:
    """Multiplied by `factor` after every `every` steps."""
    return factor ** (step // every)


def steps_down_at(step: float, *, at: Sequence[float], factor: float) -> float:
    """Multiplied by `factor` at each of the rising steps `at`."""
    return factor ** bisect_right(at, step)


def linear_down(step: float, *, start: float, end: float, floor: float) -> float:
    """1 until `start`, then a straight line down to `floor` at `end`, and `floor` from there."""
    progress = (step - start) / max(1, end - start)
    return 1 - (1 - floor) * min(1.0, max(0.0, progress))


def schedule(training: Training, steps_per_epoch: int) -> Callable[[int], float]:
    """The factor of a recipe's schedule, as a function of the step.

    Args:
        training: its epochs are turned into steps.
        steps_per_epoch: batches of one epoch, over all processes.
    """
    warm = training.warmup_epochs * steps_per_epoch
    end, floor = training.epochs * steps_per_epoch, training.min_lr_ratio

    def after(step: int) -> float:
        if training.schedule == "cosine":
            return cosine(step, start=warm, end=end, floor=floor)
        if training.schedule == "restarts":
            edges = [epoch * steps_per_epoch for epoch in training.restart_epochs]
            return cosine_restarts(step, start=warm, restarts=edges, end=end, floor=floor)
        if training.schedule == "linear":
            start, length = training.flat_until_epoch, training.decay_epochs
            begin = warm if start is None else start * steps_per_epoch
            stop = end if length is None else begin + length * steps_per_epoch
            return linear_down(step, start=begin, end=stop, floor=floor)
        if training.step_iterations is not None:
            return steps_down(step, every=training.step_iterations, factor=training.step_factor)
        return steps_down_at(step, at=[share * end for share in training.step_at], factor=training.step_factor)

    return lambda step: warm_up(step, steps=warm) * after(step)
