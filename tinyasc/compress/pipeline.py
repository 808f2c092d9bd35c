"""compress: teacher outputs, width, distillation, files, verdict. A killed run resumes."""

from __future__ import annotations

import hashlib
import importlib.metadata
import io
import json
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from tinyasc.compress.budget import Budget
from tinyasc.compress.deploy import Written, deploy, write_files, write_graphs
from tinyasc.compress.qat import quantization_aware
from tinyasc.compress.solver import Plan, solve
from tinyasc.errors import InputError, TinyascError
from tinyasc.files import write_atomic
from tinyasc.training.distributed import world_size
from tinyasc.training.features import Prepared, prepare
from tinyasc.training.fit import fit, logits
from tinyasc.training.heard import Heard
from tinyasc.training.recipe import Recipe
from tinyasc.training.recipe_parts import Qat
from tinyasc.training.run import RUNS, Run, Trained
from tinyasc.training.start import heard_by
from tinyasc.training.waveforms import with_waveforms
from tinyasc_export.calibration import METHODS


class OverBudgetError(TinyascError):
    """The written model breaks its budget; the best attempt is kept, labelled."""


@dataclass(frozen=True)
class Compressed:
    """What `compress` leaves: the run, the trained student, the files and the verdict's numbers."""

    run: Run
    student: Trained
    teacher: Trained
    files: list[Written]
    budget: Budget


def compress(
    teacher_run: Run, student: Recipe, budget: Budget, *, root: str | None = None, folder: Path | None = None
) -> Compressed:
    """Distils a trained teacher into a student that holds the budget, quantises it and writes its files.

    Args:
        teacher_run: a finished training run.
        student: the student's recipe; parts that it leaves out are the teacher's.
        budget: on the bytes of the int8 graph's constants.
        root: the data's folder, when it is not where the teacher's recipe says.
        folder: the run's folder; by default runs/NAME-BUDGET-FINGERPRINT.

    Raises:
        InputError: an impossible budget, other data, a run folder in use, several processes.
        OverBudgetError: the written model breaks the budget.
    """
    if world_size() > 1:
        raise InputError("compress runs in one process; start it without torchrun")
    teacher = teacher_run.load()
    student = _complete(student, teacher.recipe, root)
    data_part, front_end = student.data, student.front_end
    assert data_part is not None and front_end is not None, "a teacher's recipe has both"
    plan = solve(student, front_end.record(), len(teacher.labels), budget)
    student = student.model_copy(update={"model": student.model | {plan.option: plan.width}})
    data = with_waveforms(prepare(data_part, front_end.record()), student)
    # The student learns from what its teacher heard.
    data = replace(data, heard=data.heard.joined(heard_by(teacher.path) or Heard()))
    if data.labels != teacher.labels:
        raise InputError(
            f"{teacher.path}: the teacher knows {_some(teacher.labels)}, the data has {_some(data.labels)}; "
            "use the data that it was trained on"
        )
    # Quantisation-aware training starts from the trained student, so it is no part of that training's identity.
    qat, calibration = student.qat, student.calibration
    student = student.model_copy(update={"qat": None, "calibration": Recipe.model_fields["calibration"].default})
    identity = _hash(student.fingerprint(), _file_hash(teacher.path / "model.safetensors"), str(budget.bytes))
    run = Run(folder or Path(RUNS) / f"{student.name}-{budget.text.replace(' ', '')}-{identity[:8]}")
    with run.locked():
        stated = {
            "identity": identity,
            "teacher": str(teacher.path.absolute()),
            "budget": asdict(budget),
            "plan": asdict(plan),
        }
        _write_plan(run, stated)
        answers = _teacher_logits(run, teacher, student, data)
        trained = fit(student, run, data, teacher=answers, title="distil")
        deployed = deploy(trained, data.train.features, calibration)
        if qat is not None:
            graph = quantization_aware(deployed, trained, qat, run, data)
            deployed = replace(deployed, **{f"{qat.precision}_graph": graph})
        card = _card(student, qat, calibration, teacher, budget, plan, data, run.path)
        write_graphs(deployed, trained, card, run.path)
        files = write_files(deployed, trained, data.validation, card, run.path, budget.bytes)
        _judge(run, files, budget)
    return Compressed(run, trained, teacher, files, budget)


def _complete(student: Recipe, teacher: Recipe, root: str | None) -> Recipe:
    """The student's recipe with what it leaves out taken from the teacher's.

    Raises:
        InputError: other sets of clips than the teacher's, whose training clips would then be tested on.
    """
    assert teacher.data is not None, "a teacher's recipe has data"
    data = student.data or teacher.data
    if data.model_copy(update={"root": None}) != teacher.data.model_copy(update={"root": None}):
        raise InputError(
            f"{student.name}: its data part is not the teacher's ({teacher.data}); leave it out of the student's recipe"
        )
    if root is not None:
        data = data.model_copy(update={"root": str(Path(root).expanduser().absolute())})
    taken = {
        "data": data,
        "front_end": student.front_end or teacher.front_end,
        "decision_weights": student.decision_weights or teacher.decision_weights,
    }
    return student.model_copy(update=taken)


def _teacher_logits(run: Run, teacher: Trained, student: Recipe, data: Prepared) -> np.ndarray:
    """The teacher's logits on the clean clips that the student is trained on, computed once and cached.

    A teacher that is conditioned on the recording device is told the true one; the student never is.
    """
    file = run.path / "teacher_logits.npy"
    if file.is_file():
        try:
            cached = np.load(file, allow_pickle=False)
        except (ValueError, EOFError):
            cached = np.empty(0)  # damaged: computed again
        if cached.shape == (len(data.trained_on(student.training.final).labels), len(data.labels)):
            return cached
    assert student.data is not None
    same = data.front_end == teacher.front_end
    seen = data if same else prepare(student.data, teacher.front_end)
    final = student.training.final
    devices = [clip.device for clip in seen.split.trained_on(final)]
    answers = logits(teacher, seen.trained_on(final).features, devices)
    buffer = io.BytesIO()
    np.save(buffer, answers, allow_pickle=False)
    write_atomic(file, buffer.getvalue())
    return answers


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


def _card(
    student: Recipe,
    qat: Qat | None,
    calibration: str,
    teacher: Trained,
    budget: Budget,
    plan: Plan,
    data: Prepared,
    folder: Path,
) -> dict[str, Any]:
    heard = Heard.load(folder)
    assert student.data is not None and heard is not None, "a student has data, and `fit` says what it heard"
    return {
        "tinyasc": importlib.metadata.version("tinyasc"),
        "model": student.model,
        "recipe": student.name,
        "seed": student.training.seed,
        "weights_blake2b": _file_hash(folder / "model.safetensors"),
        **student.decision_card(),
        "data": {
            "name": student.data.name,
            "synthetic": data.synthetic,
            "test_fold": student.data.test_fold,
            "validation_fold": student.data.validation_fold,
            "train_clips": len(data.train.labels),
            "validation_clips": len(data.validation.labels),
            "trained_on_validation_clips": student.training.final,
            **heard.about(student.training.final),
        },
        "teacher": {"model": teacher.recipe.model, "recipe": teacher.recipe.name},
        "budget": {"text": budget.text, "bytes": budget.bytes, "parameter_bytes_int8": plan.parameter_bytes},
        "quantization": {
            precision: {
                "how": f"per-channel weights, {ranges} on training clips",
                "qat_epochs": qat.epochs if qat and qat.precision == precision else 0,
            }
            | ({"qat": qat.model_dump()} if qat and qat.precision == precision else {})
            for precision, ranges in (("int8", METHODS[calibration].about), ("int16x8", METHODS["minmax"].about))
        },
    }


def _judge(run: Run, files: list[Written], budget: Budget) -> None:
    """Writes report.json; refuses a model over its budget, whose file says so in its name."""
    int8 = next(f for f in files if f.precision == "int8")
    met = int8.counts.parameter_bytes <= budget.bytes
    report = {
        "budget": asdict(budget) | {"parameter_bytes": int8.counts.parameter_bytes, "met": met},
        "files": [
            {
                "file": f.path.name,
                "precision": f.precision,
                "blake2b": _file_hash(f.path),
                "parameters": f.counts.parameters,
                "parameter_bytes": f.counts.parameter_bytes,
                "quantization_bytes": f.counts.quantization_bytes,
                "file_bytes": f.counts.file_bytes,
                "macs": f.counts.macs,
                "validation": f.validation,
            }
            for f in files
        ],
    }
    write_atomic(run.path / "report.json", json.dumps(report, indent=1))
    if not met:
        raise OverBudgetError(
            f"{int8.path}: {int8.counts.parameter_bytes} bytes of parameters, over the budget "
            f"of {budget.bytes}; kept under that name"
        )


def _hash(*parts: str) -> str:
    return hashlib.blake2b("\n".join(parts).encode(), digest_size=16).hexdigest()


def _file_hash(file: Path) -> str:
    return hashlib.blake2b(file.read_bytes(), digest_size=16).hexdigest()


def _some(labels: tuple[str, ...]) -> str:
    return f"{len(labels)} labels ({', '.join(labels[:3])}, ...)"
