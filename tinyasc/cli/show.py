"""`tinyasc show`: what a model file says of itself. Imports the edge half only, and no runtime."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

from tinyasc.cli.named_model import named_model
from tinyasc.cli.options import NamedPath
from tinyasc.cli.show_text import as_text
from tinyasc.infer.about import read_about
from tinyasc.infer.backends.base import without_card
from tinyasc.infer.find import default_model
from tinyasc.printable import printable


@click.command("show")
@click.argument("model", metavar="[FILE | RUN]", required=False, type=NamedPath(path_type=Path))
@click.option("--json", "as_json", is_flag=True, help="Everything that the file says, as one JSON object.")
@click.option(
    "--front-end",
    "front_end",
    is_flag=True,
    help="The front end alone, as the JSON file that `tinyasc infer --front-end` takes.",
)
@click.pass_context
def command(ctx: click.Context, model: Path | None, as_json: bool, front_end: bool) -> None:
    """Print what a model file says of itself.

    It is a .tflite or .onnx file, the graph-*.npz of a compression, a folder of `tinyasc export --to c`, or a run
    folder of `tinyasc compress`; by default the newest compression of ./runs, else the model that comes with tinyasc.
    Labels, front end, budget, scores and on what they were measured, data, licence, hashes, how it was made; what the
    file does not say is named. Nothing of it is run, and no runtime needs to be installed.

    \b
    Examples:
      tinyasc show model-int8.tflite
      tinyasc show --front-end model-int8.tflite > front-end.json
      tinyasc show --json runs/esc10-student-1a2b3c4d/model-fp32.onnx
    """  # noqa: D301 (click reads the backspace)
    if as_json and front_end:
        raise click.UsageError("--json and --front-end are two answers; give one of them", ctx)
    if model is None:
        model, which = default_model(Path("."))
        click.echo(f"model: {printable(str(model))} ({which})", err=True)
    else:
        model = named_model(model)
    about = read_about(model)
    if front_end:
        if about.bundle is None:
            raise without_card(str(model))
        click.echo(_one_key_a_line(about.bundle.front_end))
    elif as_json:
        click.echo(json.dumps(about.to_dict()))
    else:
        click.echo(as_text(about))


def _one_key_a_line(record: dict[str, Any]) -> str:
    """JSON whose lists stay on their lines: a normalisation has a number for every band."""
    return "{\n" + ",\n".join(f"  {json.dumps(key)}: {json.dumps(value)}" for key, value in record.items()) + "\n}"
