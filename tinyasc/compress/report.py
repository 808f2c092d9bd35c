"""What a compression says of itself: the card in its files, report.json, and the verdict on its budget."""

from __future__ import annotations

import importlib.metadata
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np

from tinyasc.compress.deploy import Written
from tinyasc.compress.drop import Outcome
from tinyasc.compress.limits import Limits
from tinyasc.compress.plan import Plan
from tinyasc.compress.rules import weight_types
from tinyasc.compress.teachers import weights_hash
from tinyasc.compress.temperature import Temperature
from tinyasc.compress.verify import versions
from tinyasc.errors import TinyascError
from tinyasc.files import file_hash, write_atomic
from tinyasc.training.features import Prepared
from tinyasc.training.heard import Heard
from tinyasc.training.recipe import Recipe
from tinyasc.training.run import Run, Trained


class OverBudgetError(TinyascError):
    """The written model breaks a limit; the best attempt is kept, labelled."""


def make_card(
    student: Recipe,
    outcomes: Mapping[str, Outcome],
    temperatures: Mapping[str, Temperature],
    teachers: Sequence[Trained],
    limits: Limits,
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
        **_budget_card(limits, plan),
        "limits": [asdict(limit) for limit in limits.limits],
        **({"rule": limits.rule.name} if limits.rule else {}),
        "quantization": {precision: outcome.card() for precision, outcome in outcomes.items()},
        "temperatures": {precision: t.card() for precision, t in temperatures.items()},
        "runtimes": versions(),
    }


def about_run(
    card: Mapping[str, Any], outcomes: Mapping[str, Outcome], max_drop: float, final: bool, data_hash: str
) -> dict[str, Any]:
    """What report.json says of the run beside its files: how they came about, seeds, hashes, versions."""
    heard = ", which were trained on: it measures rounding and no generalisation" if final else ""
    return {
        "seed": card["seed"],
        "weights_blake2b": card["weights_blake2b"],
        "data_blake2b": data_hash,
        "split_blake2b": card["data"]["split_blake2b"],
        "quantization": {
            "measured_on": f"the {card['data']['validation_clips']} validation clips{heard}",
            "max_drop": max_drop,
            **{precision: outcome.report() for precision, outcome in outcomes.items()},
        },
        "temperatures": card["temperatures"],
        "runtimes": card["runtimes"],
    }


def judge(
    run: Run, files: list[Written], limits: Limits, main: str = "int8", about: Mapping[str, Any] = MappingProxyType({})
) -> None:
    """Writes report.json, with more `about` the run; refuses a main model that breaks a limit, named so by its file."""
    product = next(f for f in files if f.precision == main)
    size, budget = product.counts.parameter_bytes, limits.budget
    report = {
        "precision": main,
        "budget": None if budget is None else asdict(budget) | {"parameter_bytes": size, "met": size <= budget.bytes},
        "checks": [asdict(check) for check in product.checks],
        "files": [
            {
                "file": f.path.name,
                "precision": f.precision,
                "blake2b": file_hash(f.path),
                "parameters": f.counts.parameters,
                "parameter_bytes": f.counts.parameter_bytes,
                "parameters_x_width": f.counts.parameters * max(np.dtype(t).itemsize for t in weight_types(f.graph)),
                "quantization_bytes": f.counts.quantization_bytes,
                "file_bytes": f.counts.file_bytes,
                "macs": f.counts.macs,
                "validation": f.validation,
                **({} if f.on_board is None else {"on_board": f.on_board.report()}),
                **f.verified,
            }
            for f in files
        ],
        **about,
    }
    write_atomic(run.path / "report.json", json.dumps(report, indent=1))
    broken = [check for check in product.checks if not check.met]
    if broken:
        numbers = "; ".join(
            f"{check.value} {check.what}, over the limit of {check.limit} ({check.origin})" for check in broken
        )
        raise OverBudgetError(f"{product.path}: {numbers}; kept under that name")


def _budget_card(limits: Limits, plan: Plan) -> dict[str, Any]:
    if limits.budget is None:
        return {}
    return {"budget": asdict(limits.budget) | {f"parameter_bytes_{plan.precision}": plan.parameter_bytes}}
