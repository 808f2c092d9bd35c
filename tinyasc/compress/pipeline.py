"""compress: teacher outputs, width, distillation, files, verdict. A killed run resumes."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from tinyasc.compress.budget import Budget
from tinyasc.compress.deploy import Written, deploy, write_files, write_graphs
from tinyasc.compress.lessons import Lessons
from tinyasc.compress.live import live_teachers, shared_rate
from tinyasc.compress.narrow import Narrowed, narrow, plan_narrowing
from tinyasc.compress.qat import quantization_aware
from tinyasc.compress.report import judge, make_card
from tinyasc.compress.solver import int8_bytes, solve
from tinyasc.compress.teachers import complete, in_order, teacher_logits, weights_hash, with_what_they_heard
from tinyasc.errors import InputError
from tinyasc.files import write_atomic
from tinyasc.training.distributed import world_size
from tinyasc.training.features import prepare
from tinyasc.training.recipe import Recipe
from tinyasc.training.run import RUNS, Run, Trained
from tinyasc.training.waveforms import with_waveforms
from tinyasc_export.graph import Graph


@dataclass(frozen=True)
class Compressed:
    """What `compress` leaves: the run, the trained student, the files and the verdict's numbers."""

    run: Run
    student: Trained
    teachers: list[Trained]
    files: list[Written]
    budget: Budget
    narrowed: Narrowed | None = None


def compress(
    teachers: Sequence[Trained],
    student: Recipe,
    budget: Budget,
    *,
    root: str | None = None,
    folder: Path | None = None,
) -> Compressed:
    """Distils trained teachers into a student that holds the budget, quantises it and writes its files.

    Args:
        teachers: as `load_teachers` gives them.
        student: the student's recipe; parts that it leaves out are the first teacher's.
        budget: on the bytes of the int8 graph's constants.
        root: the data's folder, when it is not where the teachers' recipes say.
        folder: the run's folder; by default runs/NAME-BUDGET-FINGERPRINT.

    Raises:
        InputError: an impossible budget, other data, a run folder in use, several processes.
        OverBudgetError: the written model breaks the budget.
    """
    if world_size() > 1:
        raise InputError("compress runs in one process; start it without torchrun")
    student = complete(student, teachers, root)
    teachers = in_order(teachers)
    data_part, front_end = student.data, student.front_end
    assert data_part is not None and front_end is not None, "a teacher's recipe has both"

    def fits(graph: Graph) -> bool:
        return int8_bytes(graph) <= budget.bytes

    narrowing, narrowed = None, None
    if student.narrow is None:
        plan = solve(student, front_end.record(), len(teachers[0].labels), budget)
        width = plan.width
    else:
        narrowing = plan_narrowing(student, front_end.record(), len(teachers[0].labels), budget, fits)
        plan, width = narrowing.dense, narrowing.from_width
    student = student.model_copy(update={"model": student.model | {plan.option: width}})
    prepared = with_what_they_heard(prepare(data_part, front_end.record()), teachers)
    data = with_waveforms(prepared, student)
    rate, live = None, None
    if student.distill is not None and student.distill.teacher_on == "augmented":
        rate = shared_rate(student, prepared, teachers)
        live = live_teachers(student, prepared, teachers, rate)
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
        }
        _write_plan(run, stated)
        answers = None
        by_gradient = student.narrow is not None and student.narrow.importance == "taylor"
        if student.distill is not None and (live is None or by_gradient):
            answers = teacher_logits(run, teachers, student, data)
        lessons = Lessons(data if rate is None else with_waveforms(prepared, student, rate), answers, live)
        if narrowing is None:
            trained = lessons.fit(student, run, title="distil")
        else:
            narrowed = narrow(narrowing, student, run, lessons, fits)
            trained, plan = narrowed.trained, narrowed.plan
        deployed = deploy(trained, data.train.features, calibration)
        if qat is not None:
            graph = quantization_aware(deployed, trained, qat, run, data)
            deployed = replace(deployed, **{f"{qat.precision}_graph": graph})
        card = make_card(trained.recipe, qat, calibration, teachers, budget, plan, data, run.path)
        if narrowed is not None:
            card["narrow"] = narrowed.card()
        write_graphs(deployed, trained, card, run.path)
        files = write_files(deployed, trained, data.validation, card, run.path, budget.bytes)
        judge(run, files, budget, {} if narrowed is None else {"narrow": narrowed.report()})
    return Compressed(run, trained, teachers, files, budget, narrowed)


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
