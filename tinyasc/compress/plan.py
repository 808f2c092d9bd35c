"""What the solver answers with: a student, what it will cost, and the others that were counted."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tinyasc.compress.costs import Costs
from tinyasc.compress.limits import Check
from tinyasc.training.recipe import Recipe


@dataclass(frozen=True)
class Plan:
    """One student and what it will cost.

    Args:
        family: of models.
        option: the family's option that sets the width.
        width: its value.
        options: the family's other options, where they are not the recipe's.
        n_mels: of its front end.
        precision: "int8" or "int16x8", of the main file.
        share: of the MACs that the family's recipe has at its own front end.
        parameters: values of all constants.
        parameter_bytes: at that precision.
        quantization_bytes: scales and zero points.
        file_bytes: upper estimate of the .tflite file.
        macs: of one inference.
        macs_per_second: of sound, of one inference per clip.
        arena_bytes: of all activations, pools beside their input.
        arena_pools_in_place_bytes: the same for kernels that let pools write over their input.
        arena_unshared_bytes: the same where nothing shares its place, as in TensorFlow Lite Micro.
        front_end_bytes: of the front end's state.
        ram_bytes: arena, front end, and what is set aside for the stack.
    """

    family: str
    option: str
    width: float
    options: dict[str, Any]
    n_mels: int
    precision: str
    share: float
    parameters: int
    parameter_bytes: int
    quantization_bytes: int
    file_bytes: int
    macs: int
    macs_per_second: int
    arena_bytes: int
    arena_pools_in_place_bytes: int
    arena_unshared_bytes: int
    front_end_bytes: int
    ram_bytes: int

    @classmethod
    def of(cls, family: str, option: str, width: float, options: dict[str, Any], share: float, costs: Costs) -> Plan:
        """The plan of a student whose costs were counted."""
        return cls(
            family=family,
            option=option,
            width=width,
            options=options,
            n_mels=costs.front_end.n_mels,
            precision=costs.precision,
            share=share,
            parameters=costs.parameters,
            parameter_bytes=costs.parameter_bytes,
            quantization_bytes=costs.quantization_bytes,
            file_bytes=costs.file_bytes,
            macs=costs.macs,
            macs_per_second=costs.macs_per_second(),
            arena_bytes=costs.arena_bytes,
            arena_pools_in_place_bytes=costs.arena_pools_in_place_bytes,
            arena_unshared_bytes=costs.arena_unshared_bytes,
            front_end_bytes=costs.front_end_bytes,
            ram_bytes=costs.ram_bytes,
        )

    def words(self) -> str:
        """Which student it is, in a few words."""
        more = "".join(f", {key} {value}" for key, value in self.options.items())
        return f"{self.family} ({self.option} {self.width:g}{more}) at {self.n_mels} mels, {self.precision}"


@dataclass(frozen=True)
class Candidate:
    """A student that was counted.

    Args:
        plan: what it is and costs.
        recipe: that trains it.
        checks: the limits held against it.
    """

    plan: Plan
    recipe: Recipe
    checks: tuple[Check, ...]

    @property
    def met(self) -> bool:
        """Whether it holds all limits."""
        return all(check.met for check in self.checks)


@dataclass(frozen=True)
class Span:
    """The widths of one family, with its multipliers and front end, that hold all limits and are worth a training.

    Args:
        recipe: of the family, at its own width.
        options: as in `Plan`.
        precision: of the main file.
        step: between two widths.
        least: the narrowest, in steps.
        widest: the widest, in steps; it was counted, and costs grow with the width.
        count: counts a student of that many steps, exactly.
    """

    recipe: Recipe
    options: dict[str, Any]
    precision: str
    step: float
    least: int
    widest: int
    count: Callable[[int], Candidate]

    @property
    def family(self) -> str:
        """Of models."""
        return self.recipe.family

    @property
    def label(self) -> str:
        """What tells it from the family's other ones."""
        assert self.recipe.front_end is not None, "a complete recipe has a front end"
        more = "".join(f", {key} {value}" for key, value in self.options.items())
        return f"{self.recipe.front_end.n_mels} mels{more}"

    def __len__(self) -> int:
        return self.widest - self.least + 1


@dataclass(frozen=True)
class Solution:
    """The student that was chosen, and what else was counted.

    Args:
        chosen: of `tried`.
        tried: all that were counted, each once.
        why: how the choice was made.
        notes: what a reader should know of it: families left out, precision, a front end made smaller.
        spans: of students that hold all limits, where a search among them was asked for.
    """

    chosen: Candidate
    tried: tuple[Candidate, ...]
    why: str
    notes: tuple[str, ...] = ()
    spans: tuple[Span, ...] = ()


@dataclass(frozen=True)
class Result:
    """A short training of one student.

    Args:
        number: of the trial.
        candidate: the student.
        state: "complete", "ended early" where it was worse than the median of the others, or "diverged".
        value: of the search's metric; None unless it is complete.
        accuracy: on validation clips, of the epoch that the recipe keeps; None unless it is complete.
        epochs: that it was trained, as far as was told.
    """

    number: int
    candidate: Candidate
    state: str
    value: float | None
    accuracy: float | None
    epochs: int


@dataclass(frozen=True)
class Searched:
    """What a search found.

    Args:
        identity: of the problem.
        folder: of the run.
        metric: by which students were compared.
        epochs: of each.
        results: of every trial that was trained.
    """

    identity: str
    folder: Path
    metric: str
    epochs: int
    results: tuple[Result, ...]

    def accuracies(self, solution: Solution) -> list[float | None]:
        """Of every student of `solution.tried`, where it was trained whole."""
        known = [(result.candidate.plan, result.accuracy) for result in self.results]
        return [next((score for plan, score in known if plan == c.plan), None) for c in solution.tried]

    def ranked(self) -> list[Result]:
        """The whole trainings, the best first; of equals the one that was tried first."""
        sign = 1 if self.metric.endswith("loss") else -1
        whole = [(sign * r.value, r.number, r) for r in self.results if r.value is not None]
        return [result for *_, result in sorted(whole, key=lambda w: w[:2])]
