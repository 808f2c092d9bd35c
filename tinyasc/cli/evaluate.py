"""`tinyasc evaluate`: scores of runs and model files on a data set's test clips."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import numpy as np

from tinyasc.cli.table import Row, print_table
from tinyasc.compress.deploy import OVER_BUDGET
from tinyasc.errors import InputError
from tinyasc.evaluate import metrics
from tinyasc.evaluate.clips import probabilities
from tinyasc.infer.backends.litert_backend import quiet_stderr
from tinyasc.infer.find import newest_model
from tinyasc.infer.runner import Model, load
from tinyasc.training.backend import torch_model
from tinyasc.training.count import parameters_and_macs
from tinyasc.training.features import class_indices, open_data
from tinyasc.training.progress import progress
from tinyasc.training.recipe import Data
from tinyasc.training.run import Run
from tinyasc_export.tflite import constant_bytes
from tinyasc_export.tflite_metadata import IDENTIFIER

FILES = ("model-fp32.tflite", "model-int8.tflite")


@dataclass(frozen=True)
class Candidate:
    """One model to measure: what data it was trained on, its costs and, where it has one, its budget in bytes."""

    name: str
    model: Model
    trained_on: dict[str, Any]
    parameters: int
    parameter_bytes: int
    quantization_bytes: int
    file_bytes: int | None
    macs: int | None
    budget: int | None = None


@click.command("evaluate")
@click.argument("targets", metavar="[RUN | FILE]...", nargs=-1, type=click.Path(path_type=Path))
@click.option(
    "--data",
    "data_name",
    metavar="NAME",
    help="Data set: demo, esc10, esc50 or tau2020 [default: the run's].",
)
@click.option(
    "--root",
    metavar="DIR",
    type=click.Path(file_okay=False),
    help="The data set's folder [default: the run's].",
)
@click.option(
    "--split",
    "part",
    type=click.Choice(["test", "validation"]),
    default="test",
    show_default=True,
    help="Which clips.",
)
@click.option("--test-fold", type=int, help="Fold that was held out [default: the run's].")
@click.option(
    "--tta",
    metavar="N",
    type=click.IntRange(min=1),
    default=1,
    show_default=True,
    help="Test-time copies per clip.",
)
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Of the copies.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object per model and line, in place of the table.")
def command(
    targets: tuple[Path, ...],
    data_name: str | None,
    root: str | None,
    part: str,
    test_fold: int | None,
    tta: int,
    seed: int,
    as_json: bool,
) -> None:
    """Measure models on clips that they were not trained on.

    Without arguments the newest compression of ./runs is measured: its teacher, and its student in float32 and int8.
    A model file that lies in no run needs --data and --root. Integer models run on LiteRT's reference kernels, whose
    answers are a microcontroller's but for a rare unit in a linear layer.

    \b
    Examples:
      tinyasc evaluate
      tinyasc evaluate runs/esc10-teacher-1a2b3c4d model-int8.tflite --root ESC-50-master --tta 10
    """  # noqa: D301 (click reads the backspace)
    if not targets:
        run = newest_model(Path(".")).parent
        click.echo(f"run: {run} (newest compression in ./runs)", err=True)
        targets = (run,)
    data = _data(targets, data_name, root, test_fold)
    candidates = [c for target in targets for c in _candidates(target, named=len(targets) > 1)]
    table, split = open_data(data)
    clips = getattr(split, part)
    rows, answers = [], {}
    for candidate in candidates:
        _refuse_trained_on(candidate, data, part)
        if candidate.model.labels != table.labels:
            raise InputError(
                f"{candidate.name}: its labels are not those of data set {data.name}; name the right one with --data"
            )
        with progress(f"evaluate {candidate.name}") as report:
            p = probabilities(candidate.model, [c.path for c in clips], tta=tta, seed=seed, progress=report)
        scores = metrics.evaluate(p, class_indices(clips, table.labels))
        answers[candidate.name] = p, scores
        if as_json:
            record: dict[str, Any] = {
                "model": candidate.name,
                "data": data.name,
                "synthetic": table.synthetic,
                "split": part,
                "test_fold": data.test_fold,
                "tta": tta,
                "seed": seed,
                "parameters": candidate.parameters,
                "parameter_bytes": candidate.parameter_bytes,
                "file_bytes": candidate.file_bytes,
                "macs": candidate.macs,
            }
            click.echo(json.dumps(record | scores))
        rows.append(_row(candidate, scores))
    if as_json:
        return
    copies = f", mean of {tta} test-time copies (costs x {tta})" if tta > 1 else ""
    synthetic = ", synthetic scenes" if table.synthetic else ""
    print_table(f"{part.capitalize()}, {len(clips)} clips of {data.name}{synthetic}{copies}", rows)
    for name in answers:
        if name.endswith(FILES[0]):
            _print_drift(answers, name, name.removesuffix(FILES[0]) + FILES[1])


def _data(targets: tuple[Path, ...], name: str | None, root: str | None, test_fold: int | None) -> Data:
    """The data set to measure on: what the first run or file says, changed by the command line."""
    for target in targets:
        if not target.exists():
            raise InputError(f"{target}: no such run or model file")
    folder = targets[0] if targets[0].is_dir() else targets[0].parent
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


def _refuse_trained_on(candidate: Candidate, data: Data, part: str) -> None:
    """Refuses to measure a model on clips of its own data set that it was trained on."""
    trained = candidate.trained_on
    folds = (data.test_fold, data.validation_fold)
    if trained.get("name") == data.name and (trained.get("test_fold"), trained.get("validation_fold")) != folds:
        raise InputError(
            f"{candidate.name}: was trained with test fold {trained.get('test_fold')} of {data.name} held out, so "
            f"fold {data.test_fold} is no test for it; leave --test-fold out, and measure other folds' runs apart"
        )
    if part == "validation" and trained.get("name") == data.name and trained.get("trained_on_validation_clips"):
        raise InputError(
            f"{candidate.name}: was trained on the validation clips too (training.final), so they say nothing of it; "
            "leave --split validation out"
        )


def _candidates(target: Path, *, named: bool) -> list[Candidate]:
    """The models of a run or file; with `named` each bears its run's name."""
    if target.is_file():
        return [_file(target, str(target), None)]
    file = target / "plan.json"
    reported = (target / "report.json").is_file()
    if not file.is_file() and not reported:
        return [_run(target, str(target.name))]
    if not reported:
        raise InputError(f"{target}: this compression is not finished; run the same `tinyasc compress` again")
    try:
        plan = json.loads(file.read_text(encoding="utf-8"))
        budget, teacher = int(plan["budget"]["bytes"]), Path(plan["teacher"])
    except (OSError, ValueError, KeyError, TypeError):
        raise InputError(f"{file}: missing or damaged; compress again, into another folder with --run") from None
    prefix = f"{target.name}/" if named else ""
    found = []
    if Run(teacher).finished:
        found.append(_run(teacher, f"{prefix}teacher"))
    else:
        click.echo(f"{target}: its teacher is no longer at {teacher}, so it is left out", err=True)
    over = (target / OVER_BUDGET).is_file() and not (target / FILES[1]).is_file()
    names = (FILES[0], OVER_BUDGET if over else FILES[1])
    return found + [_file(target / name, prefix + name, budget) for name in names]


def _run(folder: Path, name: str) -> Candidate:
    trained = Run(folder).load()
    parameters, macs = parameters_and_macs(trained)
    assert trained.recipe.data is not None, "a trained run's recipe has data"
    about = trained.recipe.data.model_dump() | {"trained_on_validation_clips": trained.recipe.training.final}
    return Candidate(name, torch_model(trained), about, parameters, 4 * parameters, 0, None, macs)


def _file(path: Path, name: str, budget: int | None) -> Candidate:
    with quiet_stderr():
        model = load(path, exact=True)
    card = {key: value for key, value in model.card.items() if key in ("counts", "data") and isinstance(value, dict)}
    counts = card.get("counts", {})
    content = path.read_bytes()
    # A budget is held against what the file stores, whatever its card says.
    stored = constant_bytes(content) if content[4:8] == IDENTIFIER else counts.get("parameter_bytes", 0)
    return Candidate(
        name,
        model,
        card.get("data", {}),
        counts.get("parameters", 0),
        stored,
        counts.get("quantization_bytes", 0),
        len(content),
        counts.get("macs"),
        budget if model.card.get("precision") == "int8" else None,
    )


def _row(c: Candidate, scores: dict[str, float]) -> Row:
    verdict = ""
    if c.budget is not None:
        met = c.parameter_bytes <= c.budget
        verdict = f"{c.parameter_bytes} of {c.budget} bytes: {'met' if met else 'NOT MET'}"
    return Row(
        c.name,
        c.parameters,
        c.parameter_bytes,
        c.quantization_bytes,
        c.file_bytes,
        c.macs,
        scores["accuracy"],
        scores["log_loss"],
        verdict,
    )


def _print_drift(answers: dict[str, tuple[np.ndarray, dict[str, float]]], float_name: str, int8_name: str) -> None:
    """What quantisation changed, when both of a student's files were measured."""
    if int8_name not in answers:
        return
    (fp32, fp32_scores), (int8, int8_scores) = answers[float_name], answers[int8_name]
    same = int((fp32.argmax(axis=1) == int8.argmax(axis=1)).sum())
    change = int8_scores["log_loss"] - fp32_scores["log_loss"]
    click.echo(
        f"{int8_name} agrees with float32 in top-1 on {same} of {len(fp32)} clips; log loss moves by {change:+.4f}"
    )
