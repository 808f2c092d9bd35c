"""Post-training quantisation of the lowered graph: calibration on real features, then integers.

Weights are int8, symmetric, with one scale per output channel. At int8 activations are asymmetric with one scale and
biases int32 at the product of both scales; at int16x8 activations are symmetric int16 and biases int64: the schemes of
TensorFlow Lite's specification. `calibrate` gives the true minimum and maximum over all calibration clips, never
averaged over them: averages clip the loud ones; `calibration` narrows them for 8 bits. Where an operator could
overflow 32 bits in the worst case its output's scale is widened until it cannot (`limits`).
"""

from __future__ import annotations

import copy
from collections.abc import Callable

import numpy as np

from tinyasc_export import reference
from tinyasc_export.errors import GraphError
from tinyasc_export.graph import WEIGHTED, Graph, Op, Tensor
from tinyasc_export.limits import least_output_scale
from tinyasc_export.tflite_rules import BIAS_TYPE, SAME_SCALE, SIGMOID_PARAMETERS, check_int16_operators

Ranges = dict[str, tuple[float, float]]

INT8_MIN, INT8_MAX = -128, 127
INT16_MAX = 32767
# Two of 16 bits are kept for clips louder than those of calibration: one that saturates costs more than all rounding.
INT16_HEADROOM = 4
# A map that is zero on all calibration clips still needs a scale; much narrower ones overflow XNNPACK's multipliers.
LEAST_RANGE = 0.01


def calibrate(
    graph: Graph,
    features: np.ndarray,
    *,
    batch_size: int = 16,
    progress: Callable[[int, int], None] | None = None,
) -> Ranges:
    """Smallest and largest value of every activation over the calibration clips.

    Args:
        graph: lowered, float.
        features: (clips, H, W, C) float32, as the graph wants them.
        batch_size: clips at a time.
        progress: called with clips done and clips in all.

    Raises:
        GraphError: no clips, or an activation that is not finite.
    """
    if len(features) == 0:
        raise GraphError("calibration needs at least one clip")
    ranges: Ranges = {}
    for start in range(0, len(features), batch_size):
        for name, values in reference.run_all(graph, features[start : start + batch_size]).items():
            low, high = float(values.min()), float(values.max())
            if not (np.isfinite(low) and np.isfinite(high)):
                raise GraphError(
                    f"activation {name} is not finite on calibration clips {start} to {start + batch_size}"
                )
            old = ranges.get(name, (low, high))
            ranges[name] = (min(low, old[0]), max(high, old[1]))
        if progress:
            progress(min(start + batch_size, len(features)), len(features))
    return ranges


def quantize_int8(graph: Graph, ranges: Ranges) -> Graph:
    """The full-integer graph: int8 activations and weights, int32 biases.

    Args:
        graph: lowered, float; left as it is.
        ranges: of every activation, from `calibrate`.

    Raises:
        GraphError: a constant that two operators read, or a sigmoid whose fixed scale would have to be shared.
    """
    return _quantize(graph, ranges, "int8")


def quantize_int16x8(graph: Graph, ranges: Ranges) -> Graph:
    """The int16x8 graph: symmetric int16 activations, int8 weights, int64 biases.

    Args:
        graph: lowered, float; left as it is.
        ranges: of every activation, from `calibrate`.

    Raises:
        InputError: an operator that TensorFlow Lite Micro lacks at int16, with its module and how to mend it.
    """
    check_int16_operators(graph)
    return _quantize(graph, ranges, "int16")


def _quantize(graph: Graph, ranges: Ranges, dtype: str) -> Graph:
    for t in graph.constants():
        if len(readers := graph.consumers(t.name)) > 1:
            raise GraphError(f"constant {t.name} is read by {readers[0].module} and {readers[1].module}; copy it first")
    floors: dict[str, float] = {}
    # Widening one output may ask for another's, further on; a chain is no longer than the graph.
    for _ in range(len(graph.ops) + 1):
        result = _with_floors(graph, ranges, dtype, floors)
        wanting = False
        for op in result.ops:
            least, scale = least_output_scale(result, op), result.tensors[op.output].scale
            assert scale is not None
            if float(np.float32(scale[0])) < least < np.inf:
                floors[op.output], wanting = least * 1.001, True
        if not wanting:
            break
    result.validate()
    return result


def _with_floors(graph: Graph, ranges: Ranges, dtype: str, floors: dict[str, float]) -> Graph:
    """The integer graph whose activations have at least the scales of `floors`."""
    graph = copy.deepcopy(graph)
    groups = _shared_groups(graph)
    for name, members in groups.items():
        t = graph.tensors[name]
        room = INT16_HEADROOM if dtype == "int16" else 1
        low = room * min(ranges[m][0] for m in members)
        high = room * max(ranges[m][1] for m in members)
        scale, zero_point = _parameters(low, high, dtype, max(floors.get(m, 0.0) for m in members))
        t.dtype, t.scale, t.zero_point = dtype, np.array([scale]), np.array([zero_point])
    for op in graph.ops:
        if op.kind == "sigmoid":
            out = graph.tensors[op.output]
            scale, zero_point = SIGMOID_PARAMETERS[dtype]
            out.scale, out.zero_point = np.array([scale]), np.array([zero_point])
        elif op.kind == "rsqrt" and len(groups[op.output]) == 1:
            _limit_reciprocal_root(graph.tensors[op.inputs[0]], graph.tensors[op.output])
    for op in graph.ops:
        if op.kind in WEIGHTED:
            _quantize_weights(graph, op)
        elif op.kind in ("add", "mul"):
            for name in op.inputs:
                if graph.tensors[name].constant:
                    # A factor is exact however small it is; a tiny summand is rounded against the sum anyway.
                    _quantize_constant(graph.tensors[name], dtype, LEAST_RANGE if op.kind == "add" else 0.0)
    graph.prune()
    return graph


def _shared_groups(graph: Graph) -> dict[str, list[str]]:
    """For every activation, all activations that must have its scale."""
    parent = {name: name for name, t in graph.tensors.items() if not t.constant}

    def root(name: str) -> str:
        while parent[name] != name:
            name = parent[name]
        return name

    for op in graph.ops:
        if op.kind in SAME_SCALE:
            for name in op.inputs:
                parent[root(name)] = root(op.output)
    groups: dict[str, list[str]] = {}
    for name in parent:
        groups.setdefault(root(name), []).append(name)
    for op in graph.ops:
        if op.kind == "sigmoid" and len(groups[root(op.output)]) > 1:
            raise GraphError(f"the sigmoid of {op.module} feeds an operator that shares its scale, which is fixed")
    return {name: groups[root(name)] for name in parent}


def _limit_reciprocal_root(x: Tensor, y: Tensor) -> None:
    """Keeps values next to zero from taking the whole range: the output need not pass the root of two input steps.

    One step above zero gives sixteen times the output of the largest input, and zero itself gives all that the output
    can hold; what they are multiplied by is as small as they are.
    """
    assert x.scale is not None and y.scale is not None
    most = float(np.float32((2 * x.scale[0]) ** -0.5 / (INT8_MAX - INT8_MIN)))
    y.scale, y.zero_point = np.minimum(y.scale, most), np.array([INT8_MIN])


def _parameters(
    low: float, high: float, dtype: str, floor: float = 0.0, least: float = LEAST_RANGE
) -> tuple[float, int]:
    """Scale and zero point of a range widened to hold zero, so that zero padding is exact."""
    low, high = min(low, 0.0), max(high, 0.0)
    if dtype == "int16":
        return float(np.float32(max((max(-low, high, least) or LEAST_RANGE) / INT16_MAX, floor))), 0
    scale = float(np.float32(max((max(high - low, least) or LEAST_RANGE) / (INT8_MAX - INT8_MIN), floor)))
    return scale, int(np.clip(round(INT8_MIN - low / scale), INT8_MIN, INT8_MAX))


def weight_scale(op: Op, weight: np.ndarray, bias: np.ndarray | None, x_scale: float) -> np.ndarray:
    """The scale of every output channel of a weight: (channels,) float64, each a float32 number.

    Args:
        op: the operator that the weight belongs to.
        weight: float, in the graph's layout.
        bias: float, (channels,), if there is one.
        x_scale: of the operator's input.
    """
    axis = 3 if op.kind == "depthwise_conv2d" else 0
    others = tuple(i for i in range(weight.ndim) if i != axis)
    scale = np.maximum(np.abs(weight).max(axis=others).astype(np.float64) / INT8_MAX, 1e-10)
    if bias is not None:
        # A dead channel keeps its bias: the scale must be wide enough for it to fit 32 bits with room to add. At int16
        # the biases have 64 bits, but a finer scale than that would need a multiplier of zero.
        scale = np.maximum(scale, np.abs(bias.astype(np.float64)) / (x_scale * 2**30))
    if op.kind == "fully_connected":
        # One scale: what every TensorFlow Lite Micro release has a kernel for.
        scale = np.full_like(scale, scale.max())
    return scale.astype(np.float32).astype(np.float64)


def _quantize_weights(graph: Graph, op: Op) -> None:
    x, weight = graph.tensors[op.inputs[0]], graph.tensors[op.inputs[1]]
    assert x.scale is not None and weight.data is not None
    bias = graph.tensors[op.inputs[2]] if len(op.inputs) == 3 else None
    axis = 3 if op.kind == "depthwise_conv2d" else 0
    scale = weight_scale(op, weight.data, None if bias is None else bias.data, float(x.scale[0]))
    shape = [1] * weight.data.ndim
    shape[axis] = -1
    integers = np.clip(np.round(weight.data / scale.reshape(shape)), -INT8_MAX, INT8_MAX)
    stored, stored_axis = (scale[:1], None) if op.kind == "fully_connected" else (scale, axis)
    weight.data, weight.dtype = integers.astype(np.int8), "int8"
    weight.scale, weight.zero_point, weight.axis = stored, np.zeros(len(stored), np.int64), stored_axis
    if bias is not None and bias.data is not None:
        bias_scale = stored * x.scale[0]
        bias.dtype = BIAS_TYPE[x.dtype]
        bias.data = np.round(bias.data / bias_scale).astype(bias.dtype)
        bias.scale, bias.zero_point = bias_scale, np.zeros(len(bias_scale), np.int64)
        bias.axis = None if stored_axis is None else 0


def _quantize_constant(t: Tensor, dtype: str, least: float) -> None:
    assert t.data is not None
    scale, zero_point = _parameters(float(t.data.min()), float(t.data.max()), dtype, least=least)
    limits = np.iinfo(dtype)
    integers = np.clip(np.round(t.data / scale) + zero_point, limits.min, limits.max)
    t.data, t.dtype = integers.astype(dtype), dtype
    t.scale, t.zero_point = np.array([scale]), np.array([zero_point])
