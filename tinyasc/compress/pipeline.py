"""compress: teacher outputs, width, distillation, files, verdict. A killed run resumes."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Collection, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from tinyasc.compress.budget import Budget
from tinyasc.compress.deploy import Written, check_calibration, publish, write_files, write_graphs
from tinyasc.compress.drop import MAX_DROP, Outcome, quantized
from tinyasc.compress.lessons import Lessons
from tinyasc.compress.live import live_teachers, shared_rate
from tinyasc.compress.narrow import Narrowed, narrow, plan_narrowing
from tinyasc.compress.report import about_run, judge, make_card
from tinyasc.compress.solver import int8_bytes, solve
from tinyasc.compress.stages import Stages
from tinyasc.compress.teachers import ANSWERS, complete, in_order, teacher_logits, weights_hash, with_what_they_heard
from tinyasc.compress.temperature import Temperature, calibrated
from tinyasc.compress.verify import unverified, verify
from tinyasc.errors import InputError
from tinyasc.files import remove_unfinished, write_atomic
from tinyasc.training.distributed import world_size
from tinyasc.training.features import prepare
from tinyasc.training.fit import logits
from tinyasc.training.recipe import Recipe
from tinyasc.training.run import RUNS, Run, Trained
from tinyasc.training.waveforms import with_waveforms
from tinyasc_export.graph import Graph

# Precisions that are written when they are asked for.
ALSO = ("fp16", "int16x8")


@dataclass(frozen=True)
class Compressed:
    """What `compress` leaves: the run, the trained student, the files and the verdict's numbers."""

    run: Run
    student: Trained
    teachers: list[Trained]
    files: list[Written]
    budget: Budget
    outcomes: dict[str, Outcome]
    temperatures: dict[str, Temperature]
    narrowed: Narrowed | None = None


def compress(
    teachers: Sequence[Trained],
    student: Recipe,
    budget: Budget,
    *,
    root: str | None = None,
    folder: Path | None = None,
    also: Collection[str] = (),
    max_drop: float = MAX_DROP,
) -> Compressed:
    """Distils trained teachers into a student that holds the budget, quantises it and writes its files.

    Args:
        teachers: as `load_teachers` gives them.
        student: the student's recipe; parts that it leaves out are the first teacher's.
        budget: on the bytes of the int8 graph's constants.
        root: the data's folder, when it is not where the teachers' recipes say.
        folder: the run's folder; by default runs/NAME-BUDGET-FINGERPRINT.
        also: precisions to write beside fp32 and int8, of `ALSO`.
        max_drop: points (`Drop`) that quantisation alone may lose; more, and quantisation-aware training runs.

    Raises:
        InputError: an impossible budget, other data, too little of it, a run folder in use, several processes.
        DisagreementError: a written file does not answer as it must.
        OverBudgetError: the written model breaks the budget.
    """
    if world_size() > 1:
        raise InputError("compress runs in one process; start it without torchrun")
    stages = Stages()
    wide = "int16x8" in also
    narrowing, narrowed = None, None

    def fits(graph: Graph) -> bool:
        return int8_bytes(graph) <= budget.bytes

    with stages.stage("plan"):
        student = complete(student, teachers, root)
        teachers = in_order(teachers)
        data_part, front_end = student.data, student.front_end
        assert data_part is not None and front_end is not None, "a teacher's recipe has both"
        problem = student, front_end.record(), len(teachers[0].labels), budget
        if student.narrow is None:
            plan = solve(*problem, wide=wide)
            width = plan.width
        else:
            narrowing = plan_narrowing(*problem, fits, wide=wide)
            plan, width = narrowing.dense, narrowing.from_width
    student = student.model_copy(update={"model": student.model | {plan.option: width}})
    with stages.stage("features"):
        prepared = with_what_they_heard(prepare(data_part, front_end.record()), teachers)
        data = with_waveforms(prepared, student)
        rate, live = None, None
        if student.distill is not None and student.distill.teacher_on == "augmented":
            rate = shared_rate(student, prepared, teachers)
            live = live_teachers(student, prepared, teachers, rate)
    check_calibration(len(data.train.labels), len(data.labels))
    # Quantisation-aware training starts from the trained student, so it is no part of that training's identity.
    qat, calibration = student.qat, student.calibration
    student = student.model_copy(update={"qat": None, "calibration": Recipe.model_fields["calibration"].default})
    identity = _hash(student.fingerprint(), *map(weights_hash, teachers), str(budget.bytes))
    run = Run(folder or Path(RUNS) / f"{student.name}-{budget.text.replace(' ', '')}-{identity[:8]}")
    with run.locked():
        stated = {
            "identity": identity,
            "teachers": [str(teacher.path.absolute()) for teacher in teachers],
            "budget": asdict(budget),
            "plan": asdict(plan),
            "quantization": {
                "calibration": calibration,
                "qat": None if qat is None else qat.model_dump(),
                "max_drop": max_drop,
                "also": sorted(also),
            },
        }
        remove_unfinished(run.path, "")
        _write_plan(run, stated)
        stages.keep_in(run.path)
        answers = None
        by_gradient = student.narrow is not None and student.narrow.importance == "taylor"
        if student.distill is not None and (live is None or by_gradient):
            with stages.stage("teacher answers", run.path / ANSWERS):
                answers = teacher_logits(run, teachers, student, data)
        lessons = Lessons(data if rate is None else with_waveforms(prepared, student, rate), answers, live)
        if narrowing is None:
            with stages.stage("distil", run.path / "model.json"):
                trained = lessons.fit(student, run, title="distil")
        else:
            with stages.stage("narrow", run.path / "model.json"):
                narrowed = narrow(narrowing, student, run, lessons, fits)
                trained, plan = narrowed.trained, narrowed.plan
        expected = logits(trained, data.validation.features)
        deployed, outcomes = quantized(
            trained,
            run,
            data,
            expected,
            calibration=calibration,
            wide=wide,
            settings=qat,
            max_drop=max_drop,
            stages=stages,
        )
        known = {precision: outcome.answers for precision, outcome in outcomes.items()}
        with stages.stage("write"):
            shutil.rmtree(unverified(run.path), ignore_errors=True)
            answered = {"fp32": expected} | known
            temperatures = {p: calibrated(own, p, data, student) for p, own in answered.items()}
            card = make_card(trained.recipe, outcomes, temperatures, teachers, budget, plan, data, run.path)
            if narrowed is not None:
                card["narrow"] = narrowed.card()
            files = write_files(
                deployed,
                trained,
                data.validation,
                card,
                unverified(run.path),
                budget.bytes,
                expected=expected,
                known=known,
                float16="fp16" in also,
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
            judge(run, files, budget, about)
    return Compressed(run, trained, list(teachers), files, budget, outcomes, temperatures, narrowed)


def _write_plan(run: Run, stated: dict[str, Any]) -> None:
    file = run.path / "plan.json"
    if file.is_file():
        try:
            found = json.loads(file.read_text(encoding="utf-8"))["identity"]
        except (ValueError, KeyError, TypeError):
            raise InputError(f"{file}: damaged; delete {run.path} or name another folder with --run") from None
        if found != stated["identity"]:
            raise InputError(f"{run.path}: holds another compression; name another folder with --run")
    elif (run.path / "recipe.yaml").is_file():
        raise InputError(f"{run.path}: holds a training run, no compression; name another folder with --run")
    write_atomic(file, json.dumps(stated, indent=1))


def _hash(*parts: str) -> str:
    return hashlib.blake2b("\n".join(parts).encode(), digest_size=16).hexdigest()
