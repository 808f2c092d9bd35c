"""`tinyasc export`: a run's model as ONNX or TFLite."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import click

from tinyasc.compress.export import FORMATS, PRECISIONS, export
from tinyasc.errors import InputError
from tinyasc.files import write_atomic
from tinyasc.infer.find import newest_model
from tinyasc.training.run import relative


@click.command("export")
@click.argument("model", metavar="[RUN | FILE]", required=False, type=click.Path(path_type=Path))
@click.option("--to", type=click.Choice(FORMATS), default="tflite", show_default=True, help="File format.")
@click.option(
    "--precision",
    type=click.Choice(PRECISIONS),
    default="int8",
    show_default=True,
    help="fp16 stores float16 weights; int16x8 has 16-bit activations and 8-bit weights.",
)
@click.option(
    "--output",
    "-o",
    metavar="FILE",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Where to write [default: model-PRECISION.FORMAT in the run's folder].",
)
@click.option("--force", is_flag=True, help="Overwrite a file that holds something else.")
def command(model: Path | None, to: str, precision: str, output: Path | None, force: bool) -> None:
    """Write a model as ONNX or TFLite in a precision of your choice.

    Takes a run folder or a model file in one; by default the newest compression of ./runs. Teachers, which no
    microcontroller format holds, are written by torch.onnx.export and labelled so (--to onnx --precision fp32).

    \b
    Examples:
      tinyasc export --to onnx --precision int8
      tinyasc export runs/esc10-teacher-1a2b3c4d --to onnx --precision fp32 -o teacher.onnx
    """  # noqa: D301 (click reads the backspace)
    if model is None:
        model = newest_model(Path(".")).parent
        click.echo(f"run: {model} (newest compression in ./runs)", err=True)
    data, default = export(model, to, precision)
    path = output or default
    if output is None and not force and _written_by_compress(path):
        click.echo(f"{path}: there already, as `tinyasc compress` wrote it", err=True)
        return
    if path.is_file() and not force and path.read_bytes() != data:
        raise InputError(f"{path}: is there and holds another model; give --force, or another name with --output")
    write_atomic(path, data)
    click.echo(f"written: {relative(path)} ({len(data):,} bytes)")


def _written_by_compress(path: Path) -> bool:
    """Whether the run's report lists this file with the bytes that it has."""
    try:
        files = json.loads((path.parent / "report.json").read_text(encoding="utf-8"))["files"]
        digest = hashlib.blake2b(path.read_bytes(), digest_size=16).hexdigest()
        return any(f["file"] == path.name and f["blake2b"] == digest for f in files)
    except (OSError, ValueError, KeyError, TypeError):
        return False
