"""`tinyasc evaluate`: scores of runs and model files on a data set's test clips, and of recipes over folds."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click
import numpy as np

from tinyasc.cli.candidates import FILES
from tinyasc.cli.device_list import shipped_or_own
from tinyasc.cli.fusing import check_group_run, fused
from tinyasc.cli.measuring import SETTINGS, Measured, Settings, compare, measure_all, pool
from tinyasc.cli.table import (
    Row,
    print_comparison,
    print_devices,
    print_folds,
    print_groups,
    print_pooled,
    print_table,
    print_views,
)
from tinyasc.cli.train import with_data
from tinyasc.data.devices import DeviceList, load_device_list
from tinyasc.errors import InputError
from tinyasc.evaluate import summary
from tinyasc.evaluate.predictions import Predictions
from tinyasc.files import check_writable, write_atomic
from tinyasc.infer.find import newest_model
from tinyasc.training.cross_validation import cross_validate, fold_fingerprint
from tinyasc.training.recipe import load_recipe
from tinyasc.training.run import RUNS

REPORT = "evaluation.json"


@click.command("evaluate")
@click.argument("targets", metavar="[RUN | FILE]...", nargs=-1, type=click.Path(path_type=Path))
@click.option(
    "--data",
    "data_name",
    metavar="NAME",
    help="Data set; `tinyasc data list` names them [default: the run's].",
)
@click.option(
    "--root",
    metavar="DIR",
    type=click.Path(),
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
@click.option("--test-fold", type=int, help="Fold that was held out [default: each run's own].")
@click.option(
    "--tta",
    metavar="N",
    type=click.IntRange(min=1),
    default=1,
    show_default=True,
    help="Test-time copies per clip.",
)
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Of the copies.")
@click.option(
    "--against",
    metavar="RUN",
    multiple=True,
    type=click.Path(path_type=Path),
    help="Paired bootstrap against this run, file or folder of answers; repeatable for folds and seeds of one recipe.",
)
@click.option(
    "--fuse",
    metavar="GROUP_RUN",
    type=click.Path(path_type=Path),
    help="Also measure each model joined with a run that was trained on groups of scenes (data.target: group).",
)
@click.option(
    "--devices",
    "device_list",
    metavar="LIST",
    help="Also measure through microphones: a YAML list, or devices/micirp. Seen are those on its train list.",
)
@click.option(
    "--device-root",
    metavar="DIR",
    type=click.Path(path_type=Path, file_okay=False),
    help="The folder of the list's impulse responses.",
)
@click.option(
    "--folds", metavar="RECIPE", help="Cross-validate: train RECIPE once per fold and seed, test it on that fold."
)
@click.option(
    "--seeds", metavar="N", type=click.IntRange(1, 100), default=1, show_default=True, help="Trainings per fold."
)
@click.option(
    "--set",
    "overrides",
    metavar="PART.KEY=VALUE",
    multiple=True,
    help="Overrides one value of --folds RECIPE; repeatable.",
)
@click.option("--fast", is_flag=True, help="Take the quick variants of --folds RECIPE and --like RECIPE.")
@click.option("--like", metavar="RECIPE", help="Take data and front end that --folds RECIPE leaves out from this one.")
@click.option(
    "--run",
    "folder",
    metavar="DIR",
    type=click.Path(path_type=Path, file_okay=False),
    help="Folder of --folds [default: runs/cv-NAME-FINGERPRINT].",
)
@click.option(
    "--out",
    metavar="DIR",
    type=click.Path(path_type=Path, file_okay=False),
    help="Write answers (npz, csv), all scores (json) and plots (png) here; --folds writes them into its own folder.",
)
@click.option("--json", "as_json", is_flag=True, help="One JSON object per model and line, in place of the table.")
def command(
    targets: tuple[Path, ...],
    data_name: str | None,
    root: str | None,
    part: str,
    test_fold: int | None,
    tta: int,
    seed: int,
    against: tuple[Path, ...],
    fuse: Path | None,
    device_list: str | None,
    device_root: Path | None,
    folds: str | None,
    seeds: int,
    overrides: tuple[str, ...],
    fast: bool,
    like: str | None,
    folder: Path | None,
    out: Path | None,
    as_json: bool,
) -> None:
    """Measure models on clips that they were not trained on.

    Without arguments the newest compression of ./runs is measured: its teacher, and its student in float32 and int8.
    A model file that lies in no run needs --data and --root. Integer models run on LiteRT's reference kernels, whose
    answers are a microcontroller's but for a rare unit in a linear layer. Runs of one recipe that differ in fold and
    seed are also scored together. Where a recipe names groups of scenes, the accuracy on these is shown too.
    Intervals and comparisons draw whole recording places, 2000 times.

    \b
    Examples:
      tinyasc evaluate
      tinyasc evaluate runs/esc10-teacher-1a2b3c4d model-int8.tflite --root ESC-50-master --tta 10
      tinyasc evaluate --folds teachers/esc10 --root ESC-50-master --seeds 3
      tinyasc evaluate runs/a --against runs/b
      tinyasc evaluate runs/a --devices devices/micirp --device-root MICIRP
    """  # noqa: D301 (click reads the backspace)
    settings = Settings(part, test_fold, tta, seed, *_devices(device_list, device_root))
    # Said before minutes of measuring, or hours of training.
    for target in against:
        if not target.exists():
            raise InputError(f"--against {target}: no such run or model file")
    if fuse is not None:
        check_group_run(fuse)
        if device_list is not None:
            raise InputError("--fuse: joins answers to clips as they are; leave --devices out")
    if out is not None:
        check_writable(out, "--out")
    if folds is None:
        if given := [name for name, value in (("--set", overrides), ("--like", like), ("--run", folder)) if value]:
            raise InputError(f"{given[0]}: goes with --folds RECIPE alone")
        if fast:
            raise InputError("--fast: goes with --folds RECIPE")
        if seeds > 1:
            raise InputError("--seeds: goes with --folds RECIPE; for several seeds of trained runs name the runs")
        if not targets:
            run = newest_model(Path(".")).parent
            click.echo(f"run: {run} (newest compression in ./runs)", err=True)
            targets = (run,)
        measured = measure_all(targets, data_name, root, settings)
        if fuse is not None:
            measured += fused(measured, fuse, data_name, root, settings)
        pooled = pool(measured)
    else:
        if targets or fuse or device_list or test_fold is not None or part != "test" or out is not None:
            raise InputError(
                "--folds: tests every fold of one recipe and writes into --run DIR, so it takes no runs and none of "
                "--split, --test-fold, --fuse, --devices and --out; name its folder to a second `tinyasc evaluate` "
                "for those"
            )
        measured, out = _cross_validate(folds, like, overrides, data_name, root, seeds, folder, settings, fast=fast)
        pooled = []
    # Folds and seeds that are scored together are compared together.
    members = {name for m in pooled for name in m.record["pooled"]}
    apart = [m for m in measured if m.name not in members]
    compared = compare([*apart, *pooled], against, data_name, root, settings) if against else []
    if out is not None:
        _write(out, [*measured, *pooled], compared, flat=folds is not None)
    if as_json:
        for m in [*measured, *pooled]:
            click.echo(json.dumps({"model": m.name, **m.record}))
        for line in compared:
            click.echo(json.dumps(line))
    else:
        _print(measured, pooled, compared, settings)
    if out is not None:
        click.echo(f"written: {out}", err=as_json)


def _devices(name: str | None, root: Path | None) -> tuple[DeviceList | None, Path | None]:
    if (name is None) != (root is None):
        raise InputError("--devices LIST and --device-root DIR go together: the list, and the folder of its responses")
    if name is None:
        return None, None
    return load_device_list(shipped_or_own(name)), root


def _cross_validate(
    name: str,
    like: str | None,
    overrides: tuple[str, ...],
    data_name: str | None,
    root: str | None,
    seeds: int,
    folder: Path | None,
    settings: Settings,
    *,
    fast: bool,
) -> tuple[list[Measured], Path]:
    recipe = load_recipe(name, overrides, fast=fast, data=data_name)
    if like is not None:
        other = load_recipe(like, fast=fast, data=data_name)
        recipe = recipe.model_copy(
            update={"data": recipe.data or other.data, "front_end": recipe.front_end or other.front_end}
        )
    recipe = with_data(recipe, data_name, root)
    if recipe.data is not None and recipe.data.validation_fold is not None:
        click.echo(
            f"{name}: its validation fold {recipe.data.validation_fold} is left aside; "
            "each test fold is validated on the next",
            err=True,
        )
    folder = folder or Path(RUNS) / f"cv-{recipe.name}-{fold_fingerprint(recipe) if recipe.data else 'none'}"
    click.echo(f"run: {folder}", err=True)

    def done(found: Predictions) -> None:
        share = float((found.probabilities.argmax(axis=1) == found.labels).mean())
        where = f"fold {found.folds[0]}, seed {found.seeds[0]}"
        click.echo(f"{where}: test accuracy {100 * share:.2f} % of {len(found)} clips", err=True)

    first = recipe.training.seed
    found = cross_validate(
        recipe,
        folder,
        seeds=range(first, first + seeds),
        tta=settings.tta,
        tta_seed=settings.seed,
        done=done,
    )
    assert recipe.data is not None
    record = {
        "data": recipe.data.name,
        "split": "test",
        "tta": settings.tta,
        "seed": settings.seed,
        "recipe": recipe.model_dump(mode="json", exclude={"data": {"root", "test_fold", "validation_fold"}}),
        **summary.evaluate(found),
    }
    return [Measured(folder.name, found, record)], folder


def _write(folder: Path, measured: Sequence[Measured], compared: list[dict[str, Any]], *, flat: bool) -> None:
    """Answers, plots and the one JSON file; each model in a folder of its own, or with `flat` all in one."""
    from tinyasc.evaluate.plots import write_plots, write_views_plot

    for m in measured:
        own = folder if flat else folder / m.name.strip("/").replace("/", "-").replace(" ", "-")
        m.predictions.with_about(m.predictions.about | {key: m.record[key] for key in SETTINGS}).save(own)
        title = f"{m.name} on {m.record.get('data', 'its test clips')}"
        write_plots(m.record, own, title=title)
        if m.views is not None:
            m.views.save_npz(own / "views.npz")
            write_views_plot(m.record["device_views"], own, title=title)
    report = {"models": [{"model": m.name, **m.record} for m in measured], "comparisons": compared}
    write_atomic(folder / REPORT, json.dumps(report, indent=1))


def _print(
    measured: Sequence[Measured], pooled: Sequence[Measured], compared: list[dict[str, Any]], settings: Settings
) -> None:
    clips = {str(name) for m in measured for name in m.predictions.clips}
    data = ", ".join(sorted({str(m.record.get("data", "kept answers")) for m in measured}))
    # Kept answers and those measured now have the same settings.
    tta = measured[0].record["tta"]
    copies = f", mean of {tta} test-time copies (costs x {tta})" if tta > 1 else ""
    synthetic = ", synthetic scenes" if any(m.record.get("synthetic") for m in measured) else ""
    # A cross-validation has a table of its own, and no costs.
    rows = [_row(m) for m in measured if m.candidate is not None or "per_fold" not in m.record]
    if rows:
        print_table(f"{settings.part.capitalize()}, {len(clips)} clips of {data}{synthetic}{copies}", rows)
    for m in measured:
        if "per_fold" in m.record:
            print_folds(m.name, m.record)
    if pooled:
        print_pooled([(m.name, m.record) for m in pooled])
    if grouped := [m for m in measured if "groups" in m.record]:
        print_groups([(m.name, m.record["groups"]) for m in grouped])
    several = [m for m in measured if len(m.record.get("per_device", {})) > 1]
    if several:
        print_devices([(m.name, m.record) for m in several])
    if views := [m for m in [*measured, *pooled] if m.views is not None]:
        print_views([(m.name, m.record["device_views"]) for m in views])
    if compared:
        print_comparison(compared)
    answers = {m.name: m for m in measured}
    for name in answers:
        if name.endswith(FILES[0]):
            for quantized in FILES[1:]:
                _print_drift(answers, name, name.removesuffix(FILES[0]) + quantized)


def _row(m: Measured) -> Row:
    c, verdict = m.candidate, ""
    if c is not None and c.budget is not None:
        met = c.parameter_bytes <= c.budget
        verdict = f"{c.parameter_bytes} of {c.budget} bytes: {'met' if met else 'NOT MET'}"
    intervals = m.record["intervals"]
    return Row(
        m.name,
        c.parameters if c else None,
        c.parameter_bytes if c else None,
        c.quantization_bytes if c else 0,
        c.file_bytes if c else None,
        c.macs if c else None,
        m.record["accuracy"],
        m.record["log_loss"],
        verdict,
        interval=tuple(intervals["accuracy"]) if intervals else None,
    )


def _print_drift(answers: dict[str, Measured], float_name: str, quantized_name: str) -> None:
    """What quantisation changed, when both of a student's files were measured."""
    if quantized_name not in answers:
        return
    fp32, quantized = answers[float_name], answers[quantized_name]
    top = [m.predictions.probabilities.argmax(axis=1) for m in (fp32, quantized)]
    change = quantized.record["log_loss"] - fp32.record["log_loss"]
    click.echo(
        f"{quantized_name} agrees with float32 in top-1 on {int(np.sum(top[0] == top[1]))} of {len(top[0])} clips; "
        f"log loss moves by {change:+.4f}"
    )
