"""A run's model as a file of another format or precision, or as C."""

from __future__ import annotations

import copy
import io
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from tinyasc.compress.deploy import OVER_BUDGET
from tinyasc.compress.stored import has_graphs, read_graph
from tinyasc.errors import InputError, TinyascError
from tinyasc.frontend import FrontEnd
from tinyasc.frontend_device import plan_for
from tinyasc.models import FAMILIES
from tinyasc.training.count import parameters_and_macs
from tinyasc.training.heard import Heard
from tinyasc.training.run import Run, Trained
from tinyasc_export.bundle import Bundle
from tinyasc_export.c99 import CSource, complete, to_c, with_front_end
from tinyasc_export.c99.folder import NO_FRONT_END
from tinyasc_export.capture import capture
from tinyasc_export.count import count
from tinyasc_export.graph import Graph
from tinyasc_export.lower import cast, lower
from tinyasc_export.onnx import INPUT_NAME, OUTPUT_NAME, label_onnx, to_onnx
from tinyasc_export.onnx_quantized import SIMULATED
from tinyasc_export.tflite import to_tflite

FORMATS = ("tflite", "onnx")
C = "c"  # a folder, not a file
PRECISIONS = ("fp32", "fp16", "int8", "int16x8")
# Of C99: NAME.h would be found in their place by a build that has the folder in its path of headers.
# fmt: off
C_HEADERS = frozenset({
    "assert", "complex", "ctype", "errno", "fenv", "float", "inttypes", "iso646", "limits", "locale", "math", "setjmp",
    "signal", "stdarg", "stdbool", "stddef", "stdint", "stdio", "stdlib", "string", "tgmath", "time", "wchar", "wctype",
})
# fmt: on
BY_TORCH = "written by torch.onnx.export, not from a deployed graph of tinyasc"


def export(target: Path, to: str, precision: str) -> tuple[bytes, Path]:
    """The bytes of a model file, and where it goes by default.

    Args:
        target: a run folder, or a model file in one.
        to: one of `FORMATS`.
        precision: one of `PRECISIONS`. "fp16" stores float16 weights, "int16x8" computes in 16-bit activations.

    Raises:
        InputError: no run, a precision that this run cannot give, or a model that the format cannot hold.
    """
    folder = target if target.is_dir() else target.absolute().parent
    if not target.exists():
        raise InputError(f"{target}: no such run folder or model file")
    over = "-over-budget" if (folder / OVER_BUDGET.format(precision)).is_file() else ""
    name = folder / f"model-{precision}{over}.{to}"
    if has_graphs(folder):
        stored = read_graph(folder, "fp32" if precision == "fp16" else precision)
        return _written(stored.graph, stored.bundle, to, precision), name
    trained = Run(folder).load()
    if not FAMILIES[trained.recipe.family].capturable:
        return _by_torch(trained, to, precision), name
    if precision not in ("fp32", "fp16"):
        raise InputError(f"{folder}: a training run holds no {precision} graph; run `tinyasc compress` on it first")
    return _written(*_captured(trained), to, precision), name


def export_c(
    target: Path,
    precision: str,
    rounding: str,
    folder: Path | None,
    *,
    front_end: str = "device",
    window_hop: int | None = None,
) -> tuple[CSource, Path]:
    """A compressed run's net as C99, and the folder where it goes.

    Args:
        target: a run folder of `compress`, or a model file in one.
        precision: "int8" or "int16x8".
        rounding: "tflite" or "single".
        folder: where it goes, and whose name the C names begin with; None for `model-PRECISION-c` in the run's folder.
        front_end: arithmetic of the front end that is written beside the net, "device" or "fixed"; "none" for the net
            alone.
        window_hop: frames from one scored window to the next; by default half a window.

    Raises:
        InputError: no run, a run without integer graphs, a net that the C kernels cannot hold, or a front end that C
            cannot take.
    """
    run = target if target.is_dir() else target.absolute().parent
    if not target.exists():
        raise InputError(f"{target}: no such run folder or model file")
    if precision not in ("int8", "int16x8"):
        raise InputError(f"C is written from integer graphs: --precision int8 or int16x8, not {precision}")
    if not has_graphs(run):
        raise InputError(f"{run}: holds no {precision} graph; run `tinyasc compress` on it first")
    stored = read_graph(run, precision)
    over = "-over-budget" if (run / OVER_BUDGET.format(precision)).is_file() else ""
    folder = folder or run / f"model-{precision}{over}-c"
    source = to_c(stored.graph, stored.bundle, name=c_name(folder), rounding=rounding)
    if front_end != NO_FRONT_END:
        try:
            wanted = plan_for(FrontEnd.from_dict(stored.bundle.front_end, str(run)), stored.graph)
        except InputError as error:
            raise InputError(f"{error}, or write the net alone: --front-end none") from None
        source = with_front_end(source, stored.graph, wanted, arithmetic=front_end, window_hop=window_hop)
    bundle = replace(stored.bundle, card=_counted(stored.graph, stored.bundle.card, precision))
    return complete(source, stored.graph, bundle, rounding=rounding, arithmetic=front_end), folder


def c_name(folder: Path) -> str:
    """What the names of C in a folder begin with: the folder's own name, as far as C can hold it.

    A name that is none, that is the kernels' or that would hide a header of C (`time.h`) begins with `net_`.
    """
    name = re.sub(r"[^A-Za-z0-9]+", "_", folder.absolute().name.removesuffix("-c")).strip("_")
    taken = name.lower() in C_HEADERS or name.lower().split("_")[0] == "tinyasc"
    return name if name and name[0].isalpha() and not taken else f"net_{name}"


def _captured(trained: Trained) -> tuple[Graph, Bundle]:
    """The float graph of a student that was trained but not compressed."""
    front_end = trained.front_end
    exact, scale, offset = lower(capture(copy.deepcopy(trained.module).double(), (1, *front_end.shape)))
    bundle = Bundle(trained.labels, front_end.with_normalization(scale, offset).to_dict(), _card(trained))
    return cast(exact, "float32"), bundle


def _card(trained: Trained) -> dict[str, Any]:
    assert trained.recipe.data is not None, "a trained run's recipe has data"
    heard = Heard.load(trained.path)
    return {
        "model": trained.recipe.model,
        "recipe": trained.recipe.name,
        "data": trained.recipe.data.model_dump(exclude={"root"})
        | {"synthetic": trained.synthetic, "trained_on_validation_clips": trained.recipe.training.final}
        | ({} if heard is None else heard.about(trained.recipe.training.final)),
        "validation": trained.validation,
        **trained.recipe.card(),
    }


def _written(graph: Graph, bundle: Bundle, to: str, precision: str) -> bytes:
    card = _counted(graph, bundle.card, precision)
    if precision == "int16x8" and to == "onnx":
        card["runtime"] = SIMULATED
    bundle = replace(bundle, card=card)
    writer: Any = to_onnx if to == "onnx" else to_tflite
    return writer(graph, bundle, weights="float16") if precision == "fp16" else writer(graph, bundle)


def _counted(graph: Graph, card: dict[str, Any], precision: str) -> dict[str, Any]:
    """A graph's card with what a file of that precision holds of it."""
    counts = count(graph)
    about = {n: getattr(counts, n) for n in ("parameters", "parameter_bytes", "quantization_bytes", "macs")}
    if precision == "fp16":
        about["parameter_bytes"] = 2 * counts.parameters
    return card | {"precision": precision, "counts": about}


def _by_torch(trained: Trained, to: str, precision: str) -> bytes:
    """A teacher as torch writes it, labelled so; the deployed graph lacks its operators."""
    family = trained.recipe.family
    if to != "onnx" or precision != "fp32":
        raise InputError(
            f"model family {family} is a teacher, which the deployed graph cannot hold: export it with "
            "--to onnx --precision fp32, or compress it into a student"
        )
    front_end = trained.front_end
    buffer: Any = io.BytesIO()  # the stub knows file names alone
    example = torch.zeros(1, *front_end.shape)
    try:
        # The exporter that needs no package beside torch and onnx.
        torch.onnx.export(
            trained.module,
            (example,),
            buffer,
            dynamo=False,
            input_names=[INPUT_NAME],
            output_names=[OUTPUT_NAME],
        )
    except Exception as error:
        line = next(iter(str(error).strip().splitlines()), type(error).__name__)
        raise TinyascError(f"{trained.path}: torch.onnx.export cannot write it: {line}") from error
    parameters, macs = parameters_and_macs(trained)
    counts = {"parameters": parameters, "parameter_bytes": 4 * parameters, "quantization_bytes": 0, "macs": macs}
    card = _card(trained) | {"precision": precision, "counts": counts, "exporter": BY_TORCH}
    return label_onnx(buffer.getvalue(), Bundle(trained.labels, front_end.to_dict(), card), BY_TORCH)
