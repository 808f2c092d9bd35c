"""The numpy reference: what a deployed graph computes.

This file runs graphs and picks the kernels by the type of the graph's input: `reference_float`, `reference_int8` or
`reference_int16`. Float arithmetic runs in the type of the input, so that a float32 graph can be run in float64 by
feeding it float64 features. The graph is declared for one clip; here the batch (axis 0) may be longer, which is how
many clips are calibrated at once.
"""

from __future__ import annotations

import numpy as np

from tinyasc_export import reference_int8, reference_int16
from tinyasc_export.errors import GraphError
from tinyasc_export.graph import Graph
from tinyasc_export.reference_float import KERNELS


def run(graph: Graph, x: np.ndarray, rounding: str = "tflite") -> np.ndarray:
    """Runs the graph on a batch of feature maps.

    Args:
        graph: in floating point (constants may be stored as float16), int8 throughout, or int16x8.
        x: (N, H, W, C), float32 or float64 for a float graph, int8 or int16 for an integer one; N >= 1, the rest as
            the graph's input.
        rounding: of integer graphs: "tflite" or "single" (see `rounding`).

    Returns:
        The graph's output with N in place of its batch of one, in the type of `x`.

    Raises:
        GraphError: `x` has another shape or type than the graph wants, the graph mixes types, or the rounding has no
            such name.
    """
    return run_all(graph, x, rounding)[graph.output]


def run_all(graph: Graph, x: np.ndarray, rounding: str = "tflite") -> dict[str, np.ndarray]:
    """Runs the graph and keeps every activation, for calibration and for finding where two runtimes part.

    Args:
        graph: as in `run`.
        x: (N, H, W, C), as in `run`.
        rounding: as in `run`.

    Returns:
        The input and the output of every operator by tensor name, constants left out.

    Raises:
        GraphError: as in `run`.
    """
    declared = graph.tensors[graph.input]
    if x.ndim != len(declared.shape) or x.shape[1:] != declared.shape[1:] or x.shape[0] < 1:
        raise GraphError(f"the input is {x.shape}, the graph wants (N, {', '.join(map(str, declared.shape[1:]))})")
    if declared.dtype in ("int8", "int16"):
        integer = reference_int8 if declared.dtype == "int8" else reference_int16
        return integer.run_all(graph, x, rounding)
    if x.dtype not in (np.float32, np.float64):
        raise GraphError(f"the input is {x.dtype}, the float reference wants float32 or float64")
    constants: dict[str, np.ndarray] = {}
    for t in graph.constants():
        if t.data is None or t.quantized or t.data.dtype.kind != "f":
            raise GraphError(f"tensor {t.name} is {t.dtype}; a float graph is float throughout")
        constants[t.name] = t.data.astype(x.dtype)
    values = {graph.input: x}
    for op in graph.ops:
        inputs = [constants[n] if n in constants else values[n] for n in op.inputs]
        y = KERNELS[op.kind](op, inputs)
        values[op.output] = np.maximum(y, 0) if op.attrs.get("activation") == "relu" else y
    return values
