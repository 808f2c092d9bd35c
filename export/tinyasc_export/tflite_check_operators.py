"""What each operator of a .tflite file must fulfil before a runtime prepares it: options, types, shapes, scales.

The rules are TensorFlow Lite's operators as its documentation and its schema have them; what its kernels assert by
aborting the process, or divide by, is refused here.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from tinyasc_export.tflite_check_call import Call, Operand, RefusedError, Shape, integral
from tinyasc_export.tflite_schema import FLOAT16, FLOAT32, INT8, INT16, INT32, INT64, NAMES, OPTIONS, UINT8

_TABLE_NUMBERS = {table: number for number, table in OPTIONS.items()}
_ACTIVATIONS = (0, 1, 2, 3)  # none, relu, relu-1-to-1, relu6
_SAME = 0
# Type of an activation -> types of the weights and of the bias beside it.
_WEIGHTS = {
    FLOAT32: (FLOAT32, (FLOAT32,)),
    INT8: (INT8, (INT32,)),
    UINT8: (UINT8, (INT32,)),
    INT16: (INT8, (INT64, INT32)),
}
MAX_WINDOW = 1 << 16  # taps and what lies between them; the kernels compute paddings in 32 bits
_ADD_SHIFT = {INT8: 20, UINT8: 20, INT16: 15}


@dataclass(frozen=True)
class Rule:
    """How one kind of operator is checked.

    Args:
        name: TensorFlow Lite's.
        fewest: inputs.
        most: inputs.
        table: its options in the schema; "" for none.
        shape: gives the output's shape, raises RefusedError.
        needs_options: whether they must be there.
        optional_bias: whether input 2 may be -1.
    """

    name: str
    fewest: int
    most: int
    table: str
    shape: Callable[[Call], Shape]
    needs_options: bool = True
    optional_bias: bool = False

    def check(self, where: str, entry: dict[str, Any], inputs: list[Operand | None], output: Operand) -> int:
        """Multiply-accumulates, or reads, of the operator.

        Raises:
            RefusedError: the operator breaks a rule.
        """
        options, number = entry.get("builtin_options"), entry.get("builtin_options_type", 0)
        call = Call(where, inputs, output, options or {})
        right = number == _TABLE_NUMBERS.get(self.table, 0) and (options is not None or not self.needs_options)
        # Operators without settings are written without a table, too.
        call.need(right or (number == 0 and not self.needs_options), f"has options of kind {number}")
        call.need(call.options.get("activation", 0) in _ACTIVATIONS, "has an activation that is not known here")
        call.steps = output.size
        shape = self.shape(call)
        call.need(shape == output.shape, f"gives {shape}, and its output, {output.where}, is declared {output.shape}")
        return call.steps


def _window(call: Call, kernel: tuple[int, int], dilation: tuple[int, int] = (1, 1)) -> Shape:
    """Height and width that a sliding window leaves."""
    x, o = call[0].shape, call.options
    sides = []
    strides = (o.get("stride_h", 0), o.get("stride_w", 0))
    for size, taps, stride, step in zip(x[1:3], kernel, strides, dilation, strict=True):
        call.need(min(taps, stride, step) >= 1, f"has a kernel of {taps}, a stride of {stride}, a dilation of {step}")
        span = (taps - 1) * step + 1
        same = o.get("padding", 0) == _SAME
        # A window of SAME may hang over, on both sides.
        call.need(span <= (MAX_WINDOW if same else size), f"has a window of {span} on a side of {size}")
        sides.append(-(-size // stride) if same else (size - span) // stride + 1)
    call.need(o.get("padding", 0) in (0, 1), "has a padding that is not known")
    return tuple(sides)


def _weights(call: Call, outputs: int, axis: int) -> None:
    """Types and scales of input 1, which has `outputs` channels along `axis`, and the bias's shape."""
    x, w = call[0], call[1]
    call.same_types(1)
    kind, biases = _WEIGHTS[x.kind]
    call.need(w.kind == kind, f"has {w.where} in {NAMES[w.kind]} as weights")
    if integral(w.kind):
        call.need(w.values is not None, "computes its weights")
        call.need(len(w.scale) in (1, outputs) and len(w.zero_point) in (1, outputs), "lacks scales of its weights")
        call.need(len(w.scale) == 1 or w.axis == axis, f"has weights with scales along axis {w.axis}")
        call.need(w.kind == UINT8 or not w.zero_point.any(), "has weights with a zero point")
        # A fixed-point multiplier has 31 bits before its point.
        ratio = x.scale[0] * w.scale.max() / call.output.scale[0]
        call.need(ratio < 2**30, f"multiplies by {ratio:g}, beyond fixed point")
    if len(call.inputs) > 2 and call.inputs[2] is not None:
        b = call[2]
        call.need(b.kind in biases and b.shape in ((outputs,), (1, outputs)), f"has {b.where} as bias")
        if integral(b.kind):
            call.need(b.values is not None, "computes its bias")


def _conv(call: Call) -> Shape:
    x, w, o = call[0].shape, call[1].shape, call.options
    call.need(len(x) == len(w) == 4 and x[3] == w[3], f"has the shapes {x} and {w}")
    _weights(call, w[0], 0)
    call.steps *= w[1] * w[2] * w[3]
    return (x[0], *_window(call, (w[1], w[2]), (o.get("dilation_h", 1), o.get("dilation_w", 1))), w[0])


def _depthwise(call: Call) -> Shape:
    x, w, o = call[0].shape, call[1].shape, call.options
    call.need(len(x) == len(w) == 4 and w[0] == 1, f"has the shapes {x} and {w}")
    call.need(x[3] * o.get("depth_multiplier", 0) == w[3], f"has {w[3]} channels of {x[3]}")
    _weights(call, w[3], 3)
    call.steps *= w[1] * w[2]
    return (x[0], *_window(call, (w[1], w[2]), (o.get("dilation_h", 1), o.get("dilation_w", 1))), w[3])


def _fully_connected(call: Call) -> Shape:
    x, w, o = call[0], call[1].shape, call.options
    call.need(len(w) == 2 and x.shape != () and x.size % w[1] == 0, f"has the shapes {x.shape} and {w}")
    call.need(o.get("weights_format", 0) == 0, "has shuffled weights")
    _weights(call, w[0], 0)
    call.steps *= w[1]
    if o.get("keep_num_dims", 0):
        call.need(x.shape[-1:] == w[1:], f"has the shapes {x.shape} and {w}")
        return (*x.shape[:-1], w[0])
    return (x.size // w[1], w[0])


def _pool(call: Call) -> Shape:
    x, o = call[0].shape, call.options
    call.same_types(1)
    call.need(len(x) == 4, f"has the shape {x}")
    kernel = (o.get("filter_h", 0), o.get("filter_w", 0))
    sides = _window(call, kernel)
    call.steps *= kernel[0] * kernel[1]
    return (x[0], *sides, x[3])


def _joined(call: Call) -> Shape:
    """Element by element with broadcasting."""
    a, b = call[0], call[1]
    call.same_types(2)
    call.need(max(len(a.shape), len(b.shape)) <= 4, f"has the shapes {a.shape} and {b.shape}")
    try:
        return np.broadcast_shapes(a.shape, b.shape)
    except ValueError:
        raise RefusedError(f"{call.where} has the shapes {a.shape} and {b.shape}") from None


def _sum(call: Call) -> Shape:
    kind, y = call.output.kind, call.output
    shape = _joined(call)
    if integral(kind):
        # The kernels abort where this multiplier reaches 1.
        ratio = 2 * max(call[0].scale[0], call[1].scale[0]) / (2 ** _ADD_SHIFT[kind] * y.scale[0])
        call.need(ratio < 0.99, f"adds with the multiplier {ratio:g}, beyond fixed point")
    return shape


def _product(call: Call) -> Shape:
    shape = _joined(call)
    if integral(call.output.kind):
        ratio = call[0].scale[0] * call[1].scale[0] / call.output.scale[0]
        call.need(ratio < 2**30, f"multiplies by {ratio:g}, beyond fixed point")
    return shape


def _quotient(call: Call) -> Shape:
    call.need(call.output.kind == FLOAT32, f"divides in {NAMES[call.output.kind]}")
    return _joined(call)


def _reduced(call: Call) -> Shape:
    x = call[0].shape
    call.same_types(1)
    call.need(call[1].shape == () or len(call[1].shape) == 1, f"has axes of shape {call[1].shape}")
    axes = call.numbers(1)
    call.need(all(-len(x) <= axis < len(x) for axis in axes), f"has the axes {axes} of {len(x)}")
    dropped = {axis % len(x) for axis in axes}
    _rescales(call)
    call.steps = call[0].size
    if call.options.get("keep_dims", 0):
        return tuple(1 if i in dropped else size for i, size in enumerate(x))
    return tuple(size for i, size in enumerate(x) if i not in dropped)


def _rescales(call: Call) -> None:
    if integral(call.output.kind) and integral(call[0].kind):
        ratio = call[0].scale[0] / call.output.scale[0]
        call.need(ratio < 2**20, f"multiplies by {ratio:g}, beyond fixed point")


def _padded(call: Call) -> Shape:
    x = call[0].shape
    call.same_types(1)
    call.need(call[1].shape == (len(x), 2) and len(x) <= 4, f"has paddings of shape {call[1].shape} for {x}")
    sides = call.numbers(1)
    call.need(min(sides) >= 0, f"has the paddings {sides}")
    return tuple(size + sides[2 * i] + sides[2 * i + 1] for i, size in enumerate(x))


def _concat(call: Call) -> Shape:
    x = call[0].shape
    call.same_types(len(call.inputs))
    axis = call.options.get("axis", 0)
    call.need(-len(x) <= axis < len(x) <= 4, f"joins along axis {axis} of {len(x)}")
    axis %= len(x)
    shapes = [call[i].shape for i in range(len(call.inputs))]
    rests = {s[:axis] + s[axis + 1 :] for s in shapes if len(s) == len(x)}
    call.need(len(rests) == 1 and all(len(s) == len(x) for s in shapes), f"joins the shapes {shapes}")
    return (*x[:axis], sum(s[axis] for s in shapes), *x[axis + 1 :])


def _sliced(call: Call) -> Shape:
    x = call[0].shape
    call.same_types(1)
    call.need(call[1].shape == call[2].shape == (len(x),) and len(x) <= 5, f"has operands that do not fit {x}")
    begin, size = call.numbers(1), call.numbers(2)
    sizes = [n - b if s == -1 else s for n, b, s in zip(x, begin, size, strict=True)]
    inside = all(b >= 0 and s >= 1 and b + s <= n for n, b, s in zip(x, begin, sizes, strict=True))
    call.need(inside and call[1].kind == call[2].kind, f"cuts {size} from {begin} out of {x}")
    return tuple(sizes)


def _reshaped(call: Call) -> Shape:
    """The output's own shape, which operand or option must name."""
    x, y = call[0], call.output
    call.need(x.kind == y.kind and x.size == y.size, f"makes {y.shape} of {x.shape}")
    if len(call.inputs) == 2:
        call.need(call[1].kind == INT32 and len(call[1].shape) == 1, f"has a shape of shape {call[1].shape}")
        named = call.numbers(1)
    else:
        named = call.options.get("new_shape", np.zeros(0, np.int32)).tolist()
    fits = len(named) == len(y.shape) and named.count(-1) <= 1
    call.need(
        fits and all(a in (-1, b) for a, b in zip(named, y.shape, strict=True)), f"names {named} and gives {y.shape}"
    )
    return y.shape


def _squeezed(call: Call) -> Shape:
    x = call[0].shape
    call.need(call[0].kind == call.output.kind, "changes the type")
    dims = call.options.get("squeeze_dims", np.zeros(0, np.int32)).tolist()
    call.need(all(-len(x) <= d < len(x) for d in dims), f"drops the axes {dims} of {len(x)}")
    dropped = {d % len(x) for d in dims} or {i for i, size in enumerate(x) if size == 1}
    call.need(all(x[i] == 1 for i in dropped), f"drops the axes {dims} of {x}")
    return tuple(size for i, size in enumerate(x) if i not in dropped)


def _transposed(call: Call) -> Shape:
    x = call[0].shape
    call.same_types(1)
    order = call.numbers(1)
    call.need(sorted(order) == list(range(len(x))) and call[1].kind == INT32, f"has the order {order} for {x}")
    return tuple(x[i] for i in order)


def _alike(call: Call) -> Shape:
    call.same_types(1)
    _rescales(call)
    return call[0].shape


def _float_or_scaled(call: Call) -> Shape:
    """QUANTIZE and DEQUANTIZE."""
    x, y = call[0], call.output
    types = (FLOAT32, FLOAT16, INT8, UINT8, INT16)
    call.need(x.kind in types and y.kind in types, f"turns {NAMES[x.kind]} into {NAMES[y.kind]}")
    call.one_scale(y)
    call.one_scale(x)
    _rescales(call)
    return x.shape


def _dequantized(call: Call) -> Shape:
    call.need(call.output.kind == FLOAT32 != call[0].kind, f"gives {NAMES[call.output.kind]}")
    return _float_or_scaled(call)


def _quantized(call: Call) -> Shape:
    call.need(call.output.kind in (INT8, UINT8, INT16) and call[0].kind != FLOAT16, f"gives {NAMES[call.output.kind]}")
    return _float_or_scaled(call)


def _softmax(call: Call) -> Shape:
    beta = call.options.get("beta", 0.0)
    call.need(1e-3 <= beta <= 1e3 and 1 <= len(call[0].shape) <= 4, f"has beta {beta}")
    return _alike(call)


def _leaky(call: Call) -> Shape:
    call.need(abs(call.options.get("alpha", 0.0)) <= 1e3, "has a slope out of reason")
    return _alike(call)


# Keys are BuiltinOperator's numbers.
RULES: dict[int, Rule] = {
    0: Rule("ADD", 2, 2, "Add", _sum),
    1: Rule("AVERAGE_POOL_2D", 1, 1, "Pool2D", _pool),
    2: Rule("CONCATENATION", 1, 64, "Concatenation", _concat),
    3: Rule("CONV_2D", 2, 3, "Conv2D", _conv, optional_bias=True),
    4: Rule("DEPTHWISE_CONV_2D", 2, 3, "DepthwiseConv2D", _depthwise, optional_bias=True),
    6: Rule("DEQUANTIZE", 1, 1, "Dequantize", _dequantized, needs_options=False),
    9: Rule("FULLY_CONNECTED", 2, 3, "FullyConnected", _fully_connected, optional_bias=True),
    14: Rule("LOGISTIC", 1, 1, "", _alike, needs_options=False),
    17: Rule("MAX_POOL_2D", 1, 1, "Pool2D", _pool),
    18: Rule("MUL", 2, 2, "Mul", _product),
    19: Rule("RELU", 1, 1, "", _alike, needs_options=False),
    21: Rule("RELU6", 1, 1, "", _alike, needs_options=False),
    22: Rule("RESHAPE", 1, 2, "Reshape", _reshaped, needs_options=False),
    25: Rule("SOFTMAX", 1, 1, "Softmax", _softmax),
    28: Rule("TANH", 1, 1, "", _alike, needs_options=False),
    34: Rule("PAD", 2, 2, "Pad", _padded, needs_options=False),
    39: Rule("TRANSPOSE", 2, 2, "Transpose", _transposed, needs_options=False),
    40: Rule("MEAN", 2, 2, "Reducer", _reduced),
    41: Rule("SUB", 2, 2, "Sub", _sum),
    42: Rule("DIV", 2, 2, "Div", _quotient),
    43: Rule("SQUEEZE", 1, 1, "Squeeze", _squeezed),
    55: Rule("MAXIMUM", 2, 2, "MaximumMinimum", _joined, needs_options=False),
    57: Rule("MINIMUM", 2, 2, "MaximumMinimum", _joined, needs_options=False),
    65: Rule("SLICE", 3, 3, "Slice", _sliced, needs_options=False),
    74: Rule("SUM", 2, 2, "Reducer", _reduced),
    75: Rule("SQRT", 1, 1, "", _alike, needs_options=False),
    76: Rule("RSQRT", 1, 1, "", _alike, needs_options=False),
    82: Rule("REDUCE_MAX", 2, 2, "Reducer", _reduced),
    89: Rule("REDUCE_MIN", 2, 2, "Reducer", _reduced),
    98: Rule("LEAKY_RELU", 1, 1, "LeakyRelu", _leaky),
    114: Rule("QUANTIZE", 1, 1, "Quantize", _quantized, needs_options=False),
    117: Rule("HARD_SWISH", 1, 1, "HardSwish", _alike, needs_options=False),
}
