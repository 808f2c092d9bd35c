"""Which student holds the limits: family, width, front end and precision, by the exact counter, without training."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import torch
from torch import nn

from tinyasc.compress.costs import predict
from tinyasc.compress.limits import Limits
from tinyasc.compress.plan import Candidate, Plan, Solution, Span
from tinyasc.errors import InputError
from tinyasc.frontend import FrontEnd
from tinyasc.models import FAMILIES, build, check_input
from tinyasc.training.progress import progress
from tinyasc.training.recipe import Recipe
from tinyasc_export.capture import capture
from tinyasc_export.graph import Graph
from tinyasc_export.lower import lower
from tinyasc_export.tflite_rules import check_int16_operators

# Mel bands of smaller front ends, for `--family auto`.
SMALLER_MELS = (64, 40, 32)
# The published way of making a family smaller in more than its width: CP-Mobile's small system (Schmid et al., 2023).
SMALLER_OPTIONS: dict[str, dict[str, Any]] = {"cp_mobile": {"channels_multiplier": 1.5, "expansion_rate": 1.7}}
# A front end or multipliers that hold less than this share of the recipe's width are left for the next smaller ones.
LEAST_SHARE_OF_WIDTH = 0.5
# Widths of a frontier, as shares of the recipe's.
FRONTIER_SHARES = (1.0, 0.75, 0.5, 0.25)


@dataclass
class _Shape:
    """A family with its other options and front end; the width is open."""

    recipe: Recipe
    options: dict[str, Any]
    counted: dict[tuple[int, str], Candidate] = field(default_factory=dict)
    graphs: dict[int, Graph] = field(default_factory=dict)


class Solver:
    """Counts students, each once, and finds the widest that hold the limits.

    Args:
        students: complete recipes, each with its front end.
        labels: that the students' files will hold.
        limits: to be held.
        bits: one of `limits.BITS`. "auto" takes int16x8 where the student that was chosen holds every limit at it too.
        change_front_end: smaller front ends and multipliers may be taken.
        report: called with shapes done, shapes in all and a note.
    """

    def __init__(
        self,
        students: Sequence[Recipe],
        labels: Sequence[str],
        limits: Limits,
        bits: str = "8",
        *,
        change_front_end: bool = False,
        report: Callable[..., None] = lambda done, total, note="": None,
    ) -> None:
        self.labels, self.limits, self.bits, self.report = tuple(labels), limits, bits, report
        self.precision = "int16x8" if bits == "16" else "int8"
        self.families = [_shapes(recipe, change_front_end) for recipe in students]
        self.notes: list[str] = []
        self.whole: dict[str, int] = {}

    def solve(self) -> Solution:
        """The student that keeps the largest share of its recipe's MACs, the one with more parameters among equals.

        Raises:
            InputError: a family that cannot be deployed, limits that no student holds (with what is reachable), or an
                operator that the precision lacks.
        """
        held, nearest = [], []
        total, done = sum(map(len, self.families)), 0
        for shapes in self.families:
            self.report(done, total, shapes[0].recipe.family)
            best = max((c.plan.share for c in held), default=0.0)
            try:
                found = self._widest(shapes, best)
            except InputError as error:
                if len(self.families) == 1:
                    raise
                self.notes.append(f"{shapes[0].recipe.family} is left out: {error}")
                found = None
            if found is not None:
                (held if found.met else nearest).append(found)
            done += len(shapes)
            self.report(done, total, shapes[0].recipe.family)
        if not held:
            if not nearest:
                raise InputError("no family can be a student here: " + "; ".join(self.notes))
            raise InputError(self._unreachable(nearest))
        chosen = max(held, key=lambda c: (c.plan.share, c.plan.parameter_bytes))
        whole = self._whole(chosen)
        self.notes += [f"not the recipe's whole size, by {c.words()}" for c in whole.checks if not c.met]
        if self.bits == "auto":
            chosen = self._wider(chosen)
        if (note := _unshared_note(chosen)) is not None:
            self.notes.append(note)
        return Solution(chosen, self.tried(), self._why(chosen), tuple(self.notes))

    def tried(self) -> tuple[Candidate, ...]:
        """Every student that was counted."""
        return tuple(c for shapes in self.families for shape in shapes for c in shape.counted.values())

    def add_frontier(self, solution: Solution) -> Solution:
        """Counts more widths of every family, at the front end that it was left with, and the chosen precision."""
        used = [next((s for s in reversed(shapes) if s.counted), None) for shapes in self.families]
        found = [shape for shape in used if shape is not None]
        for i, shape in enumerate(found):
            for j, share in enumerate(FRONTIER_SHARES):
                self._count(shape, max(1, round(share * _steps(shape.recipe))))
                self.report(i * len(FRONTIER_SHARES) + j + 1, len(found) * len(FRONTIER_SHARES), shape.recipe.family)
        return replace(solution, tried=self.tried())

    def add_spans(self, solution: Solution) -> Solution:
        """Finds for every family, front end and multipliers the widths that hold all limits at the chosen precision.

        The narrowest is half as wide as the widest: a quarter of its parameters.
        """
        precision, spans, notes = solution.chosen.plan.precision, [], list(solution.notes)
        shapes = [shape for family in self.families for shape in family]
        for i, shape in enumerate(shapes):
            try:
                widest = self._widest_holding(shape, precision)
            except InputError as error:
                notes.append(f"{shape.recipe.family} is not searched in all its shapes: {error}")
                continue
            finally:
                self.report(i + 1, len(shapes), shape.recipe.family)
            if widest:
                count = partial(self._count, shape, precision=precision)
                step, least = FAMILIES[shape.recipe.family].width.step, math.ceil(LEAST_SHARE_OF_WIDTH * widest)
                spans.append(Span(shape.recipe, shape.options, precision, step, least, widest, count))
        return replace(solution, tried=self.tried(), notes=tuple(dict.fromkeys(notes)), spans=tuple(spans))

    def _widest_holding(self, shape: _Shape, precision: str) -> int:
        """In steps; 0 where none holds. Costs grow with the width, so it lies by bisection."""
        low, high = 0, _steps(shape.recipe)
        if self._count(shape, high, precision).met:
            return high
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (middle, high) if self._count(shape, middle, precision).met else (low, middle)
        return low

    def _widest(self, shapes: list[_Shape], best: float) -> Candidate | None:
        """The widest of a family that holds the limits; the narrowest where none does; None where another is better."""
        taken, low, high = shapes[0], 0, 0
        for shape in shapes:
            steps = _steps(shape.recipe)
            try:
                widest = self._count(shape, steps)
            except InputError as error:
                if shape is shapes[0]:
                    raise
                self.notes.append(f"{shape.recipe.family} has no smaller front end here: {error}")
                continue
            if widest.met:
                return widest
            if best >= widest.plan.share:
                return None  # narrower ones have a smaller share still
            least = math.ceil(LEAST_SHARE_OF_WIDTH * steps)
            enough = least < steps and self._count(shape, least).met
            taken, low, high = shape, least if enough else 0, steps - 1 if enough else min(least, steps) - 1
            if enough:
                break
        # Costs grow with the width, so the widest that holds lies by bisection.
        while low < high:
            middle = math.ceil((low + high) / 2)
            found = self._count(taken, middle)
            if not found.met and best >= found.plan.share:
                return None
            low, high = (middle, high) if found.met else (low, middle - 1)
        return self._count(taken, max(low, 1))

    def _count(self, shape: _Shape, steps: int, precision: str | None = None) -> Candidate:
        precision = precision or self.precision
        if (steps, precision) not in shape.counted:
            recipe, front_end = shape.recipe, _front_end(shape.recipe)
            width = FAMILIES[recipe.family].width
            value = steps * width.step
            if steps not in shape.graphs:
                shape.graphs[steps] = float_graph(recipe, value, len(self.labels))
            graph = shape.graphs[steps]
            if recipe.qat is not None and recipe.qat.precision == "int16x8":
                check_int16_operators(graph)  # now, and not after hours of training
            costs = predict(graph, front_end, self.labels, precision)
            share = costs.macs / self.whole.setdefault(recipe.family, costs.macs)
            plan = Plan.of(recipe.family, width.option, value, shape.options, share, costs)
            changed = recipe.model_copy(update={"model": recipe.model | {width.option: value}})
            shape.counted[steps, precision] = Candidate(plan, changed, tuple(self.limits.checks(costs)))
        return shape.counted[steps, precision]

    def _whole(self, chosen: Candidate) -> Candidate:
        """The chosen family as its recipe has it."""
        shape = next(shapes[0] for shapes in self.families if shapes[0].recipe.family == chosen.plan.family)
        return self._count(shape, _steps(shape.recipe))

    def _wider(self, chosen: Candidate) -> Candidate:
        """The chosen student at int16x8, where it holds every limit so too."""
        shape, steps = next(
            (shape, steps)
            for shapes in self.families
            for shape in shapes
            for (steps, _), candidate in shape.counted.items()
            if candidate is chosen
        )
        rule = self.limits.rule
        if rule is not None and rule.memory.precision == "int8":
            self.notes.append(f"int8, since rule {rule.name} fixes it")
            return chosen
        try:
            found = self._count(shape, steps, "int16x8")
        except InputError as error:
            self.notes.append(f"int8, since int16x8 cannot run it: {error}")
            return chosen
        broken = [check.words() for check in found.checks if not check.met]
        self.notes.append(f"int8, since int16x8 breaks a limit: {broken[0]}" if broken else "int16x8 holds every limit")
        return chosen if broken else found

    def _why(self, chosen: Candidate) -> str:
        plan, several = chosen.plan, len(self.families) > 1
        kept = "the recipe's whole width" if plan.share == 1 else f"{100 * plan.share:.0f} % of its recipe's MACs"
        others = " more than any other family, or as much with more parameters" if several else ""
        return f"{plan.words()}: keeps {kept}{',' if others else ''}{others}"

    def _unreachable(self, nearest: list[Candidate]) -> str:
        """What the narrowest students need, of the one that comes nearest."""

        def distance(c: Candidate) -> tuple[int, float]:
            broken = [check for check in c.checks if not check.met]
            return len(broken), max(check.value / check.limit for check in broken)

        nearest_one = min(nearest, key=distance)
        broken = [check for check in nearest_one.checks if not check.met]
        needs = " and ".join(f"{c.value} {c.what} (limit {c.limit}, {c.origin})" for c in broken)
        budget = next((c for c in broken if c.name == "budget"), None)
        text = self.limits.budget
        what = f"budget {text.text} ({text.bytes} bytes)" if budget and text and len(broken) == 1 else "these limits"
        narrowest = nearest_one.plan
        return f"{what} cannot be met: the narrowest student, {narrowest.words()}, needs {needs}; give at least that"


def _unshared_note(chosen: Candidate) -> str | None:
    """What to know where a limit on RAM holds as planned, but not where no activation takes another's place."""
    plan = chosen.plan
    needed = plan.ram_bytes - plan.arena_bytes + plan.arena_unshared_bytes
    for check in chosen.checks:
        if check.name == "ram" and needed > check.limit:
            return (
                f"{check.name} holds with the arena as planned; TensorFlow Lite Micro, which lets no activation take "
                f"another's place, needs {needed:,} of {check.limit:,} {check.what} and its own state; it "
                "holds in the exported C (tinyasc export --to c): the planned arena and some scratch memory"
            )
    return None


def solve(
    students: Sequence[Recipe],
    labels: Sequence[str],
    limits: Limits,
    bits: str = "8",
    change_front_end: bool = False,
    frontier: bool = False,
    search: bool = False,
) -> Solution:
    """Chooses a student as `Solver` does, with a progress view.

    `frontier` counts more widths of every family, `search` finds all students that hold the limits.

    Raises:
        InputError: see `Solver.solve`.
    """
    with progress("count students") as report:
        solver = Solver(students, labels, limits, bits, change_front_end=change_front_end, report=report)
        solution = solver.solve()
        solution = solver.add_frontier(solution) if frontier else solution
        return solver.add_spans(solution) if search else solution


def float_graph(recipe: Recipe, width: float, n_classes: int) -> Graph:
    """The lowered float graph of an untrained student, with values as if it were trained.

    Args:
        recipe: complete, with its front end.
        width: of the family's width option.
        n_classes: K.

    Raises:
        InputError: a model that cannot be built, or features too small for it.
    """
    torch.manual_seed(0)
    channels, n_mels, n_frames = _front_end(recipe).shape
    options: dict[str, Any] = recipe.model_options | {FAMILIES[recipe.family].width.option: width}
    module = build(
        recipe.family, n_classes=n_classes, n_mels=n_mels, in_channels=channels, n_frames=n_frames, **options
    )
    check_input(module, recipe.family, shape=(channels, n_mels, n_frames))
    graph, _, _ = lower(capture(as_if_trained(module), (1, channels, n_mels, n_frames)))
    return graph


def as_if_trained(module: nn.Module) -> nn.Module:
    """Moves all that is learnt off the zeros and ones where it begins, which lowering would spare and training changes.

    A gain of zero is a dead channel, a bias of zero passes zero padding; after training neither is there any more.
    """
    with torch.no_grad():
        for values in (*module.parameters(), *module.buffers()):
            if values.is_floating_point():
                values.add_(0.1 * torch.rand_like(values))
    return module


def _shapes(recipe: Recipe, change_front_end: bool) -> list[_Shape]:
    """The recipe's own front end and multipliers, then smaller ones, largest first."""
    family = FAMILIES.get(recipe.family)
    if family is None:
        raise InputError(f"model family {recipe.family!r} is unknown; choose one of: {', '.join(sorted(FAMILIES))}")
    if not family.capturable:
        raise InputError(f"model family {recipe.family} cannot be a student: the deployed graph lacks its operators")
    _steps(recipe)
    shapes = [_Shape(recipe, {})]
    if not change_front_end:
        return shapes
    assert recipe.front_end is not None
    smaller = SMALLER_OPTIONS.get(recipe.family, {})
    if smaller and any(recipe.model_options.get(key, math.inf) > value for key, value in smaller.items()):
        recipe = recipe.model_copy(update={"model": recipe.model | smaller})
        shapes.append(_Shape(recipe, smaller))
    assert recipe.front_end is not None
    for n_mels in SMALLER_MELS:
        if n_mels < recipe.front_end.n_mels:
            front_end = recipe.front_end.model_copy(update={"n_mels": n_mels})
            shapes.append(_Shape(recipe.model_copy(update={"front_end": front_end}), shapes[-1].options))
    return shapes


def _steps(recipe: Recipe) -> int:
    """The recipe's width in steps of its family."""
    width = FAMILIES[recipe.family].width
    widest = recipe.model_options.get(width.option, width.default)
    number = isinstance(widest, int | float if isinstance(width.step, float) else int) and not isinstance(widest, bool)
    if not number or not width.step <= widest < math.inf or widest % width.step:
        raise InputError(f"{recipe.name}: {width.option} must be a multiple of {width.step}, got {widest!r}")
    return round(widest / width.step)


def _front_end(recipe: Recipe) -> FrontEnd:
    assert recipe.front_end is not None, "a complete recipe has a front end"
    return recipe.front_end.record()
