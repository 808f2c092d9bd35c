"""The model file of a run folder, where a folder is named in place of a file."""

from __future__ import annotations

import json
import os
from pathlib import Path

from tinyasc.errors import InputError

# The precisions that a compression is made for; each has a graph of its own.
MAIN_PRECISIONS = ("fp32", "int8", "int16x8")
# How `compress` and `export` call a run's model, by the backend that takes it first; C is a folder.
NAMES = {"litert": "model-{}.tflite", "onnx": "model-{}.onnx", "reference": "graph-{}.npz", "c": "model-{}-c"}
C_MARK = "bundle.json"  # in every folder of C that `tinyasc export` wrote
OVER_BUDGET = "-over-budget"  # in the name of what `compress` wrote where a limit was not met
SUFFIXES = (".tflite", ".onnx", ".npz")


def main_precision(folder: Path) -> str:
    """The precision that a compression was made for and measured in; int8 where the folder does not say."""
    try:
        said = json.loads((folder / "report.json").read_text(encoding="utf-8"))["precision"]
    except (OSError, ValueError, KeyError, TypeError):
        return "int8"
    return said if isinstance(said, str) and said in MAIN_PRECISIONS else "int8"


def model_in(path: Path, backend: str = "auto") -> Path:
    """The model file of a run folder of `tinyasc compress`; any other path as it is.

    It is the file of the precision that the run was made for, as `tinyasc export`, `profile` and `simulate` take it:
    the .tflite file, or what the backend that was asked for takes; else the one model that the folder holds. A model
    over its budget is never taken unless it is named.

    Args:
        path: as the user named it; a folder of C, a file, and what is not there come back as they are.
        backend: one of `tinyasc.infer.backends.choose.BACKENDS`.

    Raises:
        InputError: a folder with models of which none is meant, or a run without any; the line names what is there.
    """
    # Unlike `Path.is_dir`, False for what the system will not look at; opening it says why.
    if not os.path.isdir(path) or os.path.exists(path / C_MARK):
        return path
    precision = main_precision(path)
    model = path / NAMES.get(backend, NAMES["litert"]).format(precision)
    product = path / NAMES["litert"].format(precision)
    over = (path / f"{product.stem}{OVER_BUDGET}{product.suffix}").is_file() and not product.is_file()
    if not over and (model.is_file() or (model / C_MARK).is_file()):
        return model
    there = _models(path)
    if len(there) == 1 and OVER_BUDGET not in there[0]:
        return path / there[0]
    if there:
        lacks = product.name if over else model.name
        raise InputError(
            f"{path}: is a folder without {lacks}, and which model in it is meant it does not say; name one of: "
            f"{', '.join(there)}"
        )
    if (path / "recipe.yaml").is_file():
        raise InputError(f"{path}: is a run that holds no deployed model yet; `tinyasc compress` writes one")
    return path


def _models(folder: Path) -> list[str]:
    """Names of all model files and folders of C in a folder."""
    try:
        inside = sorted(folder.iterdir())
    except OSError:
        return []
    return [p.name for p in inside if (p.suffix in SUFFIXES and p.is_file()) or (p / C_MARK).is_file()]
