"""`tinyasc infer`: names the scene of clips. Imports the edge half only."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import click

from tinyasc.cli.answer_text import as_text
from tinyasc.cli.named_model import named_model
from tinyasc.cli.options import NamedPath, check_exact, model_option
from tinyasc.errors import InputError
from tinyasc.infer.backends.base import ARITHMETICS, OUTPUTS
from tinyasc.infer.backends.choose import AUTO, BACKENDS
from tinyasc.infer.batch import Answer, Job, answers
from tinyasc.infer.clips import find_clips, read_list
from tinyasc.infer.find import default_model
from tinyasc.infer.quiet import quiet_stderr
from tinyasc.infer.records import as_record
from tinyasc.infer.runner import Model
from tinyasc.infer.tta import CHANGES, parse_tta
from tinyasc.infer.windows import AGGREGATES, check_hop
from tinyasc.printable import printable


@click.command("infer")
@click.argument("clips", metavar="CLIP...", nargs=-1, type=NamedPath(path_type=Path))
@click.option(
    "--list",
    "list_file",
    metavar="FILE",
    type=NamedPath(path_type=Path, allow_dash=True),
    help="More clips and folders: a text file with one path a line, - for standard input.",
)
@model_option
@click.option(
    "--backend",
    type=click.Choice(BACKENDS),
    default=AUTO,
    show_default=True,
    help="auto: litert for .tflite, onnx for .onnx, reference for .npz, c for a folder of C, and no other; reference "
    "(numpy, exact, slow) also takes a .tflite file beside its graph; c compiles the folder with cc, gcc, clang or zig "
    "and runs it, so it has to be of someone you trust.",
)
@click.option(
    "--arithmetic",
    type=click.Choice(ARITHMETICS),
    default=ARITHMETICS[0],
    show_default=True,
    help="What computes features: the file's own front end, or a board's in float32 (device) or integers (fixed), to "
    "the bit; these two for int8 and int16x8.",
)
@click.option(
    "--tta",
    metavar="N[:CHANGES]|PRESET",
    default="1",
    help="Average copies of each clip: N, itself and then random rolls and crops by turns, or other turns such as "
    f"8:shift+gain,crop (of {', '.join(CHANGES)}); s4-30, 30 shifted and masked copies; s2-3crop, windows at the "
    "start, middle and end of a longer clip. Costs as many times the time.",
)
@click.option(
    "--all-copies",
    is_flag=True,
    help="Hear every copy; else no more once the rest cannot change the likeliest class, whose probability may then be "
    "another.",
)
@click.option(
    "--window-hop",
    metavar="SECONDS",
    type=float,
    help="From one window of a long clip to the next [default: half a window].",
)
@click.option(
    "--aggregate",
    type=click.Choice(AGGREGATES),
    default=AGGREGATES[0],
    show_default=True,
    help="Of windows: their mean, each class's largest, or the share of windows that a class wins.",
)
@click.option("--seed", metavar="S", type=click.IntRange(min=0), default=0, show_default=True, help="Of the copies.")
@click.option(
    "--top", metavar="K", type=click.IntRange(min=1), default=3, show_default=True, help="Classes to show in text."
)
@click.option(
    "--exact",
    is_flag=True,
    help="Reference kernels for .tflite models of integers: a microcontroller's answers, 15 times slower.",
)
@click.option("--json", "as_json", is_flag=True, help="One JSON object per clip and line.")
@click.option(
    "--out",
    metavar="FILE",
    type=NamedPath(path_type=Path),
    help="Write the answers to a .csv or .jsonl file; where it is there already, go on with it.",
)
@click.option(
    "--workers",
    metavar="N",
    type=click.IntRange(min=1),
    default=1,
    show_default=True,
    help="Processes; the order of the answers stays that of the clips.",
)
@click.option(
    "--front-end",
    metavar="FILE",
    type=NamedPath(path_type=Path),
    help="For a model file without a card: its front end, JSON as `tinyasc show --front-end` prints it.",
)
@click.option(
    "--labels",
    metavar="FILE|A,B,C",
    help="For a model file without a card: its classes in their order, one a line of a file or with commas between.",
)
@click.option(
    "--outputs",
    type=click.Choice(OUTPUTS),
    default=OUTPUTS[0],
    show_default=True,
    help="For a model file without a card: what it gives.",
)
@click.pass_context
def command(
    ctx: click.Context,
    clips: tuple[Path, ...],
    list_file: Path | None,
    model_path: Path | None,
    backend: str,
    arithmetic: str,
    tta: str,
    all_copies: bool,
    window_hop: float | None,
    aggregate: str,
    seed: int,
    top: int,
    exact: bool,
    as_json: bool,
    out: Path | None,
    workers: int,
    front_end: Path | None,
    labels: str | None,
    outputs: str,
) -> None:
    """Name the scene of audio clips.

    CLIP is an audio file of any rate and channels, or a folder, which is searched for wav, flac, ogg and mp3.
    A clip shorter than the model's input is padded with silence; of a longer one, windows that overlap by
    half are averaged. However long it is, no more of it is held than some windows.

    A clip that cannot be read is reported on standard error, the others are answered, and the exit code is 2.

    With --out, such a clip has a row that says so. A command that was killed is run again and goes on where it
    stopped; clips that have a row are not answered again, those with an error neither: remove such rows to have
    them tried again. A clip is known by its path as it was named, so run it in the same folder.

    \b
    Examples:
      tinyasc infer clip.wav
      tinyasc infer --model model-int8.tflite --tta 8 street.flac recordings/
      tinyasc infer --model runs/esc10-student-1a2b3c4d clip.wav
      tinyasc infer --backend reference --tta s4-30 clip.wav
      tinyasc infer --backend c --arithmetic device --model firmware/scenes clip.wav
      tinyasc infer --window-hop 1 --aggregate max night.flac
      tinyasc infer --json recordings/ > scenes.jsonl
      tinyasc infer --workers 4 --out scenes.csv recordings/
      find . -name '*.flac' -print0 | tinyasc infer --list - --out scenes.csv
      tinyasc infer --model other.tflite --front-end front-end.json --labels airport,bus,park clip.wav
    """  # noqa: D301 (click reads the backspace)
    ctx.with_resource(quiet_stderr())
    if not clips and list_file is None:
        raise click.UsageError("Missing argument 'CLIP...'", ctx)
    predicting = _asked(tta, seed, all_copies, window_hop, aggregate)
    if as_json and ctx.get_parameter_source("top") is not click.core.ParameterSource.DEFAULT:
        raise click.UsageError("--top is for text: --json prints every class", ctx)
    if out is not None:
        _check_out(ctx, out)
    if model_path is None:
        model_path, which = default_model(Path("."))
        click.echo(f"model: {printable(str(model_path))} ({which})", err=True)
    else:
        model_path = named_model(model_path, backend)
    loading = {"exact": exact, "backend": backend, **_described(front_end, labels, outputs)}
    if arithmetic != ARITHMETICS[0]:  # left out where rows of before it was there have to go on
        loading["arithmetic"] = arithmetic
    job = Job(model_path, loading, predicting)
    model = job.load()
    check_exact(exact, model)
    named = [*clips, *(read_list(list_file) if list_file is not None else [])]
    complaints: list[str] = []
    paths = find_clips(named, complaints.append)
    for line in complaints:
        click.echo(f"error: {printable(line)}", err=True)
    if out is not None:
        failed = _write(out, job, model, paths, workers)
    else:
        failed = 0
        for answer in _answers(job, model, paths, workers, show=not sys.stdout.isatty()):
            if answer.prediction is None:
                failed += 1
            elif as_json:
                record = as_record(answer.path, answer.prediction, model_path)
                click.echo(json.dumps(record | {"milliseconds": round(answer.milliseconds, 3)}))
            else:
                click.echo(as_text(answer.path, answer.prediction, top, answer.milliseconds))
    if failed or complaints:
        ctx.exit(InputError.exit_code)


def _check_out(ctx: click.Context, out: Path) -> None:
    from tinyasc.infer.answer_file import check_name

    check_name(out)
    for name in ("as_json", "top"):
        if ctx.get_parameter_source(name) is not click.core.ParameterSource.DEFAULT:
            option = "--json" if name == "as_json" else "--top"
            raise click.UsageError(f"{option} says how answers are printed, and --out writes them to a file", ctx)


def _asked(tta: str, seed: int, all_copies: bool, window_hop: float | None, aggregate: str) -> dict[str, Any]:
    """The options of one clip's answer, as `predict_file` takes them; plain values."""
    try:
        parse_tta(tta)
        check_hop(window_hop)
    except InputError as error:
        raise click.UsageError(str(error)) from None
    return {
        "tta": tta,
        "seed": seed,
        "stop_early": not all_copies,
        "window_hop": window_hop,
        "aggregate": aggregate,
    }


def _described(front_end: Path | None, labels: str | None, outputs: str) -> dict[str, Any]:
    """What `load` is told of a file without a card; nothing where no option says any of it."""
    if front_end is None and labels is None and outputs == OUTPUTS[0]:
        return {}
    from tinyasc.infer.foreign import read_front_end, read_labels

    return {
        "front_end": None if front_end is None else read_front_end(front_end),
        "labels": None if labels is None else read_labels(labels),
        "outputs": outputs,
    }


def _write(out: Path, job: Job, model: Model, paths: list[Path], workers: int) -> int:
    """Appends to a file what it lacks; returns how many of its rows are errors."""
    from tinyasc.infer.answer_file import open_answers

    with open_answers(out, model.labels, job) as file:
        before, todo = len(file.done), [path for path in paths if str(path) not in file.done]
        for answer in _answers(job, model, todo, workers, show=True):
            file.write(answer)
        there = f", {before:,} of them from before" if before else ""
        errors = f", {file.errors:,} of them errors" if file.errors else ""
        plural = "" if len(file.done) == 1 else "s"
        click.echo(f"written: {printable(str(out))} ({len(file.done):,} clip{plural}{there}{errors})")
        return file.errors


def _answers(job: Job, model: Model, paths: list[Path], workers: int, *, show: bool) -> Iterator[Answer]:
    """The answers, while errors are said and progress is shown on standard error."""
    progress = None
    if show and len(paths) > 1:
        from tinyasc.cli.progress import Progress

        progress = Progress(len(paths))
    try:
        # Closed here, so that no process is left where the loop ends early.
        with closing(answers(job, model, paths, workers=workers)) as found:
            for answer in found:
                if progress:
                    progress.clear()
                if answer.error:
                    click.echo(f"error: {printable(answer.error)}", err=True)
                yield answer
                if progress:
                    progress.step(error=bool(answer.error))
    finally:
        if progress:
            progress.clear()
