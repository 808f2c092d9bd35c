"""A model that the user named, by its file or by the run folder that holds it. Imports the edge half only."""

from __future__ import annotations

from pathlib import Path

import click

from tinyasc.infer.run_folder import model_in
from tinyasc.printable import printable


def named_model(path: Path, backend: str = "auto") -> Path:
    """The model file that is meant; where a run was named, its file is said on standard error.

    Raises:
        InputError: a folder that leaves open which.
    """
    model = model_in(path, backend)
    if model != path:
        click.echo(f"model: {printable(str(model))} (of the run)", err=True)
    return model
