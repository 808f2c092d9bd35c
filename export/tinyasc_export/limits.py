"""What fits 32 bits: the least output scale with which no intermediate of an integer operator can overflow.

C wraps or aborts where an intermediate leaves its type, so a graph in which the worst case could do that is refused
before it is written (`tflite_rules`), and the quantiser widens scales until none can. The worst case is taken
over all inputs, for the actual weights and biases. With scales from calibration it binds for maps that stay almost
zero on every clip.
"""

from __future__ import annotations

import numpy as np

from tinyasc_export.graph import WEIGHTED, Graph, Op, Tensor

MARGIN = 1.0001  # for the rounding of multipliers and of scales to float32
WIDEST_SIGMOID_INPUT = 2.6  # scale at int16; beyond, the table's 15-bit factor overflows


def least_output_scale(graph: Graph, op: Op) -> float:
    """The least scale of an operator's output that keeps every intermediate inside its type.

    Args:
        graph: int8 or int16x8, every tensor with its scale.
        op: of that graph.

    Returns:
        The scale; 0 where any will do, infinity where none does (an accumulator that overflows by itself).
    """
    x, y = graph.tensors[op.inputs[0]], graph.tensors[op.output]
    wide = y.dtype == "int16"
    if op.kind in WEIGHTED:
        w = graph.tensors[op.inputs[1]]
        bias = graph.tensors[op.inputs[2]] if len(op.inputs) == 3 else None
        most = _largest_sums(op, w, bias, _extent(x))
        factors = _scale(x)[0] * _scale(w)
        if wide:
            # 64-bit sums: the result has to fit 32 bits, the sum 47, and the shift must stay below 8.
            return (
                np.inf if most.max() >= 2**47 else float((factors * np.maximum(most * 2.0**-31, 2**-6)).max() * MARGIN)
            )
        return float(np.max(_shifted(factors, most)))
    if op.kind == "add":
        # TensorFlow Lite Micro wants a factor below one here, and aborts otherwise.
        return 2 * max(_scale(graph.tensors[name])[0] for name in op.inputs) / 2 ** (15 if wide else 20) * MARGIN
    if op.kind == "mul":
        a, b = (graph.tensors[name] for name in op.inputs)
        return float(_shifted(_scale(a) * _scale(b), np.float64(_extent(a) * _extent(b)))[0])
    if op.kind == "mean":
        count = int(np.prod([x.shape[i] for i in op.attrs["axes"]]))
        # The division takes back all but two of the bits that a left shift adds.
        return np.inf if count * _extent(x) >= 2**31 else float(_shifted(_scale(x), np.float64(4 * _extent(x)))[0])
    if op.kind == "average_pool":
        return np.inf if np.prod(op.attrs["kernel"]) * 2 ** (16 if wide else 8) >= 2**31 else 0.0
    if op.kind == "relu":
        return float(_shifted(_scale(x), np.float64(_extent(x)))[0])
    if op.kind == "hardswish":
        # The kernel shifts its 16-bit product to the right only.
        return _scale(x)[0] / 128 * MARGIN
    if op.kind == "rsqrt":
        # The largest output is that of one step above zero; its factor is shifted left by 30 bits at most.
        return float(2.0**-30 / np.sqrt(_scale(x)[0]) * MARGIN)
    if op.kind == "sigmoid":
        return np.inf if wide and _scale(x)[0] > WIDEST_SIGMOID_INPUT else 0.0
    return 0.0


def _shifted(factor: np.ndarray, most: np.ndarray | np.float64) -> np.ndarray:
    """Least output scale where sums up to `most` are shifted left when factor / scale is one or more."""
    return np.where(most >= 2**31, np.inf, factor * np.minimum(1, most * 2.0**-30) * MARGIN)


def _largest_sums(op: Op, w: Tensor, bias: Tensor | None, extent: int) -> np.ndarray:
    """The largest accumulator of each output channel, whatever the input."""
    assert w.data is not None
    axis = 3 if op.kind == "depthwise_conv2d" else 0
    others = tuple(i for i in range(w.data.ndim) if i != axis)
    sums = np.abs(w.data.astype(np.float64)).sum(axis=others) * extent
    return sums if bias is None or bias.data is None else sums + np.abs(bias.data.astype(np.float64))


def _extent(t: Tensor) -> int:
    """The largest distance of a stored integer from the zero point."""
    assert t.zero_point is not None
    limits, zero = np.iinfo(t.dtype), int(t.zero_point.flat[0])
    return max(zero - int(limits.min), int(limits.max) - zero)


def _scale(t: Tensor) -> np.ndarray:
    assert t.scale is not None
    return np.asarray(t.scale, np.float32).astype(np.float64).reshape(-1)
