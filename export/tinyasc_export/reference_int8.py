"""The numpy reference for int8 graphs: in the `tflite` rounding bit for bit TensorFlow Lite Micro's answers.

Sums of integer products are taken by the float kernels in float64, which holds them exactly (they stay far
below 2^53) and is fast. What is integer about an operator is how its sum is brought to the output's scale; that is
where the roundings differ. The hard swish and the inside of the sigmoid have a fixed-point recipe of their own, the
same in both.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from tinyasc_export import reference_float, rounding
from tinyasc_export.errors import GraphError
from tinyasc_export.graph import Graph, Op, Tensor
from tinyasc_export.rounding import Rescale

# A kernel gets the operator, its tensors' descriptions (inputs, then output), its inputs' integers in int64, and
# the rounding.
Kernel = Callable[[Op, list[Tensor], list[np.ndarray], Rescale], np.ndarray]


def run_all(graph: Graph, x: np.ndarray, rounding: str = "tflite") -> dict[str, np.ndarray]:
    """Runs an int8 graph and keeps every activation.

    Args:
        graph: int8 throughout (biases int32), as `tflite_rules.check_integer_graph` wants it.
        x: (N, H, W, C) int8, N >= 1; the rest as the graph's input.
        rounding: "tflite" or "single".

    Returns:
        The input and the output of every operator by tensor name, int8.

    Raises:
        GraphError: a graph or an input of another type, or an unknown rounding.
    """
    return execute(graph, x, "int8", KERNELS, rounding)


def execute(
    graph: Graph, x: np.ndarray, dtype: str, kernels: dict[str, Kernel], rounding_name: str
) -> dict[str, np.ndarray]:
    """Runs the operators of a graph whose activations are integers of type `dtype`, as `run_all` does."""
    if str(x.dtype) != dtype or graph.tensors[graph.input].dtype != dtype:
        raise GraphError(
            f"the input is {x.dtype}, the graph's is {graph.tensors[graph.input].dtype}; both must be {dtype}"
        )
    if rounding_name not in rounding.ROUNDINGS:
        raise GraphError(f"rounding {rounding_name!r} is not one of {tuple(rounding.ROUNDINGS)}")
    rescale = rounding.ROUNDINGS[rounding_name]
    limits = np.iinfo(dtype)
    values = {graph.input: x}
    for op in graph.ops:
        if op.kind not in kernels:
            raise GraphError(f"{op.kind} (from {op.module or 'the graph'}) has no kernel at {dtype}")
        tensors = [graph.tensors[name] for name in [*op.inputs, op.output]]
        inputs = [np.asarray(values[t.name] if t.data is None else t.data, np.int64) for t in tensors[: len(op.inputs)]]
        y = kernels[op.kind](op, tensors, inputs, rescale)
        low = zero(tensors[-1]) if op.attrs.get("activation") == "relu" else limits.min
        values[op.output] = np.clip(y, low, limits.max).astype(dtype)
    return values


def zero(t: Tensor) -> int:
    """The zero point of an activation."""
    assert t.zero_point is not None
    return int(t.zero_point.flat[0])


def factor(t: Tensor) -> np.ndarray:
    """The scales of a tensor as the file stores them: float32."""
    assert t.scale is not None
    return np.asarray(t.scale, np.float32).reshape(-1)


def single(t: Tensor) -> float:
    """The scale of an activation: float32, in double precision."""
    return float(factor(t)[0])


def accumulate(op: Op, tensors: list[Tensor], inputs: list[np.ndarray]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The exact sums of a convolution or linear layer, and the multiplier and shift of each output channel."""
    x, w, y = tensors[0], tensors[1], tensors[-1]
    shifted = [(inputs[0] - zero(x)).astype(np.float64), *(i.astype(np.float64) for i in inputs[1:])]
    total = np.rint(reference_float.KERNELS[op.kind](op, shifted)).astype(np.int64)
    pairs = [rounding.quantize_multiplier(single(x) * float(s) / single(y)) for s in factor(w)]
    multiplier, shift = np.array(pairs, np.int64).T
    return total, multiplier, shift


def _weighted(op: Op, tensors: list[Tensor], inputs: list[np.ndarray], rescale: Rescale) -> np.ndarray:
    return rescale(*accumulate(op, tensors, inputs)) + zero(tensors[-1])


def _add(op: Op, tensors: list[Tensor], inputs: list[np.ndarray], rescale: Rescale) -> np.ndarray:
    a, b, y = tensors
    spare = 20 if y.dtype == "int8" else 15  # bits that are left in 32
    largest = 2 * max(single(a), single(b))
    total = np.int64(0)
    for t, values in zip((a, b), inputs, strict=True):
        multiplier, shift = rounding.quantize_multiplier(single(t) / largest)
        total = total + rescale((values - zero(t)) << spare, multiplier, shift)
    multiplier, shift = rounding.quantize_multiplier(largest / ((1 << spare) * single(y)))
    return rescale(np.asarray(total), multiplier, shift) + zero(y)


def _mul(op: Op, tensors: list[Tensor], inputs: list[np.ndarray], rescale: Rescale) -> np.ndarray:
    a, b, y = tensors
    multiplier, shift = rounding.quantize_multiplier(single(a) * single(b) / single(y))
    return rescale((inputs[0] - zero(a)) * (inputs[1] - zero(b)), multiplier, shift) + zero(y)


def mean_multiplier(x: Tensor, y: Tensor, count: int) -> tuple[int, int]:
    """Multiplier and shift that bring the sum of `count` values of `x` to their mean in steps of `y`."""
    multiplier, shift = rounding.quantize_multiplier(single(x) / single(y))
    # The division goes into the multiplier, which keeps its 31 bits by giving up powers of two.
    spare = min(count.bit_length() - 1, 32, 31 + shift)
    return (multiplier << spare) // count, shift - spare


def _mean(op: Op, tensors: list[Tensor], inputs: list[np.ndarray], rescale: Rescale) -> np.ndarray:
    x, y = tensors
    axes = tuple(sorted(op.attrs["axes"]))
    total = (inputs[0] - zero(x)).sum(axis=axes, keepdims=True)
    return rescale(total, *mean_multiplier(x, y, math.prod(x.shape[i] for i in axes))) + zero(y)


def _divide(total: np.ndarray, count: np.ndarray | int) -> np.ndarray:
    """Integer division, halves away from zero."""
    half = np.asarray(count) // 2
    return rounding.divide_toward_zero(total + np.where(total > 0, half, -half), count)


def _average_pool(op: Op, tensors: list[Tensor], inputs: list[np.ndarray], rescale: Rescale) -> np.ndarray:
    kernel = tuple(op.attrs["kernel"])
    total = sum(view for _, view in reference_float.taps(inputs[0], kernel, op))
    inside = np.ones((1, *inputs[0].shape[1:3], 1), np.int64)
    return _divide(np.asarray(total), np.asarray(sum(view for _, view in reference_float.taps(inside, kernel, op))))


def _max_pool(op: Op, tensors: list[Tensor], inputs: list[np.ndarray], rescale: Rescale) -> np.ndarray:
    return reference_float.max_pool(op, [inputs[0].astype(np.float64)]).astype(np.int64)


def _pad(op: Op, tensors: list[Tensor], inputs: list[np.ndarray], rescale: Rescale) -> np.ndarray:
    return reference_float.pad(op, [inputs[0] - zero(tensors[-1])]) + zero(tensors[-1])


def _moved(op: Op, tensors: list[Tensor], inputs: list[np.ndarray], rescale: Rescale) -> np.ndarray:
    return reference_float.KERNELS[op.kind](op, inputs)


def _relu(op: Op, tensors: list[Tensor], inputs: list[np.ndarray], rescale: Rescale) -> np.ndarray:
    x, y = tensors
    multiplier, shift = rounding.quantize_multiplier(single(x) / single(y))
    return np.maximum(rescale(inputs[0] - zero(x), multiplier, shift) + zero(y), zero(y))


def _sigmoid(op: Op, tensors: list[Tensor], inputs: list[np.ndarray], rescale: Rescale) -> np.ndarray:
    x = tensors[0]
    multiplier, shift = rounding.quantize_multiplier(single(x) * (1 << 27))
    # Beyond the radius the input would leave the four integer bits.
    radius = int(np.floor(15 * 2.0**27 / 2.0**shift))
    centred = inputs[0] - zero(x)
    inner = np.clip(centred, -radius, radius)
    probability = rounding.logistic(rescale(inner, multiplier, shift))
    y = np.minimum(rounding.shift_down(probability, 23), 255) - 128
    y = np.where(centred >= radius, 127, y)
    return np.where(centred <= -radius, -128, y)  # last, as the kernel does: steps of 8 and wider have radius 0


def _hardswish(op: Op, tensors: list[Tensor], inputs: list[np.ndarray], rescale: Rescale) -> np.ndarray:
    x, y = tensors
    fine = single(x) / 128
    out_multiplier, out_shift = rounding.quantize_multiplier(fine / single(y))
    gate_multiplier, gate_shift = rounding.quantize_multiplier(fine / float(np.float32(3 / 32768)))
    value = (inputs[0] - zero(x)) << 7
    before_shift = rounding.high_mul(value, _to_16_bits(out_multiplier), 16)
    gate = value
    if gate_shift > 0:
        gate = rounding.saturate(gate << (gate_shift - 1), 16)
    gate = rounding.high_mul(gate, _to_16_bits(gate_multiplier), 16)
    gate = rounding.saturate(gate << 1, 16) if gate_shift > 0 else rounding.shift_down(gate, -gate_shift)
    gate = (gate + (1 << 15)) >> 1
    product = rounding.divide_toward_zero(gate * before_shift, 1 << 15)
    return rounding.shift_down(product, -out_shift) + zero(y)


def _to_16_bits(multiplier: int) -> int:
    return min((multiplier + (1 << 15)) >> 16, (1 << 15) - 1)


def _rsqrt(op: Op, tensors: list[Tensor], inputs: list[np.ndarray], rescale: Rescale) -> np.ndarray:
    x, y = tensors
    multiplier, shift = rounding.quantize_multiplier(1 / (math.sqrt(single(x)) * single(y)))
    inverse = [rounding.inverse_sqrt(v) for v in range(1, 256)]
    fine = np.array([int(rounding.scale(np.array(1), m, s + 20)) for m, s in inverse])
    # Nothing above zero has no reciprocal root: it becomes the largest integer.
    table = np.concatenate([[127], rescale(fine, multiplier, shift - 20) + zero(y)])
    return table[np.maximum(inputs[0] - zero(x), 0)]


KERNELS: dict[str, Kernel] = {
    "conv2d": _weighted,
    "depthwise_conv2d": _weighted,
    "fully_connected": _weighted,
    "add": _add,
    "mul": _mul,
    "maximum": _moved,
    "mean": _mean,
    "max_pool": _max_pool,
    "average_pool": _average_pool,
    "pad": _pad,
    "concat": _moved,
    "slice": _moved,
    "reshape": _moved,
    "relu": _relu,
    "sigmoid": _sigmoid,
    "hardswish": _hardswish,
    "rsqrt": _rsqrt,
}
