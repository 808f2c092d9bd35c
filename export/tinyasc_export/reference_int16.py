"""The numpy reference for int16x8 graphs: in the `tflite` rounding bit for bit TensorFlow Lite Micro's answers.

Activations are int16 with zero point 0, weights int8, biases int64. Most operators compute as at int8 with a wider
clip; convolutions and linear layers have 64-bit sums with a rescaling of their own, and the sigmoid has a table.
TensorFlow Lite Micro has no hard swish at int16, so neither has this file.
"""

from __future__ import annotations

import numpy as np

from tinyasc_export import reference_int8, rounding
from tinyasc_export.graph import WEIGHTED, Graph, Op, Tensor
from tinyasc_export.reference_int8 import Kernel, accumulate, single
from tinyasc_export.rounding import Rescale
from tinyasc_export.tflite_rules import INT16_OPERATORS


def run_all(graph: Graph, x: np.ndarray, rounding: str = "tflite") -> dict[str, np.ndarray]:
    """Runs an int16x8 graph and keeps every activation.

    Args:
        graph: int16 activations, int8 weights, int64 biases, as `tflite_rules.check_integer_graph` wants it.
        x: (N, H, W, C) int16, N >= 1; the rest as the graph's input.
        rounding: "tflite" or "single".

    Returns:
        The input and the output of every operator by tensor name, int16.

    Raises:
        GraphError: a graph or an input of another type, an operator without an int16 kernel, or an unknown rounding.
    """
    return reference_int8.execute(graph, x, "int16", KERNELS, rounding)


def _weighted(op: Op, tensors: list[Tensor], inputs: list[np.ndarray], rescale: Rescale) -> np.ndarray:
    return rounding.scale_wide(*accumulate(op, tensors, inputs))


def _sigmoid(op: Op, tensors: list[Tensor], inputs: list[np.ndarray], rescale: Rescale) -> np.ndarray:
    return rounding.logistic_int16(inputs[0], *rounding.logistic_parameters(single(tensors[0])))


KERNELS: dict[str, Kernel] = {kind: reference_int8.KERNELS[kind] for kind in INT16_OPERATORS}
KERNELS |= {kind: _weighted for kind in WEIGHTED} | {"sigmoid": _sigmoid}
