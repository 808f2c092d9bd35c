"""compress: plan, teacher outputs, distillation, narrowing, quantisation, files, verdict. A killed run resumes."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from tinyasc.compress.deploy import Written, check_calibration, publish, write_files, write_graphs
from tinyasc.compress.drop import MAX_DROP, Outcome, quantized
from tinyasc.compress.frontier import frontier_table, write_frontier
from tinyasc.compress.lessons import Clips
from tinyasc.compress.limits import Limits
from tinyasc.compress.narrow import Narrowed, Narrowing, narrow, plan_narrowing
from tinyasc.compress.plan import Searched, Solution
from tinyasc.compress.report import about_run, judge, make_card
from tinyasc.compress.solver import float_graph, solve
from tinyasc.compress.stages import Stages
from tinyasc.compress.teachers import ANSWERS, complete, in_order, weights_hash
from tinyasc.compress.temperature import Temperature, calibrated
from tinyasc.compress.verify import unverified, verify
from tinyasc.errors import InputError
from tinyasc.files import remove_unfinished, write_atomic
from tinyasc.training.distributed import world_size
from tinyasc.training.fit import check_trainable, logits
from tinyasc.training.recipe import Recipe
from tinyasc.training.run import RUNS, Run, Trained
from tinyasc_export.tflite_rules import check_int16_operators

# Precisions that are written when they are asked for.
ALSO = ("fp16", "int16x8")
# The folder of a search inside a run.
SEARCH = "search"


@dataclass(frozen=True)
class Compressed:
    """What `compress` leaves: the run, the trained student, the files and what they come from."""

    run: Run
    student: Trained
    files: list[Written]
    precision: str
    outcomes: dict[str, Outcome]
    temperatures: dict[str, Temperature]
    narrowed: Narrowed | None = None

    @property
    def product(self) -> Written:
        """The main file, of the planned precision."""
        return next(f for f in self.files if f.precision == self.precision)


@dataclass(frozen=True)
class Planned:
    """What a compression would do, before anything is trained or written.

    Args:
        teachers: in the order of their weights' hashes.
        limits: to be held.
        solution: the student that was chosen, and what else was counted.
        narrowing: for a recipe with a `narrow` part.
        also: precisions to write beside the planned one, of `ALSO`.
        searched: what a search found, whose best student is the one that was chosen.
    """

    teachers: list[Trained]
    limits: Limits
    solution: Solution
    narrowing: Narrowing | None
    also: tuple[str, ...]
    searched: Searched | None = None


def make_plan(
    teachers: Sequence[Trained],
    students: Sequence[Recipe],
    limits: Limits,
    *,
    bits: str = "8",
    change_front_end: bool = False,
    frontier: bool = False,
    search: bool = False,
    root: str | None = None,
    also: Collection[str] = (),
) -> Planned:
    """Chooses the student; nothing is trained, nothing written.

    Args:
        teachers: as `load_teachers` gives them.
        students: recipes to choose among; parts that they leave out are the first teacher's.
        limits: to be held.
        bits: of activations, one of `limits.BITS`.
        change_front_end: smaller front ends may be taken.
        frontier: count more widths of every family.
        search: find every student that holds the limits.
        root: the data's folder, when it is not where the teachers' recipes say.
        also: precisions to write beside the planned one, of `ALSO`.

    Raises:
        InputError: limits that no student holds, other data than the teachers', an operator that a precision lacks, a
            student that cannot be narrowed, or several processes.
    """
    if world_size() > 1:
        raise InputError("compress runs in one process; start it without torchrun")
    labels = teachers[0].labels
    completed = [complete(student, teachers, root) for student in students]
    solution = solve(completed, labels, limits, bits, change_front_end, frontier, search)
    chosen = solution.chosen
    if "int16x8" in also and chosen.plan.precision != "int16x8":
        # Now, and not after hours of training.
        check_int16_operators(float_graph(chosen.recipe, chosen.plan.width, len(labels)))
        solution = searchable_at_int16x8(solution, len(labels))
    narrowing = None if chosen.recipe.narrow is None else plan_narrowing(chosen, labels, limits)
    return Planned(in_order(teachers), limits, solution, narrowing, tuple(sorted(set(also))))


def searchable_at_int16x8(solution: Solution, n_classes: int) -> Solution:
    """The same without those students to search among that could not be written at int16x8; a note says why."""
    lacking: dict[str, str] = {}
    for span in {span.family: span for span in solution.spans}.values():
        try:
            check_int16_operators(float_graph(span.recipe, span.least * span.step, n_classes))
        except InputError as error:
            lacking[span.family] = f"{span.family} is not searched, since int16x8 cannot run it: {error}"
    spans = tuple(span for span in solution.spans if span.family not in lacking)
    return replace(solution, spans=spans, notes=(*solution.notes, *lacking.values()))


def compress(
    planned: Planned, *, folder: Path | None = None, frontier: bool = False, max_drop: float = MAX_DROP
) -> Compressed:
    """Distils trained teachers into the planned student, quantises it and writes its files.

    Args:
        planned: of `make_plan`.
        folder: the run's folder; by default runs/NAME-LIMITS-FINGERPRINT.
        frontier: write frontier.json and frontier.png of what was counted, too.
        max_drop: points (`Drop`) that quantisation alone may lose; more, and quantisation-aware training runs.

    Raises:
        InputError: other data, too little of it, or a run folder in use.
        DisagreementError: a written file does not answer as it must.
        OverBudgetError: the written model breaks a limit.
    """
    teachers, limits, narrowing, plan = (
        planned.teachers,
        planned.limits,
        planned.narrowing,
        planned.solution.chosen.plan,
    )
    student = planned.solution.chosen.recipe if narrowing is None else narrowing.wide
    stages = Stages()
    with stages.stage("features"):
        clips = Clips.of(student, teachers)
    data = clips.data
    check_calibration(len(data.train.labels), len(data.labels))
    # Before the folder is taken: a recipe that cannot be trained leaves it free for the mended one.
    check_trainable(student, data)
    # Quantisation-aware training starts from the trained student, so it is no part of that training's identity.
    qat, calibration = student.qat, student.calibration
    student = student.model_copy(update={"qat": None, "calibration": Recipe.model_fields["calibration"].default})
    identity = _hash(student.fingerprint(), *map(weights_hash, teachers), limits.identity, plan.precision)
    run = Run(folder or Path(RUNS) / f"{student.name}-{limits.label}-{identity[:8]}")
    searched = planned.searched
    if searched is not None:
        identity, run = searched.identity, Run(searched.folder)
    with run.locked():
        # Other workers of a search may be writing there.
        remove_unfinished(run.path, "", apart=SEARCH)
        quantization = {
            "calibration": calibration,
            "qat": None if qat is None else qat.model_dump(),
            "max_drop": max_drop,
            "also": list(planned.also),
        }
        write_plan(run, planned, identity, quantization)
        stages.keep_in(run.path)
        if frontier or searched is not None:
            scores = None if searched is None else searched.accuracies(planned.solution)
            points = frontier_table(planned.solution, scores)
            write_frontier(points, limits, run.path / "frontier.png", () if searched is None else searched.results)
        with stages.stage("teacher answers", run.path / ANSWERS):
            lessons = clips.lessons(student, run, teachers)
        narrowed = None
        if narrowing is None:
            with stages.stage("distil", run.path / "model.json"):
                trained = lessons.fit(student, run, title="distil")
        else:
            with stages.stage("narrow", run.path / "model.json"):
                narrowed = narrow(narrowing, student, run, lessons, limits)
                trained, plan = narrowed.trained, narrowed.plan
        expected = logits(trained, data.validation.features)
        deployed, outcomes = quantized(
            trained,
            run,
            data,
            expected,
            calibration=calibration,
            precisions=tuple(dict.fromkeys((plan.precision, *(p for p in planned.also if p == "int16x8")))),
            settings=qat,
            max_drop=max_drop,
            stages=stages,
        )
        known = {precision: outcome.answers for precision, outcome in outcomes.items()}
        with stages.stage("write"):
            shutil.rmtree(unverified(run.path), ignore_errors=True)
            answered = {"fp32": expected} | known
            temperatures = {p: calibrated(own, p, data, student) for p, own in answered.items()}
            # As trained, narrowed or not, but with the lines that the files are to say now.
            recipe = trained.recipe.model_copy(update={"about": student.about})
            card = make_card(recipe, outcomes, temperatures, teachers, limits, plan, data, run.path)
            if narrowed is not None:
                card["narrow"] = narrowed.card()
            files = write_files(
                deployed,
                trained,
                data.validation,
                card,
                unverified(run.path),
                limits,
                plan.precision,
                expected=expected,
                known=known,
                float16="fp16" in planned.also,
            )
        with stages.stage("verify"):
            # A run without a report is not finished, whatever an earlier compression left in it.
            (run.path / "report.json").unlink(missing_ok=True)
            files = verify(files, deployed, data.validation, expected)
            write_graphs(deployed, trained, card, run.path)
            files = publish(files, run.path)
            about = about_run(card, outcomes, max_drop, student.training.final, data.identity)
            if narrowed is not None:
                about["narrow"] = narrowed.report()
            judge(run, files, limits, plan.precision, about)
    return Compressed(run, trained, files, plan.precision, outcomes, temperatures, narrowed)


def write_plan(run: Run, planned: Planned, identity: str, quantization: Mapping[str, Any] | None = None) -> None:
    """Writes plan.json into a run that holds none, or one of the same identity; with the settings of `quantization`.

    Raises:
        InputError: the folder holds something else.
    """
    check_plan(run, identity)
    limits, searched = planned.limits, planned.searched
    stated = {
        "identity": identity,
        "teachers": [str(teacher.path.absolute()) for teacher in planned.teachers],
        "budget": None if limits.budget is None else asdict(limits.budget),
        "limits": [asdict(limit) for limit in limits.limits],
        "rule": None if limits.rule is None else limits.rule.name,
        "plan": asdict(planned.solution.chosen.plan),
    }
    if quantization is not None:
        stated["quantization"] = dict(quantization)
    if searched is not None:
        stated["search"] = {"metric": searched.metric, "epochs": searched.epochs, "trials": len(searched.results)}
    write_atomic(run.path / "plan.json", json.dumps(stated, indent=1))


def check_plan(run: Run, identity: str) -> None:
    """Raises InputError where a folder holds something else than the compression of an identity."""
    file = run.path / "plan.json"
    if file.is_file():
        try:
            found = json.loads(file.read_text(encoding="utf-8"))["identity"]
        except (ValueError, KeyError, TypeError):
            raise InputError(f"{file}: damaged; delete {run.path} or name another folder with --run") from None
        if found != identity:
            raise InputError(f"{run.path}: holds another compression; name another folder with --run")
    elif (run.path / "recipe.yaml").is_file():
        raise InputError(f"{run.path}: holds a training run, no compression; name another folder with --run")


def _hash(*parts: str) -> str:
    return hashlib.blake2b("\n".join(parts).encode(), digest_size=16).hexdigest()
