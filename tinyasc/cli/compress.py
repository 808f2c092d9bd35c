"""`tinyasc compress`: from trained teachers to files that hold a budget."""

from __future__ import annotations

import math
from pathlib import Path

import click

from tinyasc.cli.narrowing import narrowing_table
from tinyasc.cli.planning import announce_plan, check_picture, print_plan, student_recipes
from tinyasc.cli.searching import print_search, print_search_plan, search_settings
from tinyasc.cli.table import print_frontier
from tinyasc.compress import micro
from tinyasc.compress.drop import MAX_DROP, said
from tinyasc.compress.estimate import estimate
from tinyasc.compress.frontier import frontier_table, write_frontier
from tinyasc.compress.limits import BITS, DEFAULT_BUDGET, DEFAULT_RAM, parse_limits
from tinyasc.compress.pipeline import ALSO, compress, make_plan
from tinyasc.compress.proxy import METRICS
from tinyasc.compress.rules import shipped_rules
from tinyasc.compress.searching import run_search
from tinyasc.compress.teachers import front_ends_differ, load_teachers
from tinyasc.compress.temperature import Temperature
from tinyasc.errors import InputError
from tinyasc.files import InUseError
from tinyasc.training.run import Run, newest_teacher, relative
from tinyasc_firmware_sim.boards import shipped_boards


def _names(option: str) -> str:
    """The shipped boards or rules; read when help is printed."""
    return (
        ", ".join(x.key for x in shipped_boards()) if option == "board" else ", ".join(x.name for x in shipped_rules())
    )


@click.command("compress")
@click.option(
    "--budget",
    metavar="SIZE",
    help="Limit on the bytes of all parameters: 128KB (1024 each), 128kB (1000 each), 131072, 0.125MB, or none "
    f"[default: {DEFAULT_BUDGET}, unless --flash, --board or --rule limits the model].",
)
@click.option(
    "--flash", metavar="SIZE", help="Limit on the bytes of the .tflite file; the runtime's code is not in it."
)
@click.option(
    "--ram",
    metavar="SIZE",
    help="Limit on the RAM: planned arena, the front end's state, and 4 KB set aside for the stack; or none "
    f"[default: {DEFAULT_RAM}, an STM32U575's, unless --board].",
)
@click.option(
    "--macs",
    metavar="NUMBER",
    help="Limit on multiply-accumulates per second of sound, times the copies of --tta: 30M, 30MMAC, 30000000.",
)
@click.option(
    "--latency",
    metavar="TIME",
    help="Limit on the time of one answer on --board, times the copies of --tta, front end not included: 200ms, 0.2s. "
    "Estimated from a table of what our C kernels cost on its core; the written net is then built and its instructions "
    "are counted on the emulated core, where pip install 'tinyasc[firmware]' is.",
)
@click.option("--tta", "copies", metavar="N", type=int, default=1, help="Test-time copies per clip that are planned.")
@click.option("--board", metavar="NAME", help=f"A board's flash and RAM as limits: {_names('board')}.")
@click.option("--rule", metavar="NAME", help=f"A challenge's rule, as it counts: {_names('rule')}.")
@click.option(
    "--bits",
    type=click.Choice(BITS),
    default="8",
    show_default=True,
    help="Of activations: 8 is int8, 16 is int16x8; auto takes int16x8 where the chosen "
    "student holds every limit so too.",
)
@click.option(
    "--family",
    metavar="NAME",
    help="The student's family (sepconv-ca, amfm, cp-mobile, ...) by its shipped recipe, or auto: of all families the "
    "one that keeps most of its recipe's size, with a smaller front end where a limit forces it.",
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
@click.option("--dry-run", is_flag=True, help="Print plan, predicted costs and estimated time; write nothing.")
@click.option(
    "--frontier",
    metavar="FILE.png",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Count more widths; print parameters, MACs and RAM of all, and draw them (a .json lies beside the picture).",
)
@click.option(
    "--search",
    "trials",
    metavar="N",
    type=click.IntRange(min=1),
    help="Train N students that hold the limits for a few epochs, the plan's first, and take the best. N counts those "
    "of all workers: the same command on other machines shares the work.",
)
@click.option(
    "--storage",
    metavar="FILE|URL",
    help="Where the workers of a search meet: a file, or sqlite:///search.db, postgresql://... [default: "
    "search/journal.log in the run folder].",
)
@click.option(
    "--search-epochs",
    metavar="E",
    type=click.IntRange(min=1),
    help="Epochs of each training of the search [default: a tenth of the recipe's, at least 3].",
)
@click.option(
    "--search-metric",
    type=click.Choice(METRICS),
    help=f"On validation clips, to compare by [default: {METRICS[0]}].",
)
def command(
    budget: str | None,
    flash: str | None,
    ram: str | None,
    macs: str | None,
    latency: str | None,
    copies: int,
    board: str | None,
    rule: str | None,
    bits: str,
    family: str | None,
    folders: tuple[Path, ...],
    student: str | None,
    overrides: tuple[str, ...],
    root: str | None,
    folder: Path | None,
    importance: str | None,
    also: tuple[str, ...],
    max_drop: float,
    fast: bool,
    dry_run: bool,
    frontier: Path | None,
    trials: int | None,
    storage: str | None,
    search_epochs: int | None,
    search_metric: str | None,
) -> None:
    """Distil trained models into a student that holds every limit, quantise it, and write its files.

    Several teachers may be of any families and front ends, trained on the same clips. Data and front end that the
    student's recipe leaves out are the first one's. Its distill part says how they teach: distill.ensemble joins
    logits or probabilities, distill.teacher_on: augmented lets them answer every augmented batch.

    The student is as wide as its recipe says, or narrower until all limits hold: bytes of parameters, of the file, of
    RAM, MACs per second, a board's memory, latency on it, a challenge's rule. Written are model-int8.tflite (with
    --bits 16 model-int16x8.tflite), model-fp32.tflite, model-fp32.onnx and report.json, after every file was loaded
    again in each runtime that takes it and answered as it must. Limits that no student can hold are refused before
    anything is trained. The same command run again resumes where it was killed.

    \b
    Examples:
      tinyasc compress --budget 128KB
      tinyasc compress --budget 32kB --teacher runs/esc10-teacher-1a2b3c4d --set training.epochs=300
      tinyasc compress --board arduino-nano-33-ble-sense --macs 30M --family auto --dry-run
      tinyasc compress --latency 200ms --board stm32l4r5
      tinyasc compress --rule dcase2024-t1 --bits auto --frontier frontier.png
      tinyasc compress --teacher runs/cnn --teacher runs/resnet --set distill.ensemble=probabilities
      tinyasc compress --budget 64KB --narrow magnitude --set narrow.from_width=96
      tinyasc compress --also fp16 --max-drop 0.5
      tinyasc compress --board nucleo-u575zi-q --family auto --search 12 --run runs/search
    """  # noqa: D301 (click reads the backspace)
    limits = parse_limits(
        budget=budget,
        flash=flash,
        ram=ram,
        macs=macs,
        latency=latency,
        board=board,
        rule=rule,
        copies=copies,
        bits=bits,
    )
    if not math.isfinite(max_drop):
        raise InputError(f"--max-drop {max_drop}: give a number of points, for example 1")
    if frontier is not None:
        check_picture(frontier)
    runs = [Run(path) for path in folders] or [newest_teacher(Path("."))]
    if not folders:
        click.echo(f"teacher: {runs[0].path} (newest in ./runs)", err=True)
    teachers = load_teachers(runs)
    if importance is not None:
        # Last, so that no --set of the whole part undoes it.
        overrides = (*overrides, f"narrow.importance={importance}")
    students = student_recipes(teachers[0], student, family, overrides, fast=fast)
    if any(recipe.front_end is None for recipe in students) and front_ends_differ(teachers):
        click.echo(
            f"front end: {runs[0].path}'s, since the teachers' differ (--set front_end... names another)", err=True
        )
    planned = make_plan(
        teachers,
        students,
        limits,
        bits=bits,
        change_front_end=family == "auto",
        frontier=frontier is not None,
        search=trials is not None,
        root=root,
        also=also,
    )
    settings = search_settings(planned, trials, search_epochs, search_metric, storage)
    if settings is not None and not dry_run:
        announce_plan(planned)
        planned = run_search(planned, settings, storage, folder, lambda line: click.echo(line, err=True))
        print_search(planned)
    if frontier is not None:
        searched = planned.searched
        points = frontier_table(planned.solution, None if searched is None else searched.accuracies(planned.solution))
        if searched is None:
            print_frontier(points)
        for file in write_frontier(points, limits, frontier, () if searched is None else searched.results):
            click.echo(f"frontier: {relative(file)}", err=True)
    if dry_run:
        time = estimate(planned.solution.chosen.recipe, planned.teachers[0])
        if settings is not None:
            print_search_plan(planned, settings, time)
        print_plan(planned, time)
        return
    if settings is None:
        announce_plan(planned)
    try:
        done = compress(planned, folder=folder, frontier=frontier is not None, max_drop=max_drop)
    except InUseError as error:
        if settings is None:
            raise
        click.echo(f"the search is done; the best student is trained by another worker ({error})")
        return
    fp32, product = next(f for f in done.files if f.precision == "fp32"), done.product
    synthetic = " (synthetic scenes)" if done.student.synthetic else ""
    of = f" of {limits.budget.bytes:,}" if limits.budget else ""
    click.echo(
        f"{product.precision}: {product.counts.parameter_bytes:,}{of} bytes of parameters{': met' if of else ''}; "
        f"file {product.counts.file_bytes:,} bytes, {product.counts.macs / 1e6:.2f} MMAC per clip"
    )
    for check in product.checks:
        if check.name != "budget":
            click.echo(check.words())
    if product.on_board is not None:
        click.echo(f"{product.on_board.board.name}: {product.on_board.about}")
    scores = [
        f"{f.precision} {100 * f.validation['accuracy']:.2f} %, log loss {f.validation['log_loss']:.3f}"
        for f in (fp32, product)
    ]
    if done.narrowed is not None:
        for line in narrowing_table(done.narrowed):
            click.echo(line)
    held_out = "" if not done.student.recipe.training.final else ", which were trained on"
    click.echo(f"validation, {int(product.validation['clips'])} clips{held_out}{synthetic}: {'; '.join(scores)}")
    for line in said(done.outcomes):
        click.echo(line)
    click.echo(f"{product.precision}: {_calibration(done.temperatures[product.precision])}")
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
