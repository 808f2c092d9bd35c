"""`tinyasc export`: a run's model as ONNX, TFLite or C."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import click

from tinyasc.compress.c_output import write_c
from tinyasc.compress.export import FORMATS, NO_FRONT_END, PRECISIONS, C, export, export_c
from tinyasc.errors import InputError
from tinyasc.files import write_atomic
from tinyasc.frontend_device import BOARD_ARITHMETICS
from tinyasc.infer.find import newest_model
from tinyasc.infer.run_folder import main_precision
from tinyasc.training.run import relative
from tinyasc_export.c99 import CSource
from tinyasc_export.rounding import ROUNDINGS


@click.command("export")
@click.argument("model", metavar="[RUN | FILE]", required=False, type=click.Path(path_type=Path))
@click.option("--to", type=click.Choice((*FORMATS, C)), default="tflite", show_default=True, help="Format.")
@click.option(
    "--precision",
    type=click.Choice(PRECISIONS),
    help="fp16 stores float16 weights; int16x8 has 16-bit activations and 8-bit weights [default: the one that the run "
    "was made for].",
)
@click.option(
    "--output",
    "-o",
    metavar="FILE",
    type=click.Path(path_type=Path),
    help="Where to write [default: model-PRECISION.FORMAT in the run's folder]; for C a folder [model-PRECISION-c], "
    "whose name the C names begin with.",
)
@click.option(
    "--rounding",
    type=click.Choice(tuple(ROUNDINGS)),
    help="Of C: tflite gives the bits of the .tflite file in TensorFlow Lite Micro, single takes fewer instructions "
    "[default: tflite].",
)
@click.option(
    "--front-end",
    type=click.Choice((*BOARD_ARITHMETICS, NO_FRONT_END)),
    help="Of C: samples to features in float32 (device), in integers for processors without a floating-point unit "
    "(fixed), or the net alone (none) [default: device].",
)
@click.option(
    "--window-hop",
    metavar="FRAMES",
    type=click.IntRange(min=1),
    help="Of C: frames from one scored window to the next [default: half a window].",
)
@click.option(
    "--force",
    is_flag=True,
    help="Overwrite a file that holds something else; of a folder of C, also "
    "remove what an earlier export wrote and this one does not.",
)
def command(
    model: Path | None,
    to: str,
    precision: str | None,
    output: Path | None,
    rounding: str | None,
    front_end: str | None,
    window_hop: int | None,
    force: bool,
) -> None:
    """Write a model as ONNX, TFLite or C in a precision of your choice.

    Takes a run folder or a model file in one; by default the newest compression of ./runs. Teachers, which no
    microcontroller format holds, are written by torch.onnx.export and labelled so (--to onnx --precision fp32).
    C is a folder of C99 for microcontrollers: int16 samples in, logits out, without a library or a heap.

    \b
    Examples:
      tinyasc export --to onnx --precision int8
      tinyasc export runs/esc10-teacher-1a2b3c4d --to onnx --precision fp32 -o teacher.onnx
      tinyasc export --to c -o firmware/scenes
      tinyasc export --to c --front-end fixed --window-hop 16 -o firmware/scenes
    """  # noqa: D301 (click reads the backspace)
    if model is None:
        model = newest_model(Path(".")).parent
        click.echo(f"run: {model} (newest compression in ./runs)", err=True)
    precision = precision or main_precision(model if model.is_dir() else model.absolute().parent)
    if to == C:
        arithmetic = front_end or BOARD_ARITHMETICS[0]
        if arithmetic == NO_FRONT_END and window_hop is not None:
            raise InputError("--window-hop needs a front end; leave out --front-end none")
        how = {"front_end": arithmetic, "window_hop": window_hop}
        _write_c(*export_c(model, precision, rounding or "tflite", output, **how), force)
        return
    for option, value in (("rounding", rounding), ("front-end", front_end), ("window-hop", window_hop)):
        if value is not None:
            raise InputError(f"--{option} is for --to c; a {to} file leaves it to its runtime")
    data, default = export(model, to, precision)
    path = output or default
    if path.is_dir():
        raise InputError(f"{path}: is a folder; name a file with --output")
    if output is None and not force and _written_by_compress(path):
        click.echo(f"{path}: there already, as `tinyasc compress` wrote it", err=True)
        return
    if path.is_file() and not force and path.read_bytes() != data:
        raise InputError(f"{path}: is there and holds another model; give --force, or another name with --output")
    write_atomic(path, data)
    click.echo(f"written: {relative(path)} ({len(data):,} bytes)")


def _write_c(source: CSource, folder: Path, force: bool) -> None:
    if folder.exists() and not folder.is_dir():
        raise InputError(f"{folder}: is a file; C is written into a folder, name one with --output")
    there = sorted(p.name for p in folder.iterdir()) if folder.is_dir() else []
    same = all((folder / n).is_file() and (folder / n).read_bytes() == t.encode() for n, t in source.files.items())
    if there and not same and not force:
        raise InputError(f"{folder}: is there and holds other files; give --force, or another name with --output")
    written = write_c(folder, source)
    if written.removed:
        click.echo(f"removed, of an earlier export: {', '.join(written.removed)}", err=True)
    if written.left:
        click.echo(f"note: left in {relative(folder)}, not of this export: {', '.join(written.left)}", err=True)
    click.echo(
        f"written: {relative(folder)} ({len(source.files)} files; arena {source.arena_bytes:,} bytes, "
        f"constants {source.constant_bytes:,} bytes"
        + (f", front end and frames {source.state_bytes:,} bytes)" if source.state_bytes else ")")
    )


def _written_by_compress(path: Path) -> bool:
    """Whether the run's report lists this file with the bytes that it has."""
    try:
        files = json.loads((path.parent / "report.json").read_text(encoding="utf-8"))["files"]
        digest = hashlib.blake2b(path.read_bytes(), digest_size=16).hexdigest()
        return any(f["file"] == path.name and f["blake2b"] == digest for f in files)
    except (OSError, ValueError, KeyError, TypeError):
        return False
