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

from tinyasc.audio import read_audio
from tinyasc.errors import InputError
from tinyasc.infer.find import default_model
from tinyasc.infer.quiet import quiet_stderr
from tinyasc.infer.runner import Model, Prediction, load

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
    help="A .tflite or .onnx file [default: the newest runs/*/model-int8.tflite, else a bundled one].",
)
@click.option(
    "--tta",
    metavar="N",
    type=click.IntRange(min=1),
    default=1,
    help="Average N copies of each clip: itself, then random rolls and crops. Costs N times the time.",
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
    tta: int,
    seed: int,
    top: int,
    exact: bool,
    as_json: bool,
) -> None:
    """Name the scene of audio clips.

    CLIP is an audio file of any rate and channels, or a folder, which is searched for wav, flac, ogg and mp3.
    A clip shorter than the model's input is padded with silence; of a longer one, windows that overlap by
    half are averaged.

    A clip that cannot be read is reported on standard error, the others are answered, and the exit code is 2.

    \b
    Examples:
      tinyasc infer clip.wav
      tinyasc infer --model model-int8.tflite --tta 8 street.flac recordings/
      tinyasc infer --json recordings/ > scenes.jsonl
    """  # noqa: D301 (click reads the backspace)
    ctx.with_resource(quiet_stderr())
    if model_path is None:
        model_path, which = default_model(Path("."))
        click.echo(f"model: {model_path} ({which})", err=True)
    model = load(model_path, exact=exact)
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
                prediction = _predict(model, path, tta, seed)
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
        "windows": prediction.windows,
        "milliseconds": round(milliseconds, 3),
    }


def as_text(path: Path, prediction: Prediction, top: int, milliseconds: float) -> str:
    """One clip's answer for people: a line per class with its share and a bar that is full at 100 %."""
    best = prediction.top(top)
    name_width = max(len(label) for label, _ in best)
    columns = shutil.get_terminal_size().columns
    width = max(1, min(LONGEST_BAR, columns - name_width - 13))
    lines = [str(path)]
    if prediction.windows > 1:
        copies = f"{prediction.copies} copies, " if prediction.copies > 1 else ""
        lines[0] += f"  ({copies}mean of {prediction.windows} windows, {milliseconds:.0f} ms)"
    for label, share in best:
        lines.append(f"  {label:<{name_width}}  {100 * share:5.1f} %  {bar(share, width)}".rstrip())
    return "\n".join(lines)


def bar(share: float, width: int) -> str:
    """A bar of `share` of `width` columns in eighths of a block; in '#' where the terminal has no blocks."""
    try:
        EIGHTHS.encode(sys.stdout.encoding or "ascii")
    except UnicodeEncodeError:
        return "#" * round(share * width)
    whole, rest = divmod(round(8 * share * width), 8)
    return EIGHTHS[8] * whole + EIGHTHS[rest].strip()


def _predict(model: Model, path: Path, tta: int, seed: int) -> Prediction:
    samples = read_audio(path, model.front_end.sample_rate, stereo=model.front_end.stereo)
    try:
        return model.predict(samples, tta=tta, seed=seed)
    except InputError as error:  # of the samples, which know nothing of their file
        raise InputError(f"{path}: {error}") from None
