"""Narrowing: a wide student is trained, then pruned step by step with fine-tuning; beside it dense ones of its size.

Every training is a run of its own inside the compression's folder: narrow/pruned-seed0/wide, .../step-1 and so on, and
narrow/dense-seed0. Each resumes; what is finished is not trained again.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from tinyasc.compress.channels import Unit, channel_sets, check_narrowable, remove
from tinyasc.compress.costs import Costs, predict
from tinyasc.compress.importance import least_share, less_important, unit_scores, with_gradients
from tinyasc.compress.lessons import Lessons
from tinyasc.compress.limits import Limits
from tinyasc.compress.plan import Candidate, Plan
from tinyasc.compress.solver import as_if_trained, solve
from tinyasc.errors import InputError
from tinyasc.models import build
from tinyasc.training.heard import Heard
from tinyasc.training.recipe import Recipe
from tinyasc.training.recipe_parts import Narrow, Training
from tinyasc.training.run import Run, Trained
from tinyasc_export.capture import capture
from tinyasc_export.graph import Graph
from tinyasc_export.lower import lower

FOLDER = "narrow"


@dataclass(frozen=True)
class Narrowing:
    """What is planned before anything is trained.

    Args:
        dense: the dense student of equal size.
        wide: the recipe of the student that is narrowed.
        labels: of both.
    """

    dense: Candidate
    wide: Recipe
    labels: tuple[str, ...]

    @property
    def from_width(self) -> float:
        """Of the wide student."""
        return self.wide.model[self.dense.plan.option]

    def costs(self, module: nn.Module) -> Costs:
        """What a student of this front end and precision costs when it is trained."""
        assert self.wide.front_end is not None, "a complete recipe has a front end"
        front_end = self.wide.front_end.record()
        return predict(deployed_graph(module, front_end.shape), front_end, self.labels, self.dense.plan.precision)


@dataclass(frozen=True)
class Side:
    """One of the two that are compared: validation scores, bytes at the planned precision and MACs by seed."""

    kind: str
    width: float
    scores: tuple[float, ...]
    parameter_bytes: tuple[int, ...]
    macs: tuple[int, ...]

    @property
    def mean(self) -> float:
        """Of the scores."""
        return float(np.mean(self.scores))

    @property
    def sd(self) -> float | None:
        """Standard deviation of the scores (n - 1); None of a single one."""
        return float(np.std(self.scores, ddof=1)) if len(self.scores) > 1 else None


@dataclass(frozen=True)
class Narrowed:
    """Both sides, the one that was kept, and the model that goes on: of the recipe's own seed, never the best one."""

    trained: Trained
    plan: Plan
    pruned: Side
    dense: Side
    kept: str
    monitor: str
    settings: Narrow
    epochs: int

    @property
    def why(self) -> str:
        """One line."""
        gain = abs(self.pruned.mean - self.dense.mean)
        if gain == 0:
            return f"{self.monitor} is the same on average, so the dense net is kept"
        return f"{self.monitor} is better by {gain:.4f} on average over {len(self.dense.scores)} seeds"

    def report(self) -> dict[str, Any]:
        """For report.json."""
        sides = {side.kind: asdict(side) | {"mean": side.mean, "sd": side.sd} for side in (self.pruned, self.dense)}
        return {
            "settings": self.settings.model_dump(),
            "monitor": self.monitor,
            "epochs": self.epochs,
            **sides,
            "kept": self.kept,
            "why": self.why,
        }

    def card(self) -> dict[str, Any]:
        """What a model file says of it."""
        about = {side.kind: {"mean": side.mean, "sd": side.sd} for side in (self.pruned, self.dense)}
        facts = {"kept": self.kept, "monitor": self.monitor, "seeds": len(self.dense.scores), **about}
        return facts | ({"settings": self.settings.model_dump()} if self.kept == "pruned" else {})


def plan_narrowing(chosen: Candidate, labels: Sequence[str], limits: Limits) -> Narrowing:
    """Finds the dense student of equal size, and makes sure that the wide one can be narrowed to the limits.

    Args:
        chosen: the student that holds the limits, its recipe with a `narrow` part.
        labels: that it learns.
        limits: to be held.

    Raises:
        InputError: no validation clips to compare on, a family that cannot be narrowed, a wide student that holds the
            limits already, or one that does not when it is as narrow as it gets; and all that `solve` refuses.
    """
    student, family, option = chosen.recipe, chosen.plan.family, chosen.plan.option
    settings = student.narrow
    assert settings is not None and student.front_end is not None
    if student.training.final:
        raise InputError(
            "narrow keeps what is better on the validation clips, which training.final trains on; take one of them out"
        )
    if student.training.start_from is not None:
        raise InputError("narrow trains its wide student from the start; take training.start_from out")
    check_narrowable(family)
    from_width = 2 * chosen.plan.width if settings.from_width is None else settings.from_width
    wide = student.model_copy(update={"model": student.model | {option: from_width}})
    # Up to the wide one's width: the dense one may be wider than the recipe says.
    dense = solve([wide], labels, limits, "16" if chosen.plan.precision == "int16x8" else "8").chosen
    plan = Narrowing(dense, wide, tuple(labels))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        channels, n_mels, n_frames = student.front_end.record().shape
        module = build(
            family, n_classes=len(labels), n_mels=n_mels, in_channels=channels, n_frames=n_frames, **wide.model_options
        )
    if limits.met(plan.costs(module)):
        raise InputError(
            f"narrow: {family} with {option} {from_width:g} holds the limits as it is; raise narrow.from_width or give "
            "a smaller budget"
        )
    # Where a set has no batch norm, scores do not hang on whether the net was trained.
    sets = channel_sets(module, student.front_end.record().shape, family)
    scores = unit_scores(module, sets, "bn_scale" if settings.importance == "bn_scale" else "magnitude")
    remove(module, less_important(sets, scores, 1.0, round_to=settings.round_to, scope=settings.scope))
    broken = [check.words() for check in limits.checks(plan.costs(module)) if not check.met]
    if broken:
        raise InputError(
            f"narrow: {family} from {option} {from_width:g}, when every set of channels that {settings.importance} "
            f"scores has {settings.round_to} left: {'; '.join(broken)}; lower narrow.from_width or narrow.round_to, or "
            "give a larger budget"
        )
    return plan


def deployed_graph(module: nn.Module, shape: tuple[int, int, int]) -> Graph:
    """The lowered float graph, with nothing spared that training may change; the module is left as it is."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        copied = as_if_trained(copy.deepcopy(module).cpu().eval())
    graph, _, _ = lower(capture(copied, (1, *shape)))
    return graph


def narrow(plan: Narrowing, student: Recipe, run: Run, lessons: Lessons, limits: Limits) -> Narrowed:
    """Trains both sides, or resumes, and makes the better one the run's model.

    The score is the recipe's `training.monitor` of the epoch that `training.select` keeps, on the validation clips.
    Both sides train for as many epochs in all, from the same teacher's answers and with the same seeds. Ties go to
    dense.

    Args:
        plan: of `plan_narrowing`.
        student: the recipe, with `narrow` and the wide student's model.
        run: the compression's folder, held locked.
        lessons: of both sides.
        limits: as in `plan_narrowing`.

    Raises:
        InputError: as `fit`.
    """
    settings = student.narrow
    assert settings is not None
    own = student.training.seed
    seeds = range(own, own + settings.seeds)
    epochs = student.training.epochs + (settings.steps - 1) * settings.epochs + settings.final_epochs
    pruned, dense = {}, {}
    for seed in seeds:
        pruned[seed] = _pruned(student, seed, run.path / FOLDER, lessons, plan, limits)
    for seed in seeds:
        training = stretched(student.training, epochs).model_copy(update={"seed": seed})
        model = plan.dense.recipe.model
        recipe = student.model_copy(update={"model": model, "training": training, "narrow": None})
        folder = run.path / FOLDER / f"dense-seed{seed}"
        dense[seed] = lessons.fit(recipe, Run(folder), title=f"dense, seed {seed}")
    monitor = student.training.monitor
    first = _side("pruned", plan.from_width, list(pruned.values()), monitor, plan)
    second = _side("dense", plan.dense.plan.width, list(dense.values()), monitor, plan)
    side, source = (first, pruned[own]) if is_better(first, second, monitor) else (second, dense[own])
    costs = plan.costs(source.module)
    share = plan.dense.plan.share * costs.macs / plan.dense.plan.macs
    dense_plan = plan.dense.plan
    final = Plan.of(dense_plan.family, dense_plan.option, side.width, dense_plan.options, share, costs)
    adopted = _adopt(run, source, student)
    return Narrowed(adopted, final, first, second, side.kind, monitor, settings, epochs)


def is_better(first: Side, second: Side, monitor: str) -> bool:
    """Whether the mean of the first is truly better: lower for log losses, higher for all else."""
    return first.mean < second.mean if monitor.endswith("loss") else first.mean > second.mean


def stretched(training: Training, epochs: int) -> Training:
    """The same training over more epochs: what is set in epochs or iterations grows with them, the warm-up does not."""
    factor = epochs / training.epochs
    values = training.model_dump()
    for key in ("flat_until_epoch", "decay_epochs"):
        values[key] = None if values[key] is None else values[key] * factor
    values["restart_epochs"] = tuple(epoch * factor for epoch in training.restart_epochs)
    if training.step_iterations is not None:
        values["step_iterations"] = max(1, round(training.step_iterations * factor))
    return Training.model_validate(values | {"epochs": epochs})


def tuning(training: Training, settings: Narrow, epochs: int) -> Training:
    """The training after a step of pruning: the student's, with one cosine at the rate of narrowing."""
    kept = {
        "batch_size", "optimizer", "momentum", "nesterov", "weight_decay", "weight_decay_on", "precision",
        "focal_gamma", "clip_grad_norm", "ema_decay", "norm_affine", "freeze_norm", "select", "monitor", "seed",
    }  # fmt: skip
    lr = training.lr / 2 if settings.lr is None else settings.lr
    return Training.model_validate(training.model_dump(include=kept) | {"epochs": epochs, "lr": lr})


def _pruned(student: Recipe, seed: int, folder: Path, lessons: Lessons, plan: Narrowing, limits: Limits) -> Trained:
    settings = student.narrow
    assert settings is not None
    training = student.training.model_copy(update={"seed": seed})
    recipe = student.model_copy(update={"training": training, "narrow": None})
    folder = folder / f"pruned-seed{seed}"
    wide = lessons.fit(recipe, Run(folder / "wide"), title=f"wide, seed {seed}")
    pruner = _Pruner(recipe, settings, lessons, plan, limits)
    current, whole = wide, None
    for step in range(1, settings.steps + 1):
        last = step == settings.steps
        run = Run(folder / f"step-{step}")
        module = None
        if not run.finished:
            ranked = pruner.ranked(current)
            if last:
                share = pruner.least_share(current, ranked)
            else:
                # What the trained wide student would have to lose at once; the steps before the last go evenly there.
                whole = pruner.least_share(wide, pruner.ranked(wide)) if whole is None else whole
                share = 1 - (1 - whole * step / settings.steps) / (1 - whole * (step - 1) / settings.steps)
            module = without(current.module, ranked(share))
        epochs = settings.final_epochs if last else settings.epochs
        tuned = recipe.model_copy(update={"training": tuning(training, settings, epochs)})
        title = f"pruned, seed {seed}, step {step} of {settings.steps}"
        current = lessons.fit(tuned, run, title=title, module=module)
    return current


@dataclass(frozen=True)
class _Pruner:
    recipe: Recipe
    settings: Narrow
    lessons: Lessons
    plan: Narrowing
    limits: Limits

    def ranked(self, trained: Trained) -> Callable[[float], list[Unit]]:
        """From a share of a trained net's channels to the least important of them."""
        sets = channel_sets(trained.module, trained.front_end.shape, self.recipe.family)
        taylor = self.settings.importance == "taylor"
        data, answers = self.lessons.data, self.lessons.answers
        measured = with_gradients(trained.module, self.recipe, data, answers) if taylor else trained.module
        scores = unit_scores(measured, sets, self.settings.importance)
        round_to, scope = self.settings.round_to, self.settings.scope
        return lambda share: less_important(sets, scores, share, round_to=round_to, scope=scope)

    def least_share(self, trained: Trained, ranked: Callable[[float], list[Unit]]) -> float:
        """The smallest share without which a net holds every limit."""

        @cache
        def holds(n: int) -> bool:
            # A larger share takes the same units and perhaps more, so that their number tells which they are.
            return self.limits.met(self.plan.costs(without(trained.module, gone[n])))

        gone: dict[int, list[Unit]] = {}

        def fits(share: float) -> bool:
            units = ranked(share)
            gone[len(units)] = units
            return holds(len(units))

        return least_share(fits)


def without(module: nn.Module, units: Iterable[Unit]) -> nn.Module:
    """A copy of a network that has lost some channels."""
    left = copy.deepcopy(module)
    remove(left, units)
    return left


def _side(kind: str, width: float, runs: list[Trained], monitor: str, plan: Narrowing) -> Side:
    costs = [plan.costs(trained.module) for trained in runs]
    scores = tuple(float(trained.validation[monitor]) for trained in runs)
    return Side(kind, width, scores, tuple(c.parameter_bytes for c in costs), tuple(c.macs for c in costs))


def _adopt(run: Run, source: Trained, student: Recipe) -> Trained:
    """Makes a run inside the folder the folder's own model, under the student's recipe."""
    recipe = student.model_copy(update={"model": source.recipe.model})
    inner = Run(source.path)
    run.claim(recipe, (source.path / "data.blake2b").read_text(encoding="utf-8").strip())
    run.save(
        source.module.state_dict(),
        recipe=recipe,
        labels=source.labels,
        front_end=source.front_end,
        validation=source.validation,
        synthetic=source.synthetic,
        heard=Heard.load(source.path) or Heard(),
        devices=source.devices,
        widths=inner.record().get("widths", {}),
    )
    return run.load()
