"""What the commands that run a model share: paths that have a name, options that have something to do."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import numpy as np

from tinyasc.errors import InputError

if TYPE_CHECKING:
    from tinyasc.infer.runner import Model


class NamedPath(click.Path):
    """A path that is not the empty text: `Path("")` is the current folder, and `"$UNSET"` does not mean that."""

    def convert(self, value: str | os.PathLike[str], param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """The path; the empty text is refused."""
        if not os.fspath(value):
            self.fail("the name is empty; name a file or a folder", param, ctx)
        return super().convert(value, param, ctx)


model_option = click.option(
    "--model",
    "model_path",
    metavar="FILE|RUN",
    type=NamedPath(path_type=Path),
    help="A .tflite or .onnx file, a .npz graph, a folder of `tinyasc export --to c`, or a run folder of `tinyasc "
    "compress` [default: the newest runs/*/model-int8.tflite, else a bundled one].",
)


def check_exact(exact: bool, model: Model) -> None:
    """Refuses --exact where no kernel is another for it.

    Raises:
        InputError: the model computes in floating point, or is an .onnx file, which takes floats in any precision.
    """
    if exact and model.backend.taken["dtype"] == np.float32:
        raise InputError(f"{model.where}: --exact is for .tflite models of integers, and this one takes floats")
