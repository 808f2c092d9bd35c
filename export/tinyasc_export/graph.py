"""The deployed graph: tensors and operators, NHWC, small enough to read in one sitting.

Everything that is counted, written or run is this graph. Feature maps are (N, H, W, C) = (1, frequency, time, channel);
vectors are (N, C). Convolution weights are (out, kernel_h, kernel_w, in), depthwise weights (1, kernel_h, kernel_w, C),
fully connected weights (out, in). A tensor with `data` is a constant.

A quantised tensor holds integers q with real value `scale * (q - zero_point)`; weights carry one scale per output
channel along `axis`, activations one scale. An operator may carry
`activation: "relu"`, which it applies to its own result.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from tinyasc_export.errors import GraphError

DTYPES = ("float16", "float32", "float64", "int8", "int16", "int32", "int64")
ACTIVATIONS = ("none", "relu")

# kind -> (least inputs, most inputs, names of the attributes it must carry)
OPERATORS: dict[str, tuple[int, int, tuple[str, ...]]] = {
    "conv2d": (2, 3, ("stride", "padding", "dilation", "activation")),
    "depthwise_conv2d": (2, 3, ("stride", "padding", "dilation", "activation")),
    "fully_connected": (2, 3, ("activation",)),
    "add": (2, 2, ("activation",)),
    "mul": (2, 2, ("activation",)),
    "maximum": (2, 2, ()),
    "mean": (1, 1, ("axes",)),
    "max_pool": (1, 1, ("kernel", "stride", "padding")),
    "average_pool": (1, 1, ("kernel", "stride", "padding")),
    "pad": (1, 1, ("padding",)),
    "concat": (2, 64, ("axis",)),
    "slice": (1, 1, ("begin", "size")),
    "reshape": (1, 1, ("shape",)),
    "relu": (1, 1, ()),
    "sigmoid": (1, 1, ()),
    "hardswish": (1, 1, ()),
    "rsqrt": (1, 1, ()),
}
WEIGHTED = ("conv2d", "depthwise_conv2d", "fully_connected")


@dataclass
class Tensor:
    """One tensor: its shape, its type and, when quantised, its scale and zero point.

    Args:
        name: unique in the graph.
        shape: NHWC, batch included.
        dtype: one of `DTYPES`.
        data: the values of a constant; None for an activation.
        scale: float64 array of one value, or one per channel along `axis`.
        zero_point: int64 array as long as `scale`.
        axis: the channel axis of per-channel weights.
    """

    name: str
    shape: tuple[int, ...]
    dtype: str = "float32"
    data: np.ndarray | None = None
    scale: np.ndarray | None = None
    zero_point: np.ndarray | None = None
    axis: int | None = None

    @property
    def constant(self) -> bool:
        """Whether the values are fixed at export."""
        return self.data is not None

    @property
    def quantized(self) -> bool:
        """Whether the values are integers with a scale."""
        return self.scale is not None

    @property
    def nbytes(self) -> int:
        """Bytes at the stored width."""
        return int(np.prod(self.shape, dtype=np.int64)) * np.dtype(self.dtype).itemsize


@dataclass
class Op:
    """One operator: its kind, its tensors by name, its attributes, and the module that it came from."""

    kind: str
    inputs: list[str]
    output: str
    attrs: dict[str, Any] = field(default_factory=dict)
    module: str = ""


@dataclass
class Graph:
    """Operators in the order in which they run. One input and one output: features in, logits out."""

    tensors: dict[str, Tensor] = field(default_factory=dict)
    ops: list[Op] = field(default_factory=list)
    input: str = ""
    output: str = ""

    def constants(self) -> list[Tensor]:
        """Constant tensors in the order of their first use."""
        seen: dict[str, Tensor] = {}
        for op in self.ops:
            for name in op.inputs:
                if self.tensors[name].constant:
                    seen.setdefault(name, self.tensors[name])
        return list(seen.values())

    def producer(self, name: str) -> Op | None:
        """The operator that writes tensor `name`; None for the input and for constants."""
        return next((op for op in self.ops if op.output == name), None)

    def consumers(self, name: str) -> list[Op]:
        """The operators that read tensor `name`."""
        return [op for op in self.ops if name in op.inputs]

    def fresh(self, stem: str) -> str:
        """A tensor name that is not taken yet."""
        i = len(self.tensors)
        while f"{stem}{i}" in self.tensors:
            i += 1
        return f"{stem}{i}"

    def add_constant(self, stem: str, data: np.ndarray) -> str:
        """Adds a float constant and returns its name."""
        name = self.fresh(stem)
        self.tensors[name] = Tensor(name, tuple(data.shape), str(data.dtype), data)
        return name

    def add_op(self, kind: str, inputs: list[str], attrs: dict[str, Any], module: str = "") -> str:
        """Appends an operator, infers its output tensor and returns that tensor's name."""
        op = Op(kind, inputs, self.fresh("t"), attrs, module)
        shape = infer_shape(op, [self.tensors[n].shape for n in inputs])
        self.tensors[op.output] = Tensor(op.output, shape, self.tensors[inputs[0]].dtype)
        self.ops.append(op)
        return op.output

    def prune(self) -> None:
        """Drops tensors that nothing reads or writes."""
        used = {self.input, self.output}
        for op in self.ops:
            used.update(op.inputs)
            used.add(op.output)
        self.tensors = {name: t for name, t in self.tensors.items() if name in used}

    def validate(self) -> None:
        """Raises GraphError at the first rule that is broken."""
        if self.input not in self.tensors or self.output not in self.tensors:
            raise GraphError("the graph's input or output is not among its tensors")
        written = {self.input}
        for i, op in enumerate(self.ops):
            where = f"operator {i} ({op.kind}, from {op.module or 'the graph'})"
            if op.kind not in OPERATORS:
                raise GraphError(f"{where}: unknown kind")
            low, high, attrs = OPERATORS[op.kind]
            if not low <= len(op.inputs) <= high:
                raise GraphError(f"{where}: {len(op.inputs)} inputs, expected {low} to {high}")
            missing = [a for a in attrs if a not in op.attrs]
            if missing:
                raise GraphError(f"{where}: attribute {missing[0]!r} is missing")
            if op.attrs.get("activation", "none") not in ACTIVATIONS:
                raise GraphError(f"{where}: activation {op.attrs['activation']!r} is not one of {ACTIVATIONS}")
            for name in op.inputs:
                if name not in self.tensors:
                    raise GraphError(f"{where}: input {name!r} does not exist")
                if not self.tensors[name].constant and name not in written:
                    raise GraphError(f"{where}: input {name!r} is read before it is written")
            if op.output in written:
                raise GraphError(f"{where}: output {op.output!r} is written twice")
            written.add(op.output)
            shape = infer_shape(op, [self.tensors[n].shape for n in op.inputs])
            if shape != self.tensors[op.output].shape:
                raise GraphError(f"{where}: output is {self.tensors[op.output].shape}, should be {shape}")
        if self.output not in written:
            raise GraphError(f"output {self.output!r} is never written")
        for t in self.tensors.values():
            if t.dtype not in DTYPES:
                raise GraphError(f"tensor {t.name}: type {t.dtype!r} is not one of {DTYPES}")
            if t.data is not None and (tuple(t.data.shape) != t.shape or str(t.data.dtype) != t.dtype):
                raise GraphError(f"tensor {t.name}: data is {t.data.dtype}{t.data.shape}, declared {t.dtype}{t.shape}")

    def __str__(self) -> str:
        lines = [f"input  {_describe(self.tensors[self.input])}"]
        for op in self.ops:
            attrs = " ".join(f"{k}={v}" for k, v in op.attrs.items())
            lines.append(
                f"{_describe(self.tensors[op.output])} = {op.kind}({', '.join(op.inputs)}) {attrs}  # {op.module}"
            )
        lines.append(f"output {self.output}")
        return "\n".join(lines)


def _describe(t: Tensor) -> str:
    quantized = (
        "" if t.scale is None or t.zero_point is None else f" @{t.scale.flat[0]:.4g}{int(t.zero_point.flat[0]):+d}"
    )
    return f"{t.name}:{t.dtype}{list(t.shape)}{quantized}"


def window_size(size: int, kernel: int, stride: int, dilation: int = 1) -> int:
    """Output length of a sliding window over `size` (padding included) samples."""
    return (size - dilation * (kernel - 1) - 1) // stride + 1


def padding_mode(
    size: Sequence[int],
    kernel: Sequence[int],
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int] = (1, 1),
) -> str | None:
    """TFLite's name for an explicit padding, if it has one.

    SAME yields ceil(in / stride) windows and pads half of what they lack, rounded down, in front. What lies
    behind follows from the count of windows, so equal counts and equal front padding mean equal reads.

    Args:
        size: height and width of the input, padding not included.
        kernel: height and width of the window.
        stride: per axis.
        padding: (top, bottom, left, right).
        dilation: per axis.

    Returns:
        "VALID", "SAME", or None when neither reads exactly the same values.
    """
    fits = {"VALID": True, "SAME": True}
    for axis in (0, 1):
        before, after = padding[2 * axis], padding[2 * axis + 1]
        span = dilation[axis] * (kernel[axis] - 1) + 1
        windows = window_size(size[axis] + before + after, kernel[axis], stride[axis], dilation[axis])
        same_windows = -(-size[axis] // stride[axis])
        same_total = max((same_windows - 1) * stride[axis] + span - size[axis], 0)
        # Without padding no window may hang over: its count must be what the bare input allows.
        valid_windows = window_size(size[axis], kernel[axis], stride[axis], dilation[axis])
        fits["VALID"] &= before == 0 and windows == valid_windows
        fits["SAME"] &= before == same_total // 2 and windows == same_windows
    return next((mode for mode, fit in fits.items() if fit), None)


def infer_shape(op: Op, shapes: list[tuple[int, ...]]) -> tuple[int, ...]:
    """Shape of an operator's output from the shapes of its inputs.

    Raises:
        GraphError: shapes that do not go together; the message names both.
    """
    x, attrs = shapes[0], op.attrs
    where = f"{op.kind} (from {op.module or 'the graph'})"
    if op.kind in ("conv2d", "depthwise_conv2d"):
        w = shapes[1]
        wants = w[3] if op.kind == "conv2d" else w[3] * w[0]
        if x[3] != wants:
            raise GraphError(f"{where}: input {x} has {x[3]} channels, the weight {w} wants {wants}")
        return (x[0], *_window(x, w[1:3], attrs, attrs["dilation"]), w[0] if op.kind == "conv2d" else w[3])
    if op.kind == "fully_connected":
        if len(x) != 2 or x[1] != shapes[1][1]:
            raise GraphError(f"{where}: input {x} does not fit the weight {shapes[1]}")
        return (x[0], shapes[1][0])
    if op.kind in ("add", "mul", "maximum"):
        try:
            return tuple(np.broadcast_shapes(*shapes))
        except ValueError:
            raise GraphError(f"{where}: shapes {shapes} do not broadcast") from None
    if op.kind == "mean":
        return tuple(1 if i in attrs["axes"] else s for i, s in enumerate(x))
    if op.kind in ("max_pool", "average_pool"):
        return (x[0], *_window(x, attrs["kernel"], attrs, (1, 1)), x[3])
    if op.kind == "pad":
        top, bottom, left, right = attrs["padding"]
        return (x[0], x[1] + top + bottom, x[2] + left + right, x[3])
    if op.kind == "concat":
        axis = attrs["axis"]
        rest = {s[:axis] + s[axis + 1 :] for s in shapes}
        if len(rest) != 1:
            raise GraphError(f"{where}: shapes {shapes} differ beside axis {axis}")
        return (*x[:axis], sum(s[axis] for s in shapes), *x[axis + 1 :])
    if op.kind == "slice":
        ends = [b + n for b, n in zip(attrs["begin"], attrs["size"], strict=True)]
        if any(end > s for end, s in zip(ends, x, strict=True)):
            raise GraphError(f"{where}: slice to {ends} leaves the input {x}")
        return tuple(attrs["size"])
    if op.kind == "reshape":
        if np.prod(x) != np.prod(attrs["shape"]):
            raise GraphError(f"{where}: {x} cannot become {attrs['shape']}")
        return tuple(attrs["shape"])
    return x


def _window(
    x: tuple[int, ...], kernel: Iterable[int], attrs: dict[str, Any], dilation: tuple[int, int]
) -> tuple[int, int]:
    kh, kw = kernel
    top, bottom, left, right = attrs["padding"]
    h = window_size(x[1] + top + bottom, kh, attrs["stride"][0], dilation[0])
    w = window_size(x[2] + left + right, kw, attrs["stride"][1], dilation[1])
    if h < 1 or w < 1:
        raise GraphError(f"a {kh}x{kw} window with dilation {dilation} does not fit the input {x}")
    return h, w
