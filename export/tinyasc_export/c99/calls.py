"""Operators of the graph as calls of C kernels: the specialised kernel for each, and its arguments."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from tinyasc_export import reference_int8, rounding
from tinyasc_export.c99.axes import broadcast, contiguous, kept_and_reduced, loops
from tinyasc_export.c99.bounds import INT32, check_rescaled, check_sums, largest_sums
from tinyasc_export.c99.constants import Constants
from tinyasc_export.c99.kernels import LIMITS, SMALL_SHIFT, SPARE_BITS, Kernel
from tinyasc_export.errors import InputError
from tinyasc_export.graph import Graph, Op, Tensor
from tinyasc_export.reference_int8 import factor, single, zero


@dataclass(frozen=True)
class Call:
    """One call of a kernel.

    Args:
        kernel: what is called.
        args: its struct, by field.
        inputs: the tensors that it reads.
        output: the tensor that it writes.
        start: where in its input it begins to read, in values.
        at: where in the output it begins to write, in values.
        scratch: values of scratch memory.
        positions: the last argument of a `conv_1x1`.
    """

    kernel: Kernel
    args: dict[str, object]
    inputs: tuple[str, ...]
    output: str
    start: int = 0
    at: int = 0
    scratch: int = 0
    positions: int = 0


@dataclass(frozen=True)
class Context:
    """What a call is built from: the graph, the pool of constants, the rounding."""

    graph: Graph
    constants: Constants
    rounding: str

    @property
    def values(self) -> str:
        """Type of the activations: "s8" or "s16"."""
        return "s8" if self.graph.tensors[self.graph.input].dtype == "int8" else "s16"

    def kernel(self, template: str, *shifts: int) -> Kernel:
        """A kernel for this graph's type and rounding, and for the shifts of its rescalings."""
        any_shift = max(shifts, default=-31) > SMALL_SHIFT[self.rounding]
        return Kernel(template, self.values, self.rounding, any_shift=any_shift)

    def low(self, op: Op) -> int:
        """The least output of an operator: its zero point after a ReLU."""
        relu = op.attrs.get("activation") == "relu"
        return zero(self.graph.tensors[op.output]) if relu else LIMITS[self.values][0]

    def where(self, op: Op) -> str:
        """How an error line names an operator."""
        return f"operator {self.graph.ops.index(op)} ({op.kind}, from {op.module or 'the graph'})"


def calls(context: Context, op: Op) -> list[Call]:
    """The kernel calls that compute an operator.

    Raises:
        InputError: a sum that may overflow, or a shape that no kernel walks.
    """
    return _BUILDERS[op.kind](context, op)


def _weighted(context: Context, op: Op, weights: np.ndarray) -> tuple[Kernel, dict[str, object]]:
    """A kernel named `conv_1x1` and the arguments that all layers with weights have; weights as (outputs, inputs)."""
    tensors = [context.graph.tensors[name] for name in op.inputs]
    x, w, y = tensors[0], tensors[1], context.graph.tensors[op.output]
    where, outputs = context.where(op), len(weights)
    bias = np.zeros(outputs, np.int64)
    if len(tensors) == 3:
        assert tensors[2].data is not None
        bias += tensors[2].data
    bias -= zero(x) * weights.astype(np.int64).sum(axis=1)
    most = largest_sums(weights, bias, -LIMITS[context.values][0])
    pairs = [rounding.quantize_multiplier(single(x) * float(s) / single(y)) for s in factor(w)]
    multiplier, shift = (np.broadcast_to(np.array(part, np.int64), outputs) for part in zip(*pairs, strict=True))
    # An output whose sum is always 0 may have any factor; shifts beyond 30 are none that C has.
    shift = np.where(most == 0, np.minimum(shift, 30), shift)
    wide = False
    kernel = context.kernel("conv_1x1", int(shift.max()))
    if context.values == "s16":
        wide = bool(most.max() >= INT32)
        kernel = replace(context.kernel("conv_1x1"), wide=wide)
        multiplier, shift = rounding.reduced_multiplier(multiplier), 15 - shift
    else:
        check_sums(most, where)
        check_rescaled(most, multiplier, shift, context.rounding, where)
    constants = context.constants
    args: dict[str, object] = {
        "weights": constants.add(weights, "int8"),
        "bias": constants.add(bias, "int64" if wide else "int32"),
        "multiplier": constants.add(multiplier, "int32"),
        "shift": constants.add(shift, "int8"),
        "zero": zero(y),
        "low": context.low(op),
    }
    return kernel, args


def _conv2d(context: Context, op: Op) -> list[Call]:
    x, w = (context.graph.tensors[name] for name in op.inputs[:2])
    y = context.graph.tensors[op.output]
    assert w.data is not None
    if w.shape[1:3] == (1, 1) and op.attrs["stride"] == (1, 1) and not any(op.attrs["padding"]):
        return [_product(context, op, w.data.reshape(w.shape[0], -1))]
    taps = _taps(op, w.data.transpose(1, 2, 0, 3))
    weights = np.concatenate([w.data[:, i, j] for i, j in taps], axis=1)
    kernel, product = _weighted(context, op, weights)
    args = {
        "product": {**product, "inputs": weights.shape[1], "outputs": weights.shape[0]},
        "tap_count": len(taps),
        **_window(context, op, x, y, taps),
        "padding": zero(x),
    }
    return [Call(replace(kernel, template="conv_2d"), args, (op.inputs[0],), op.output, scratch=2 * weights.shape[1])]


def _fully_connected(context: Context, op: Op) -> list[Call]:
    weights = context.graph.tensors[op.inputs[1]].data
    assert weights is not None
    return [_product(context, op, weights)]


def _product(context: Context, op: Op, weights: np.ndarray) -> Call:
    kernel, args = _weighted(context, op, weights)
    args |= {"inputs": weights.shape[1], "outputs": weights.shape[0]}
    positions = math.prod(context.graph.tensors[op.output].shape[:-1])
    return Call(kernel, args, (op.inputs[0],), op.output, positions=positions)


def _depthwise(context: Context, op: Op) -> list[Call]:
    x, w = (context.graph.tensors[name] for name in op.inputs[:2])
    y = context.graph.tensors[op.output]
    assert w.data is not None
    taps = _taps(op, w.data[0])
    weights = np.stack([w.data[0, i, j] for i, j in taps], axis=1)
    kernel, args = _weighted(context, op, weights)
    args |= {**_window(context, op, x, y, taps), "padding": zero(x)}
    kernel = replace(kernel, template="depthwise", taps=len(taps))
    return [Call(kernel, args, (op.inputs[0],), op.output, scratch=x.shape[3])]


def _taps(op: Op, weights: np.ndarray) -> list[tuple[int, int]]:
    """The taps of a window whose weights (kernel_h, kernel_w, ...) are not all zero; at least one."""
    used = [(int(i), int(j)) for i, j in np.argwhere(weights.reshape(*weights.shape[:2], -1).any(axis=2))]
    return used or [(0, 0)]


def _window(context: Context, op: Op, x: Tensor, y: Tensor, taps: list[tuple[int, int]]) -> dict[str, object]:
    if x.shape[0] != 1:
        raise InputError(f"{context.where(op)}: its input is {x.shape}; C nets take one clip at a time")
    (dh, dw), (top, _, left, _) = op.attrs["dilation"], op.attrs["padding"]
    return {
        "taps": context.constants.add(np.array([(i * dh - top, j * dw - left) for i, j in taps]), "int16"),
        "height": x.shape[1],
        "width": x.shape[2],
        "channels": x.shape[3],
        "out_height": y.shape[1],
        "out_width": y.shape[2],
        "stride_height": op.attrs["stride"][0],
        "stride_width": op.attrs["stride"][1],
    }


def _pool(context: Context, op: Op) -> list[Call]:
    x, y = context.graph.tensors[op.inputs[0]], context.graph.tensors[op.output]
    if x.shape[0] != 1:
        raise InputError(f"{context.where(op)}: its input is {x.shape}; C nets take one clip at a time")
    args: dict[str, object] = {
        "height": x.shape[1],
        "width": x.shape[2],
        "channels": x.shape[3],
        "out_height": y.shape[1],
        "out_width": y.shape[2],
        "kernel_height": op.attrs["kernel"][0],
        "kernel_width": op.attrs["kernel"][1],
        "stride_height": op.attrs["stride"][0],
        "stride_width": op.attrs["stride"][1],
        "top": op.attrs["padding"][0],
        "left": op.attrs["padding"][2],
    }
    return [Call(context.kernel(op.kind), args, (op.inputs[0],), op.output)]


def _mean(context: Context, op: Op) -> list[Call]:
    x, y = context.graph.tensors[op.inputs[0]], context.graph.tensors[op.output]
    where = context.where(op)
    axes = tuple(i % len(x.shape) for i in op.attrs["axes"])
    outer, rows, inner, columns = kept_and_reduced(x.shape, axes, where)
    count = rows * columns
    multiplier, shift = reference_int8.mean_multiplier(x, y, count)
    # Of the sum and of what is left of it without the zero point.
    most = np.array([count * (255 if context.values == "s8" else 32768)])
    check_sums(most, where)
    check_rescaled(most, np.array([multiplier]), np.array([shift]), context.rounding, where)
    args: dict[str, object] = {
        "outer": outer,
        "rows": rows,
        "inner": inner,
        "columns": columns,
        "offset": count * zero(x),
        "multiplier": multiplier,
        "shift": shift,
        "zero": zero(y),
    }
    return [Call(context.kernel("mean", shift), args, (op.inputs[0],), op.output)]


def _elementwise(context: Context, op: Op) -> tuple[tuple[str, str], dict[str, object]]:
    """The operands, the one that advances along the row in front, and the loops over both."""
    y = context.graph.tensors[op.output]
    a, b = op.inputs
    strides = [broadcast(context.graph.tensors[name].shape, y.shape) for name in (a, b)]
    walk = loops(y.shape, strides, context.where(op))
    if walk.steps[0] == 0:
        a, b = b, a
        walk = loops(y.shape, strides[::-1], context.where(op))
    assert walk.steps[0] == 1
    args: dict[str, object] = {
        "sizes": walk.sizes,
        "a_strides": walk.strides[0],
        "b_strides": walk.strides[1],
        "row": walk.row,
        "b_step": walk.steps[1],
    }
    return (a, b), args


def _add(context: Context, op: Op) -> list[Call]:
    names, args = _elementwise(context, op)
    tensors, y = [context.graph.tensors[name] for name in names], context.graph.tensors[op.output]
    where, spare = context.where(op), SPARE_BITS[context.values]
    largest = 2 * max(single(t) for t in tensors)
    extent = np.array([(255 if context.values == "s8" else 32768) << spare])
    shifts: list[int] = []
    for side, t in zip("ab", tensors, strict=True):
        multiplier, shift = rounding.quantize_multiplier(single(t) / largest)
        check_rescaled(extent, np.array([multiplier]), np.array([shift]), context.rounding, where)
        shifts.append(shift)
        args |= {f"{side}_zero": zero(t), f"{side}_multiplier": multiplier, f"{side}_shift": shift}
    multiplier, shift = rounding.quantize_multiplier(largest / ((1 << spare) * single(y)))
    # Each operand's share is at most half of its extent.
    check_rescaled(extent + 2, np.array([multiplier]), np.array([shift]), context.rounding, where)
    args |= {"multiplier": multiplier, "shift": shift, "zero": zero(y), "low": context.low(op)}
    return [Call(context.kernel("add", *shifts, shift), args, names, op.output)]


def _mul(context: Context, op: Op) -> list[Call]:
    names, args = _elementwise(context, op)
    tensors, y = [context.graph.tensors[name] for name in names], context.graph.tensors[op.output]
    # In the order of the operator: a product of floats may differ in its last bit from the other order's.
    a, b = (context.graph.tensors[name] for name in op.inputs)
    multiplier, shift = rounding.quantize_multiplier(single(a) * single(b) / single(y))
    most = np.array([(255 if context.values == "s8" else 32768) ** 2])
    check_rescaled(most, np.array([multiplier]), np.array([shift]), context.rounding, context.where(op))
    args |= {"a_zero": zero(tensors[0]), "b_zero": zero(tensors[1]), "multiplier": multiplier, "shift": shift}
    args |= {"zero": zero(y), "low": context.low(op)}
    return [Call(context.kernel("mul", shift), args, names, op.output)]


def _maximum(context: Context, op: Op) -> list[Call]:
    names, args = _elementwise(context, op)
    return [Call(context.kernel("maximum"), args, names, op.output)]


def _copy(
    context: Context, op: Op, name: str, shape: tuple[int, ...], strides: list[tuple[int, ...]], at: int = 0
) -> Call:
    walk = loops(shape, strides, context.where(op))
    assert walk.steps == (1, 1)
    args: dict[str, object] = {
        "sizes": walk.sizes,
        "x_strides": walk.strides[0],
        "y_strides": walk.strides[1],
        "row": walk.row,
    }
    return Call(context.kernel("copy"), args, (name,), op.output, at=at)


def _concat(context: Context, op: Op) -> list[Call]:
    shape = context.graph.tensors[op.output].shape
    axis, strides = op.attrs["axis"] % len(shape), contiguous(shape)
    parts, at = [], 0
    for name in op.inputs:
        part = context.graph.tensors[name].shape
        parts.append(_copy(context, op, name, part, [contiguous(part), strides], at))
        at += part[axis] * strides[axis]
    return parts


def _slice(context: Context, op: Op) -> list[Call]:
    x, y = context.graph.tensors[op.inputs[0]], context.graph.tensors[op.output]
    strides = contiguous(x.shape)
    start = sum(b * s for b, s in zip(op.attrs["begin"], strides, strict=True))
    call = _copy(context, op, op.inputs[0], y.shape, [strides, contiguous(y.shape)])
    return [replace(call, start=start)]


def _reshape(context: Context, op: Op) -> list[Call]:
    shape = context.graph.tensors[op.output].shape
    return [_copy(context, op, op.inputs[0], shape, [contiguous(shape)] * 2)]


def _pad(context: Context, op: Op) -> list[Call]:
    x, y = context.graph.tensors[op.inputs[0]], context.graph.tensors[op.output]
    top, _, left, _ = op.attrs["padding"]
    strides = contiguous(y.shape)
    fill: dict[str, object] = {"value": zero(y), "count": math.prod(y.shape)}
    block = _copy(
        context, op, op.inputs[0], x.shape, [contiguous(x.shape), strides], top * strides[1] + left * strides[2]
    )
    return [Call(context.kernel("fill"), fill, (), op.output), block]


def _lookup(context: Context, op: Op) -> list[Call]:
    """A function of one int8 value: its table, from the numpy reference."""
    x, y = context.graph.tensors[op.inputs[0]], context.graph.tensors[op.output]
    every = np.arange(-128, 128, dtype=np.int64)
    table = reference_int8.KERNELS[op.kind](op, [x, y], [every], rounding.ROUNDINGS[context.rounding])
    args: dict[str, object] = {
        "table": context.constants.add(np.clip(table, -128, 127), "int8"),
        "count": math.prod(x.shape),
    }
    return [Call(context.kernel("lookup"), args, (op.inputs[0],), op.output)]


def _relu(context: Context, op: Op) -> list[Call]:
    if context.values == "s8":
        return _lookup(context, op)
    x, y = context.graph.tensors[op.inputs[0]], context.graph.tensors[op.output]
    multiplier, shift = rounding.quantize_multiplier(single(x) / single(y))
    most = np.array([32768])
    check_rescaled(most, np.array([multiplier]), np.array([shift]), context.rounding, context.where(op))
    args: dict[str, object] = {"count": math.prod(x.shape), "multiplier": multiplier, "shift": shift}
    return [Call(context.kernel("relu", shift), args, (op.inputs[0],), op.output)]


def _sigmoid(context: Context, op: Op) -> list[Call]:
    if context.values == "s8":
        return _lookup(context, op)
    x = context.graph.tensors[op.inputs[0]]
    step, shift = rounding.logistic_parameters(single(x))
    args: dict[str, object] = {
        "table": context.constants.add(rounding.SIGMOID_TABLE, "uint16"),
        "count": math.prod(x.shape),
        "factor": step,
        "shift": shift,
        "half": (1 << shift) >> 1,
    }
    return [Call(context.kernel("sigmoid"), args, (op.inputs[0],), op.output)]


_BUILDERS: dict[str, Callable[[Context, Op], list[Call]]] = {
    "conv2d": _conv2d,
    "depthwise_conv2d": _depthwise,
    "fully_connected": _fully_connected,
    "add": _add,
    "mul": _mul,
    "maximum": _maximum,
    "mean": _mean,
    "max_pool": _pool,
    "average_pool": _pool,
    "pad": _pad,
    "concat": _concat,
    "slice": _slice,
    "reshape": _reshape,
    "relu": _relu,
    "sigmoid": _sigmoid,
    "hardswish": _lookup,
    "rsqrt": _lookup,
}
