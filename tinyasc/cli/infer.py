"""`tinyasc infer`: names the scene of clips. Imports the edge half only."""

from __future__ import annotations

import json
import os
import shutil
import sys
import time
from pathlib import Path
from typing import Any

import click

from tinyasc.errors import InputError
from tinyasc.infer.backends.choose import AUTO, BACKENDS
from tinyasc.infer.backends.litert_backend import quiet_stderr
from tinyasc.infer.find import default_model
from tinyasc.infer.longclips import predict_file
from tinyasc.infer.runner import Prediction, load
from tinyasc.infer.tta import CHANGES, parse_tta
from tinyasc.infer.windows import AGGREGATES, check_hop

SUFFIXES = (".wav", ".flac", ".ogg", ".mp3")
LONGEST_BAR = 40
EIGHTHS = " ▏▎▍▌▋▊▉█"


@click.command("infer")
@click.argument("clips", metavar="CLIP...", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option(
    "--model",
    "model_path",
    metavar="FILE",
    type=click.Path(path_type=Path),
    help="A .tflite or .onnx file, or a .npz graph [default: the newest runs/*/model-int8.tflite, else a bundled one].",
)
@click.option(
    "--backend",
    type=click.Choice(BACKENDS),
    default=AUTO,
    show_default=True,
    help="auto: litert for .tflite, onnx for .onnx, reference for .npz, and no other; reference (numpy, exact, slow) "
    "also takes a .tflite file beside its graph.",
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
@click.option("--top", metavar="K", type=click.IntRange(min=1), default=3, show_default=True, help="Classes to show.")
@click.option(
    "--exact",
    is_flag=True,
    help="Reference kernels for integer models: a microcontroller's answers, 15 times slower.",
)
@click.option("--json", "as_json", is_flag=True, help="One JSON object per clip and line.")
@click.pass_context
def command(
    ctx: click.Context,
    clips: tuple[Path, ...],
    model_path: Path | None,
    backend: str,
    tta: str,
    all_copies: bool,
    window_hop: float | None,
    aggregate: str,
    seed: int,
    top: int,
    exact: bool,
    as_json: bool,
) -> None:
    """Name the scene of audio clips.

    CLIP is an audio file of any rate and channels, or a folder, which is searched for wav, flac, ogg and mp3.
    A clip shorter than the model's input is padded with silence; of a longer one, windows that overlap by
    half are averaged. However long it is, no more of it is held than some windows.

    A clip that cannot be read is reported on standard error, the others are answered, and the exit code is 2.

    \b
    Examples:
      tinyasc infer clip.wav
      tinyasc infer --model model-int8.tflite --tta 8 street.flac recordings/
      tinyasc infer --backend reference --tta s4-30 clip.wav
      tinyasc infer --window-hop 1 --aggregate max night.flac
      tinyasc infer --json recordings/ > scenes.jsonl
    """  # noqa: D301 (click reads the backspace)
    how = _asked(tta, seed, all_copies, window_hop, aggregate)
    if model_path is None:
        model_path, which = default_model(Path("."))
        click.echo(f"model: {model_path} ({which})", err=True)
    with quiet_stderr():
        model = load(model_path, exact=exact, backend=backend)
    failed = False
    for clip in clips:
        try:
            paths = audio_files(clip)
        except InputError as error:
            failed = True
            click.echo(f"error: {error}", err=True)
            continue
        for path in paths:
            start = time.perf_counter()
            try:
                prediction = predict_file(model, path, **how)
            except InputError as error:
                failed = True
                click.echo(f"error: {error}", err=True)
                continue
            milliseconds = 1000 * (time.perf_counter() - start)
            if as_json:
                click.echo(json.dumps(as_record(path, model_path, prediction, milliseconds)))
            else:
                click.echo(as_text(path, prediction, top, milliseconds))
    if failed:
        ctx.exit(InputError.exit_code)


def audio_files(clip: Path) -> list[Path]:
    """The clip itself, or the audio files below a folder in the order of their names, hidden ones left out.

    Raises:
        InputError: a folder without any.
    """
    if not clip.is_dir():
        return [clip]
    found = [
        Path(folder, name)
        for folder, _, names in os.walk(clip)
        for name in names
        if name.lower().endswith(SUFFIXES) and not name.startswith(".")
    ]
    if not found:
        raise InputError(f"{clip}: this folder holds no wav, flac, ogg or mp3 file")
    return sorted(found)


def as_record(path: Path, model_path: Path, prediction: Prediction, milliseconds: float) -> dict[str, Any]:
    """One clip's answer as plain JSON values."""
    (label, _), *_ = prediction.top(1)
    return {
        "path": str(path),
        "model": str(model_path),
        "label": label,
        "probabilities": dict(zip(prediction.labels, prediction.probabilities.tolist(), strict=True)),
        "tta": prediction.copies,
        "tta_planned": prediction.planned,
        "windows": prediction.windows,
        "macs": prediction.macs,
        "milliseconds": round(milliseconds, 3),
    }


def as_text(path: Path, prediction: Prediction, top: int, milliseconds: float) -> str:
    """One clip's answer for people: a line per class with its share and a bar that is full at 100 %."""
    best = prediction.top(top)
    name_width = max(len(label) for label, _ in best)
    columns = shutil.get_terminal_size().columns
    width = max(1, min(LONGEST_BAR, columns - name_width - 13))
    lines = [str(path)]
    if prediction.windows > 1 or prediction.planned > 1:
        lines[0] += f"  ({_cost(prediction, milliseconds)})"
    for label, share in best:
        lines.append(f"  {label:<{name_width}}  {100 * share:5.1f} %  {bar(share, width)}".rstrip())
    return "\n".join(lines)


def _cost(prediction: Prediction, milliseconds: float) -> str:
    """How many copies and windows an answer took, and what they cost: the network alone, and the whole time."""
    few = prediction.copies < prediction.planned
    copies = f"{prediction.copies} of {prediction.planned} copies, " if few else f"{prediction.copies} copies, "
    parts = copies if prediction.planned > 1 else ""
    parts += f"{prediction.aggregate} of {prediction.windows} windows, "
    if prediction.macs is not None:
        parts += f"{_counted(prediction.macs)}, "
    return f"{parts}{milliseconds:.0f} ms"


def _counted(macs: int) -> str:
    """Multiply-accumulates for people: whole, in millions or in thousands of millions."""
    if macs < 100_000:
        return f"{macs:,} MAC"
    return f"{macs / 1e6:,.1f} MMAC" if macs < 10**9 else f"{macs / 1e9:,.1f} GMAC"


def bar(share: float, width: int) -> str:
    """A bar of `share` of `width` columns in eighths of a block; in '#' where the terminal has no blocks."""
    try:
        EIGHTHS.encode(sys.stdout.encoding or "ascii")
    except UnicodeEncodeError:
        return "#" * round(share * width)
    whole, rest = divmod(round(8 * share * width), 8)
    return EIGHTHS[8] * whole + EIGHTHS[rest].strip()


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
