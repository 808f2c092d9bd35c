"""`tinyasc compress`: from trained teachers to files that hold a budget."""

from __future__ import annotations

from pathlib import Path

import click

from tinyasc.cli.narrowing import narrowing_table
from tinyasc.compress.budget import parse_budget
from tinyasc.compress.pipeline import compress
from tinyasc.compress.teachers import front_ends_differ, load_teachers
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
@click.option("--fast", is_flag=True, help="Take the student's quick variant, for two cores.")
def command(
    budget_text: str,
    folders: tuple[Path, ...],
    student: str | None,
    overrides: tuple[str, ...],
    root: str | None,
    folder: Path | None,
    importance: str | None,
    fast: bool,
) -> None:
    """Distil trained models into a student that holds a budget, quantise it, and write its files.

    Several teachers may be of any families and front ends, trained on the same clips. Data and front end that the
    student's recipe leaves out are the first one's. Its distill part says how they teach: distill.ensemble joins
    logits or probabilities, distill.teacher_on: augmented lets them answer every augmented batch.

    The student is as wide as its recipe says, or narrower until its int8 parameters hold the budget. Written are
    model-int8.tflite, model-fp32.tflite, model-fp32.onnx and report.json. A budget that cannot be met is refused before
    anything is trained. The same command run again resumes where it was killed.

    \b
    Examples:
      tinyasc compress --budget 128KB
      tinyasc compress --budget 32kB --teacher runs/esc10-teacher-1a2b3c4d --set training.epochs=300
      tinyasc compress --teacher runs/cnn --teacher runs/resnet --set distill.ensemble=probabilities
      tinyasc compress --budget 64KB --narrow magnitude --set narrow.from_width=96
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
    recipe = load_recipe(name, overrides, fast=fast)
    if recipe.front_end is None and front_ends_differ(teachers):
        click.echo(
            f"front end: {runs[0].path}'s, since the teachers' differ (--set front_end... names another)", err=True
        )
    done = compress(teachers, recipe, budget, root=root, folder=folder)
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
    click.echo(f"written: {relative(done.run.path)}")
