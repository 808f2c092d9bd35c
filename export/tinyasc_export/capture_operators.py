"""The operators of the front door: what each torch operator becomes in the deployed graph.

Values keep torch's logical dimensions while their tensors are NHWC: `Value.axes` says on which axis of the tensor each
logical dimension lies, so that a transpose costs nothing. Where an operator needs the standard layout and only axes of
length one have to move, a reshape does it; a transpose that would have to move data is refused. A flattened map keeps
its stored order, which `Value.order` remembers until a linear layer takes it into its weights.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from tinyasc_export.errors import CaptureError
from tinyasc_export.graph import Graph

NCHW = (0, 3, 1, 2)


@dataclass(frozen=True)
class Value:
    """A tensor of the graph, and the axis that holds each logical dimension. Other axes have length one.

    Args:
        name: of the tensor.
        axes: of the tensor, one per logical dimension.
        order: of a flattened map, the stored place of each logical feature; None where both orders are one.
    """

    name: str
    axes: tuple[int, ...]
    order: np.ndarray | None = None


class _Operators:
    """A graph that grows by one call per torch operator.

    Args:
        dtype: "float32" or "float64", of constants.
    """

    def __init__(self, dtype: str) -> None:
        self.graph = Graph()
        self.dtype = dtype
        self.module = ""

    def refuse(self, why: str) -> CaptureError:
        return CaptureError(
            f"module {self.module or '(top level)'}: {why}; rewrite that module, or keep it out of the student"
        )

    # Layout ------------------------------------------------------------------------------------------------------

    def shape(self, value: Value) -> tuple[int, ...]:
        """Logical shape."""
        full = self.graph.tensors[value.name].shape
        return tuple(full[a] for a in value.axes)

    def op(self, kind: str, inputs: list[str], **attrs: Any) -> str:
        return self.graph.add_op(kind, inputs, attrs, self.module)

    def standard(self, value: Value) -> Value:
        """The value in NHWC; only axes of length one may have to move."""
        shape = self.shape(value)
        if len(shape) != 4:
            raise self.refuse(f"a value of shape {shape} is used where a map of four dimensions is wanted")
        full = self.graph.tensors[value.name].shape
        if value.axes == NCHW and len(full) == 4:
            return value
        n, c, h, w = shape
        return self.move(value, (n, h, w, c), (0, 2, 3, 1), NCHW)

    def matrix(self, value: Value) -> Value:
        """The value as (1, features)."""
        if len(value.axes) != 2:
            raise self.refuse(f"a value of shape {self.shape(value)} is used where (1, features) or a map is wanted")
        if value.axes == (0, 1) and len(self.graph.tensors[value.name].shape) == 2:
            return value
        return self.move(value, self.shape(value), (0, 1), (0, 1))

    def move(self, value: Value, target: tuple[int, ...], order: tuple[int, ...], axes: tuple[int, ...]) -> Value:
        """Reshapes to `target`, whose axes hold the logical dimensions `order`, when no data has to move."""
        shape = self.shape(value)
        before = [a for a, size in sorted(zip(value.axes, shape, strict=True)) if size > 1]
        after = [value.axes[i] for i in order if shape[i] > 1]
        if before != after:
            raise self.refuse(f"a transpose of shape {shape} would have to move data, which no deployed operator does")
        return Value(self.op("reshape", [value.name], shape=target), axes)

    # Operators ---------------------------------------------------------------------------------------------------

    def conv2d(
        self,
        x: Value,
        weight: np.ndarray,
        bias: np.ndarray | None = None,
        stride: Sequence[int] = (1, 1),
        padding: Any = (0, 0),
        dilation: Sequence[int] = (1, 1),
        groups: int = 1,
    ) -> Value:
        x = self.standard(x)
        out_channels, in_group = weight.shape[:2]
        kernel = weight.shape[2:]
        if padding == "same":
            total = [d * (k - 1) for d, k in zip(pair(dilation), kernel, strict=True)]
            pads = (total[0] // 2, total[0] - total[0] // 2, total[1] // 2, total[1] - total[1] // 2)
        elif padding == "valid":
            pads = (0, 0, 0, 0)
        else:
            p = pair(padding)
            pads = (p[0], p[0], p[1], p[1])
        attrs = {"stride": pair(stride), "padding": pads, "dilation": pair(dilation), "activation": "none"}
        if groups == 1:
            kind, packed = "conv2d", weight.transpose(0, 2, 3, 1)
        elif in_group == 1 and out_channels == groups:
            kind, packed = "depthwise_conv2d", weight.transpose(1, 2, 3, 0)
        else:
            raise self.refuse(
                f"a convolution with {groups} groups of {in_group} channels; only dense and depthwise are deployed"
            )
        inputs = [x.name, self.graph.add_constant("w", np.ascontiguousarray(packed))]
        if bias is not None:
            inputs.append(self.graph.add_constant("b", bias))
        return Value(self.op(kind, inputs, **attrs), NCHW)

    def linear(self, x: Value, weight: np.ndarray, bias: np.ndarray | None = None) -> Value:
        if len(self.shape(x)) != 2:
            raise self.refuse(f"a linear layer on shape {self.shape(x)}; flatten to (1, features) first")
        x = self.matrix(x)
        if x.order is not None:
            weight = scattered(weight, x.order)
        inputs = [x.name, self.graph.add_constant("w", np.ascontiguousarray(weight))]
        if bias is not None:
            inputs.append(self.graph.add_constant("b", bias))
        return Value(self.op("fully_connected", inputs, activation="none"), (0, 1))

    def batch_norm(
        self,
        x: Value,
        weight: np.ndarray | None,
        bias: np.ndarray | None,
        mean: np.ndarray,
        variance: np.ndarray,
        training: bool,
        momentum: float,
        epsilon: float,
        cudnn: bool = False,
    ) -> Value:
        del training, momentum, cudnn
        scale = 1 / np.sqrt(variance + epsilon)
        scale = scale * weight if weight is not None else scale
        offset = -mean * scale + (bias if bias is not None else 0)
        if x.order is not None:
            scale, offset = scattered(scale, x.order), scattered(offset, x.order)
        shape = [1] * len(self.graph.tensors[x.name].shape)
        shape[x.axes[1]] = -1
        out = self.op("mul", [x.name, self.constant(scale.reshape(shape))], activation="none")
        out = self.op("add", [out, self.constant(offset.reshape(shape))], activation="none")
        return Value(out, x.axes, x.order)

    def constant(self, data: np.ndarray) -> str:
        return self.graph.add_constant("c", np.ascontiguousarray(data, dtype=self.dtype))

    def unary(self, kind: str, x: Value) -> Value:
        return Value(self.op(kind, [x.name]), x.axes, x.order)

    def power(self, x: Value, exponent: float = 2) -> Value:
        if exponent != 2:
            raise self.refuse(f"a power of {exponent}; only squares")
        return self.binary("mul", x, x)

    def maximum(self, a: Value, b: Value) -> Value:
        """Of two activations; a constant would need their scale."""
        if not (isinstance(a, Value) and isinstance(b, Value)):
            raise self.refuse("a maximum with a constant; only of two activations")
        return self.binary("maximum", a, b)

    def binary(self, kind: str, a: Any, b: Any) -> Value:
        attrs = {} if kind == "maximum" else {"activation": "none"}
        if not isinstance(a, Value):
            a, b = b, a
        if not isinstance(b, Value):
            data = np.asarray(b, dtype=self.dtype)
            if data.ndim > len(a.axes):
                raise self.refuse(f"{kind} with a constant of shape {data.shape}")
            # Places the constant's dimensions, aligned at the right as torch broadcasts, on the axes of `a`.
            shape = [1] * len(self.graph.tensors[a.name].shape)
            logical = (1,) * (len(a.axes) - data.ndim) + data.shape
            order = sorted(range(len(logical)), key=lambda i: a.axes[i])
            for axis, size in zip(a.axes, logical, strict=True):
                shape[axis] = size
            arranged = data.reshape(logical).transpose(order).reshape(shape)
            return Value(self.op(kind, [a.name, self.constant(arranged)], **attrs), a.axes)
        if len(a.axes) != len(b.axes):
            raise self.refuse(f"{kind} of shapes {self.shape(a)} and {self.shape(b)}")
        if a.axes != b.axes or len(self.graph.tensors[a.name].shape) != len(self.graph.tensors[b.name].shape):
            to = self.matrix if len(a.axes) == 2 else self.standard
            a, b = to(a), to(b)
        return Value(self.op(kind, [a.name, b.name], **attrs), a.axes)

    def reduced(self, x: Value, dims: Sequence[int], keepdim: bool) -> tuple[list[int], tuple[int, ...]]:
        """Graph axes to reduce, and the axes of the result."""
        logical = sorted(d % len(x.axes) for d in dims)
        if not logical or 0 in logical:
            raise self.refuse(f"a reduction over dimensions {list(dims)} takes in the batch; name the others alone")
        kept = x.axes if keepdim else tuple(a for i, a in enumerate(x.axes) if i not in logical)
        return [x.axes[d] for d in logical], kept

    def mean(self, x: Value, dims: Any = None, keepdim: bool = False) -> Value:
        if dims is None:
            raise self.refuse("a mean over all dimensions, batch included; name the dimensions")
        axes, kept = self.reduced(x, listed(dims), keepdim)
        return Value(self.op("mean", [x.name], axes=tuple(sorted(axes))), kept)

    def amax(self, x: Value, dims: Any = (), keepdim: bool = False) -> Value:
        axes, kept = self.reduced(x, listed(dims), keepdim)
        if len(self.graph.tensors[x.name].shape) != 4:
            raise self.refuse(f"a maximum over dimensions {dims} of shape {self.shape(x)}; only of maps")
        name = x.name
        # A maximum over whole axes is a max pool as large as they are, which every microcontroller kernel set has.
        if {1, 2} & set(axes):
            _, h, w, _ = self.graph.tensors[name].shape
            name = self.widest(name, (h if 1 in axes else 1, w if 2 in axes else 1))
        if 3 in axes:
            # Over channels: positions become rows, channels columns, of one channel.
            n, h, w, c = self.graph.tensors[name].shape
            name = self.widest(self.op("reshape", [name], shape=(n, h * w, c, 1)), (1, c))
            name = self.op("reshape", [name], shape=(n, h, w, 1))
        return Value(name, kept)

    def widest(self, name: str, kernel: tuple[int, int]) -> str:
        return self.op("max_pool", [name], kernel=kernel, stride=(1, 1), padding=(0, 0, 0, 0))

    def pool(self, kind: str, x: Value, kernel: Any, stride: Any, padding: Any) -> Value:
        x = self.standard(x)
        p = pair(padding)
        size = pair(kernel)
        step = pair(stride) if stride is not None and listed(stride) else size
        return Value(self.op(kind, [x.name], kernel=size, stride=step, padding=(p[0], p[0], p[1], p[1])), NCHW)

    def max_pool2d(
        self,
        x: Value,
        kernel: Any,
        stride: Any = None,
        padding: Any = 0,
        dilation: Any = 1,
        ceil_mode: bool = False,
    ) -> Value:
        if pair(dilation) != (1, 1) or ceil_mode or pair(padding) != (0, 0):
            raise self.refuse("a max pool with padding, dilation or ceil_mode")
        return self.pool("max_pool", x, kernel, stride, padding)

    def avg_pool2d(
        self,
        x: Value,
        kernel: Any,
        stride: Any = None,
        padding: Any = 0,
        ceil_mode: bool = False,
        count_include_pad: bool = True,
        divisor_override: int | None = None,
    ) -> Value:
        if ceil_mode or divisor_override is not None:
            raise self.refuse("an average pool with ceil_mode or its own divisor")
        if (p := pair(padding)) == (0, 0):
            return self.pool("average_pool", x, kernel, stride, 0)
        if not count_include_pad:
            raise self.refuse("an average pool with padding that it does not count; leave count_include_pad at True")
        # TFLite's average leaves padding out; zeros that are in the map it counts, as torch does.
        padded = self.op("pad", [self.standard(x).name], padding=(p[0], p[0], p[1], p[1]))
        return self.pool("average_pool", Value(padded, NCHW), kernel, stride, 0)

    def adaptive_avg_pool2d(self, x: Value, size: Any) -> Value:
        if pair(size) != (1, 1):
            raise self.refuse(f"an adaptive average pool to {pair(size)}; only to one value")
        return self.mean(x, (2, 3), keepdim=True)

    def cat(self, values: Sequence[Value], dim: int = 0) -> Value:
        parts = [self.standard(v) if len(v.axes) == 4 else self.matrix(v) for v in values]
        if len(parts) == 1:
            return parts[0]
        axis = parts[0].axes[dim % len(parts[0].axes)]
        return Value(self.op("concat", [p.name for p in parts], axis=axis), parts[0].axes)

    def take(self, x: Value, dim: int, start: int, length: int) -> Value:
        shape = self.graph.tensors[x.name].shape
        if length < 1:
            raise self.refuse(f"a slice of dimension {dim} of shape {self.shape(x)} that holds nothing")
        begin, size = [0] * len(shape), list(shape)
        axis = x.axes[dim % len(x.axes)]
        begin[axis], size[axis] = start, length
        return Value(self.op("slice", [x.name], begin=tuple(begin), size=tuple(size)), x.axes)

    def split(self, x: Value, sizes: Any, dim: int = 0) -> list[Value]:
        total = self.shape(x)[dim]
        if isinstance(sizes, int):
            sizes = [min(sizes, total - start) for start in range(0, total, sizes)]
        starts = np.cumsum([0, *sizes[:-1]])
        return [self.take(x, dim, int(s), int(n)) for s, n in zip(starts, sizes, strict=True)]

    def chunk(self, x: Value, chunks: int, dim: int = 0) -> list[Value]:
        return self.split(x, math.ceil(self.shape(x)[dim] / chunks), dim)

    def slice(self, x: Value, dim: int = 0, start: int | None = None, end: int | None = None, step: int = 1) -> Value:
        size = self.shape(x)[dim]
        first, last, _ = slice(start, end).indices(size)
        if step != 1:
            raise self.refuse(f"a slice with step {step}")
        return x if (first, last) == (0, size) else self.take(x, dim, first, last - first)

    def transpose(self, x: Value, a: int, b: int) -> Value:
        axes = list(x.axes)
        axes[a], axes[b] = axes[b], axes[a]
        return Value(x.name, tuple(axes))

    def permute(self, x: Value, order: Sequence[int]) -> Value:
        return Value(x.name, tuple(x.axes[i] for i in order))

    def squeeze(self, x: Value, dims: Any = None) -> Value:
        shape = self.shape(x)
        if dims is None:
            raise self.refuse("a squeeze of all dimensions, batch included; name the dimensions")
        drop = [d % len(shape) for d in listed(dims)]
        return Value(x.name, tuple(a for i, a in enumerate(x.axes) if not (i in drop and shape[i] == 1)))

    def unsqueeze(self, x: Value, dim: int) -> Value:
        rank = len(self.graph.tensors[x.name].shape)
        free = [a for a in range(rank) if a not in x.axes]
        if not free:
            raise self.refuse(f"unsqueeze of shape {self.shape(x)} beyond {rank} dimensions")
        at = dim % (len(x.axes) + 1)
        return Value(x.name, (*x.axes[:at], free[0], *x.axes[at:]))

    def flatten(self, x: Value, start: int = 0, end: int = -1) -> Value:
        shape = self.shape(x)
        if start % len(shape) != 1 or end % len(shape) != len(shape) - 1:
            raise self.refuse(f"a flatten of dimensions {start} to {end} of shape {shape}; only of all but the batch")
        return self.reshape(x, (1, math.prod(shape[1:])))

    def reshape(self, x: Value, target: Sequence[int]) -> Value:
        shape = self.shape(x)
        known = -math.prod(target)
        target = tuple(math.prod(shape) // known if n == -1 else n for n in target)
        if target == shape:
            return x
        if len(target) != 2 or target[0] != 1:
            raise self.refuse(f"a reshape from {shape} to {target}; only to (1, features)")
        full = self.graph.tensors[x.name].shape
        # The stored place of each logical feature; axes that hold no logical dimension have length one.
        places = np.arange(math.prod(full)).reshape(full)
        order = places.transpose(*x.axes, *(a for a in range(len(full)) if a not in x.axes)).ravel()
        in_order = np.array_equal(order, np.arange(order.size))
        return Value(self.op("reshape", [x.name], shape=target), (0, 1), None if in_order else order)


def scattered(values: np.ndarray, order: np.ndarray) -> np.ndarray:
    """Values per logical feature, along the last axis, at the stored places `order` of the features."""
    out = np.empty_like(values)
    out[..., order] = values
    return out


def pair(value: Any) -> tuple[int, int]:
    """One number for both axes, or one for each."""
    values = listed(value)
    return (values[0], values[0]) if len(values) == 1 else (values[0], values[1])


def listed(value: Any) -> list[int]:
    """One number or several, as a list."""
    return [value] if isinstance(value, int) else list(value)
