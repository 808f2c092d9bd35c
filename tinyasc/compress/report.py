"""What a compression says of itself: the card in its files, report.json, and the verdict on its budget."""

from __future__ import annotations

import importlib.metadata
import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from tinyasc.compress.budget import Budget
from tinyasc.compress.deploy import Written
from tinyasc.compress.solver import Plan
from tinyasc.compress.teachers import weights_hash
from tinyasc.errors import TinyascError
from tinyasc.files import file_hash, write_atomic
from tinyasc.training.features import Prepared
from tinyasc.training.heard import Heard
from tinyasc.training.recipe import Recipe
from tinyasc.training.recipe_parts import Qat
from tinyasc.training.run import Run, Trained
from tinyasc_export.calibration import METHODS


class OverBudgetError(TinyascError):
    """The written model breaks its budget; the best attempt is kept, labelled."""


def make_card(
    student: Recipe,
    qat: Qat | None,
    calibration: str,
    teachers: Sequence[Trained],
    budget: Budget,
    plan: Plan,
    data: Prepared,
    folder: Path,
) -> dict[str, Any]:
    """The card of every file of a compression; what differs between them is added by `write_files`."""
    heard = Heard.load(folder)
    assert student.data is not None and heard is not None, "a student has data, and `fit` says what it heard"
    return {
        "tinyasc": importlib.metadata.version("tinyasc"),
        "model": student.model,
        "recipe": student.name,
        "seed": student.training.seed,
        "weights_blake2b": file_hash(folder / "model.safetensors"),
        **student.card(),
        "data": {
            "name": student.data.name,
            "synthetic": data.synthetic,
            "test_fold": student.data.test_fold,
            "validation_fold": student.data.validation_fold,
            "train_clips": len(data.train.labels),
            "validation_clips": len(data.validation.labels),
            "trained_on_validation_clips": student.training.final,
            **({"leave_out": list(student.data.leave_out)} if student.data.leave_out else {}),
            **heard.about(student.training.final),
        },
        "teachers": [
            {"model": t.recipe.model, "recipe": t.recipe.name, "weights_blake2b": weights_hash(t)} for t in teachers
        ],
        "distill": student.distill.model_dump() if student.distill is not None else None,
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


def judge(run: Run, files: list[Written], budget: Budget, more: dict[str, Any]) -> None:
    """Writes report.json, with `more` in it; refuses a model over its budget, whose file says so in its name."""
    int8 = next(f for f in files if f.precision == "int8")
    met = int8.counts.parameter_bytes <= budget.bytes
    report = {
        "budget": asdict(budget) | {"parameter_bytes": int8.counts.parameter_bytes, "met": met},
        "files": [
            {
                "file": f.path.name,
                "precision": f.precision,
                "blake2b": file_hash(f.path),
                "parameters": f.counts.parameters,
                "parameter_bytes": f.counts.parameter_bytes,
                "quantization_bytes": f.counts.quantization_bytes,
                "file_bytes": f.counts.file_bytes,
                "macs": f.counts.macs,
                "validation": f.validation,
            }
            for f in files
        ],
        **more,
    }
    write_atomic(run.path / "report.json", json.dumps(report, indent=1))
    if not met:
        raise OverBudgetError(
            f"{int8.path}: {int8.counts.parameter_bytes} bytes of parameters, over the budget "
            f"of {budget.bytes}; kept under that name"
        )
