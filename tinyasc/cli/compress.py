"""`tinyasc compress`: from trained teachers to files that hold a budget."""

from __future__ import annotations

import math
from pathlib import Path

import click

from tinyasc.cli.narrowing import narrowing_table
from tinyasc.compress import micro
from tinyasc.compress.budget import parse_budget
from tinyasc.compress.drop import MAX_DROP, said
from tinyasc.compress.pipeline import ALSO, compress
from tinyasc.compress.teachers import front_ends_differ, load_teachers
from tinyasc.compress.temperature import Temperature
from tinyasc.errors import InputError
from tinyasc.training.recipe import load_recipe
from tinyasc.training.run import Run, newest_teacher, relative


@click.command("compress")
@click.option(
    "--budget",
    "budget_text",
    metavar="SIZE",
    default="128KB",
    show_default=True,
    help="Limit on the bytes of all int8 parameters: 128KB, 128kB, 131072, 0.125MB.",
)
@click.option(
    "--teacher",
    "folders",
    metavar="RUN",
    type=click.Path(path_type=Path, file_okay=False),
    multiple=True,
    help="A finished training run; repeatable, and their answers are joined [default: the newest of ./runs].",
)
@click.option(
    "--student",
    metavar="RECIPE",
    help="The student's recipe [default: the one that the first teacher's recipe names].",
)
@click.option(
    "--set",
    "overrides",
    metavar="PART.KEY=VALUE",
    multiple=True,
    help="Overrides one value of the student's recipe; repeatable.",
)
@click.option(
    "--root",
    metavar="DIR",
    type=click.Path(),
    help="The data set's folder [default: as in training].",
)
@click.option(
    "--run",
    "folder",
    metavar="DIR",
    type=click.Path(path_type=Path, file_okay=False),
    help="Run folder [default: runs/NAME-BUDGET-FINGERPRINT].",
)
@click.option(
    "--narrow",
    "importance",
    type=click.Choice(["magnitude", "taylor", "bn_scale"]),
    help="Train the student wider and prune it into the budget, least important channels first; the better on "
    "validation clips of that and a dense student of equal size is kept. More with --set narrow.KEY=VALUE.",
)
@click.option(
    "--also",
    metavar="PRECISION",
    type=click.Choice(ALSO),
    multiple=True,
    help="Write model-fp16.tflite (float16 weights) or model-int16x8.tflite too; repeatable: --also fp16.",
)
@click.option(
    "--max-drop",
    metavar="POINTS",
    type=click.FloatRange(min=0),
    default=MAX_DROP,
    show_default=True,
    help="What quantisation alone may lose on validation clips: points of accuracy, and as many hundredths of chance's "
    "log loss, ln(classes). Above it quantisation-aware training runs, and the better one is kept: --max-drop 0.5. A "
    "recipe that sets qat always trains.",
)
@click.option("--fast", is_flag=True, help="Take the student's quick variant, for two cores.")
def command(
    budget_text: str,
    folders: tuple[Path, ...],
    student: str | None,
    overrides: tuple[str, ...],
    root: str | None,
    folder: Path | None,
    importance: str | None,
    also: tuple[str, ...],
    max_drop: float,
    fast: bool,
) -> None:
    """Distil trained models into a student that holds a budget, quantise it, and write its files.

    Several teachers may be of any families and front ends, trained on the same clips. Data and front end that the
    student's recipe leaves out are the first one's. Its distill part says how they teach: distill.ensemble joins
    logits or probabilities, distill.teacher_on: augmented lets them answer every augmented batch.

    The student is as wide as its recipe says, or narrower until its int8 parameters hold the budget. Written are
    model-int8.tflite, model-fp32.tflite, model-fp32.onnx and report.json, after every file was loaded again in each
    runtime that takes it and answered as it must. A budget that cannot be met is refused before anything is trained.
    The same command run again resumes where it was killed.

    \b
    Examples:
      tinyasc compress --budget 128KB
      tinyasc compress --budget 32kB --teacher runs/esc10-teacher-1a2b3c4d --set training.epochs=300
      tinyasc compress --teacher runs/cnn --teacher runs/resnet --set distill.ensemble=probabilities
      tinyasc compress --budget 64KB --narrow magnitude --set narrow.from_width=96
      tinyasc compress --also fp16 --max-drop 0.5
    """  # noqa: D301 (click reads the backspace)
    budget = parse_budget(budget_text)
    runs = [Run(path) for path in folders] or [newest_teacher(Path("."))]
    if not folders:
        click.echo(f"teacher: {runs[0].path} (newest in ./runs)", err=True)
    teachers = load_teachers(runs)
    name = student or teachers[0].recipe.student
    if student is None:
        click.echo(f"student: {name} (default for this teacher)", err=True)
    if importance is not None:
        overrides = (f"narrow.importance={importance}", *overrides)
    if not math.isfinite(max_drop):
        raise InputError(f"--max-drop {max_drop}: give a number of points, for example 1")
    recipe = load_recipe(name, overrides, fast=fast)
    if recipe.front_end is None and front_ends_differ(teachers):
        click.echo(
            f"front end: {runs[0].path}'s, since the teachers' differ (--set front_end... names another)", err=True
        )
    done = compress(teachers, recipe, budget, root=root, folder=folder, also=also, max_drop=max_drop)
    fp32, int8 = (next(f for f in done.files if f.precision == p) for p in ("fp32", "int8"))
    synthetic = " (synthetic scenes)" if done.student.synthetic else ""
    click.echo(
        f"int8: {int8.counts.parameter_bytes:,} of {budget.bytes:,} bytes of parameters: met; "
        f"file {int8.counts.file_bytes:,} bytes, {int8.counts.macs / 1e6:.2f} MMAC per clip"
    )
    scores = [
        f"{f.precision} {100 * f.validation['accuracy']:.2f} %, log loss {f.validation['log_loss']:.3f}"
        for f in (fp32, int8)
    ]
    if done.narrowed is not None:
        for line in narrowing_table(done.narrowed):
            click.echo(line)
    held_out = "" if not done.student.recipe.training.final else ", which were trained on"
    click.echo(f"validation, {int(int8.validation['clips'])} clips{held_out}{synthetic}: {'; '.join(scores)}")
    for line in said(done.outcomes):
        click.echo(line)
    click.echo("int8: " + _calibration(done.temperatures["int8"]))
    if (reason := micro.absent()) is not None:
        click.echo(f"verified in LiteRT and onnxruntime; {micro.NAME}: {reason}")
    else:
        click.echo(f"verified in LiteRT, onnxruntime and {micro.NAME}")
    click.echo(f"written: {relative(done.run.path)}")


def _calibration(t: Temperature) -> str:
    if t.before is None or t.after is None:
        return f"temperature {t.about}"
    key = "expected_calibration_error"
    return (
        f"temperature {t.value:.3f}: calibration error {100 * t.before[key]:.1f} % -> {100 * t.after[key]:.1f} %, "
        f"log loss {t.before['log_loss']:.3f} -> {t.after['log_loss']:.3f}, on the clips that it was fitted on"
    )
