"""What `tinyasc evaluate` measures: the models of runs, compressions and files, with their costs."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import click
import pydantic

from tinyasc.compress.deploy import OVER_BUDGET
from tinyasc.errors import InputError
from tinyasc.infer.quiet import quiet_stderr
from tinyasc.infer.runner import Model, load
from tinyasc.training.backend import group_model, torch_model
from tinyasc.training.count import parameters_and_macs
from tinyasc.training.cross_validation import fold_fingerprint, fold_runs
from tinyasc.training.heard import Heard
from tinyasc.training.recipe_parts import Data
from tinyasc.training.run import Run
from tinyasc.training.start import heard_by
from tinyasc_export.tflite import constant_bytes
from tinyasc_export.tflite_metadata import IDENTIFIER

FILES = ("model-fp32.tflite", "model-int8.tflite", "model-int16x8.tflite")


@dataclass(frozen=True)
class Candidate:
    """One model to measure: what data it was trained on, its costs and, where it has one, its budget in bytes.

    `system` is equal for models that differ in nothing but fold and seed; `groups` is the model's head for groups of
    scenes, where it has one.
    """

    name: str
    path: Path
    model: Model
    trained_on: dict[str, Any]
    parameters: int
    parameter_bytes: int
    quantization_bytes: int
    file_bytes: int | None
    macs: int | None
    budget: int | None = None
    seed: int = 0
    system: str = field(default="", repr=False)
    heard: Heard | None = field(default=None, repr=False)
    groups: Model | None = field(default=None, repr=False)

    def data(self, base: Data, test_fold: int | None, part: str) -> Data:
        """The data set to measure it on: its own folds, unless the command line names one, devices and classes.

        Raises:
            InputError: a fold or validation clips that it was trained on, or a file that does not say its folds, or not
                rightly.
        """
        trained = self.trained_on
        if trained.get("name") != base.name:
            if base.test_fold is None and part == "test":
                raise InputError(f"{base.name}: none of its clips are tested (data.test_fold: null); name --test-fold")
            return base
        own = {key: trained.get(key) for key in ("test_fold", "validation_fold")}
        if "test_fold" in trained and own["test_fold"] is None and part == "test":
            raise InputError(
                f"{self.name}: was trained on every fold of {base.name} (data.test_fold: null), so none is a test for "
                "it; measure it on another data set with --data and --root, or its recipe with --folds"
            )
        if "test_fold" not in trained:
            raise InputError(f"{self.name}: does not say which fold of {base.name} was held out; export it again")
        if test_fold is not None and test_fold != own["test_fold"]:
            raise InputError(
                f"{self.name}: was trained with test fold {own['test_fold']} of {base.name} held out, so "
                f"fold {test_fold} is no test for it; leave --test-fold out, and measure other folds' runs apart"
            )
        if part == "validation" and trained.get("trained_on_validation_clips"):
            raise InputError(
                f"{self.name}: was trained on the validation clips too (training.final), so they say nothing of it; "
                "leave --split validation out"
            )
        own |= {key: trained[key] for key in ("groups", "target", "devices", "leave_out") if key in trained}
        try:
            return Data.model_validate(base.model_dump() | own)
        except pydantic.ValidationError:
            raise InputError(f"{self.name}: what it says of its data cannot be read; export it again") from None

    @property
    def devices_heard(self) -> set[str]:
        """Devices of its training clips, among them impulse responses by file name; "" where some are not known."""
        return set(map(str, self.trained_on.get("devices_heard", [""])))


def base_data(targets: tuple[Path, ...], name: str | None, root: str | None, test_fold: int | None) -> Data:
    """The data set to measure on: what the first run or file says, changed by the command line.

    Raises:
        InputError: a target that is not there, or a file whose data is not known.
    """
    for target in targets:
        if not target.exists():
            raise InputError(f"{target}: no such run or model file")
    first = targets[0] if targets[0].is_dir() else targets[0].parent
    folder = next(iter(fold_runs(first)), first)
    data = None
    if targets[0].is_dir() or (folder / "model.json").is_file():
        data = Run(folder).load().recipe.data
    elif name is None:
        raise InputError(f"{targets[0]}: lies in no run, so its data is not known here; name it with --data and --root")
    if data is None or (name is not None and name != data.name):
        data = Data(name=name or "demo")
    where = None if root is None else str(Path(root).expanduser().absolute())
    changes = {"root": where, "test_fold": test_fold}
    return data.model_copy(update={k: v for k, v in changes.items() if v is not None})


def candidates(target: Path, *, named: bool) -> list[Candidate]:
    """The models of a run, a compression, a cross-validation or a file; with `named` each bears its run's name.

    Raises:
        InputError: nothing there that is finished, or damaged files.
    """
    if target.is_file():
        return [_file(target, str(target), None)]
    if runs := fold_runs(target):
        return [_run(run, f"{target.name}/{run.name}") for run in runs]
    file = target / "plan.json"
    reported = (target / "report.json").is_file()
    if not file.is_file() and not reported:
        return [_run(target, str(target.name))]
    if not reported:
        raise InputError(f"{target}: this compression is not finished; run the same `tinyasc compress` again")
    try:
        plan = json.loads(file.read_text(encoding="utf-8"))
        budget = None if plan["budget"] is None else int(plan["budget"]["bytes"])
        teachers = [Path(path) for path in plan["teachers"]]
        main = str(plan["plan"].get("precision", "int8"))
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        raise InputError(f"{file}: missing or damaged; compress again, into another folder with --run") from None
    prefix = f"{target.name}/" if named else ""
    found = []
    for teacher in teachers:
        if Run(teacher).finished:
            name = "teacher" if len(teachers) == 1 else f"teacher {teacher.name}"
            found.append(_run(teacher, f"{prefix}{name}"))
        else:
            click.echo(f"{target}: its teacher is no longer at {teacher}, so it is left out", err=True)
    product = f"model-{main}.tflite"
    over = (target / OVER_BUDGET.format(main)).is_file() and not (target / product).is_file()
    names = (FILES[0], OVER_BUDGET.format(main) if over else product)
    return found + [_file(target / name, prefix + name, budget if name != names[0] else None) for name in names]


def _run(folder: Path, name: str) -> Candidate:
    trained = Run(folder).load()
    parameters, macs = parameters_and_macs(trained)
    assert trained.recipe.data is not None, "a trained run's recipe has data"
    about = trained.recipe.data.model_dump() | {"trained_on_validation_clips": trained.recipe.training.final}
    if (heard := heard_by(folder)) is not None:
        about["devices_heard"] = list(heard.train_devices)
    return Candidate(
        name,
        folder,
        torch_model(trained),
        about,
        parameters,
        4 * parameters,
        0,
        None,
        macs,
        seed=trained.recipe.training.seed,
        heard=heard,
        system=f"run {fold_fingerprint(trained.recipe)}",
        groups=group_model(trained),
    )


def _file(path: Path, name: str, budget: int | None) -> Candidate:
    with quiet_stderr():
        model = load(path, exact=True)
    card = {key: value for key, value in model.card.items() if key in ("counts", "data") and isinstance(value, dict)}
    counts = card.get("counts", {})
    content = path.read_bytes()
    # A budget is held against what the file stores, whatever its card says.
    stored = constant_bytes(content) if content[4:8] == IDENTIFIER else counts.get("parameter_bytes", 0)
    same = [path.name, *(model.card.get(key) for key in ("precision", "recipe", "model", "budget", "quantization"))]
    seed = model.card.get("seed", 0)
    trained_on = card.get("data", {})
    heard = Heard.load(path.parent)
    if heard is not None and heard.digest == trained_on.get("split_blake2b"):
        trained_on = trained_on | {"root": (Run(path.parent).record()["recipe"].get("data") or {}).get("root")}
        heard = heard.trained_on(bool(trained_on.get("trained_on_validation_clips")))
    else:
        heard = None  # the file lies in another model's run, or in none
    return Candidate(
        name,
        path,
        model,
        trained_on,
        counts.get("parameters", 0),
        stored,
        counts.get("quantization_bytes", 0),
        len(content),
        counts.get("macs"),
        budget,
        seed=seed if isinstance(seed, int) else 0,
        system=json.dumps(same, sort_keys=True, default=str),
        heard=heard,
    )
