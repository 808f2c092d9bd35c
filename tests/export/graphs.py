"""Graphs for tests: a short way to write one, random ones for hypothesis, and a quantiser by hand."""

from __future__ import annotations

import copy
import math

import numpy as np
from hypothesis import strategies as st

from tinyasc_export import reference
from tinyasc_export.bundle import Bundle
from tinyasc_export.graph import WEIGHTED, Graph, Tensor
from tinyasc_export.tflite_rules import SAME_SCALE, WEIGHT_AXIS

BUNDLE = Bundle(
    labels=("airport", "bus", "métro"),
    front_end={"rate": 32000, "n_mels": 64, "hop_length": 1024},
    card={"seed": 3, "accuracy": 0.875},
)


class Net:
    """A graph that grows by one call per operator; weights are drawn from a seed.

    Args:
        shape: NHWC of the input.
        seed: of the weights.
        dtype: of the input and the weights.
    """

    def __init__(self, shape: tuple[int, ...], seed: int = 0, dtype: str = "float32") -> None:
        self.rng = np.random.default_rng(seed)
        self.dtype = dtype
        self.graph = Graph(input="x", output="x")
        self.graph.tensors["x"] = Tensor("x", shape, dtype)

    def shape(self, name: str) -> tuple[int, ...]:
        return self.graph.tensors[name].shape

    def constant(self, *shape: int, spread: float = 1.0) -> str:
        return self.graph.add_constant("c", (spread * self.rng.standard_normal(shape)).astype(self.dtype))

    def op(self, kind: str, inputs: list[str], **attrs) -> str:
        self.graph.output = self.graph.add_op(kind, inputs, attrs, f"net.{kind}{len(self.graph.ops)}")
        return self.graph.output

    def conv(
        self,
        x: str,
        out: int,
        kernel: tuple[int, int],
        *,
        stride: tuple[int, int] = (1, 1),
        padding: tuple[int, int, int, int] = (0, 0, 0, 0),
        dilation: tuple[int, int] = (1, 1),
        activation: str = "none",
        bias: bool = True,
    ) -> str:
        channels = self.shape(x)[3]
        w = self.constant(out, *kernel, channels, spread=(kernel[0] * kernel[1] * channels) ** -0.5)
        biases = [self.constant(out, spread=0.3)] if bias else []
        attrs = {"stride": stride, "padding": padding, "dilation": dilation, "activation": activation}
        return self.op("conv2d", [x, w, *biases], **attrs)

    def depthwise(
        self,
        x: str,
        kernel: tuple[int, int],
        *,
        stride: tuple[int, int] = (1, 1),
        padding: tuple[int, int, int, int] = (0, 0, 0, 0),
        dilation: tuple[int, int] = (1, 1),
        activation: str = "none",
        bias: bool = True,
    ) -> str:
        channels = self.shape(x)[3]
        w = self.constant(1, *kernel, channels, spread=(kernel[0] * kernel[1]) ** -0.5)
        biases = [self.constant(channels, spread=0.3)] if bias else []
        attrs = {"stride": stride, "padding": padding, "dilation": dilation, "activation": activation}
        return self.op("depthwise_conv2d", [x, w, *biases], **attrs)

    def linear(self, x: str, out: int, *, activation: str = "none", bias: bool = True) -> str:
        features = self.shape(x)[1]
        w = self.constant(out, features, spread=features**-0.5)
        biases = [self.constant(out, spread=0.3)] if bias else []
        return self.op("fully_connected", [x, w, *biases], activation=activation)

    def flatten(self, x: str) -> str:
        return self.op("reshape", [x], shape=(1, int(np.prod(self.shape(x)))))

    def features(self, batch: int = 1, seed: int = 1) -> np.ndarray:
        shape = (batch, *self.shape("x")[1:])
        return np.random.default_rng(seed).standard_normal(shape).astype(self.dtype)


def same_padding(
    size: tuple[int, int],
    kernel: tuple[int, int],
    stride: tuple[int, int],
    dilation: tuple[int, int] = (1, 1),
) -> tuple[int, int, int, int]:
    """TFLite's SAME padding, written out."""
    pads: list[int] = []
    for n, k, s, d in zip(size, kernel, stride, dilation, strict=True):
        total = max((-(-n // s) - 1) * s + d * (k - 1) + 1 - n, 0)
        pads += [total // 2, total - total // 2]
    return pads[0], pads[1], pads[2], pads[3]


KINDS = (
    "conv2d",
    "depthwise_conv2d",
    "add",
    "add_constant",
    "mul",
    "mean",
    "max_pool",
    "average_pool",
    "pad",
    "concat",
    "slice",
    "reshape",
    "relu",
    "gate",
    "hardswish",
    "maximum",
    "channel_max",
    "rsqrt",
)
INT16_KINDS = tuple(kind for kind in KINDS if kind not in ("hardswish", "rsqrt"))


@st.composite
def nets(
    draw: st.DrawFn, most: int = 5, kinds: tuple[str, ...] = KINDS, wide: bool = False, framed: bool = False
) -> Net:
    """Random nets of up to `most` steps over a small map, with a linear head or without one.

    Args:
        draw: hypothesis'.
        most: steps.
        kinds: to draw steps from.
        wide: up to 130 channels in place of 9, dilations up to 8 in place of 3, also together with a stride.
        framed: always with a convolution in front and a linear head, so that all channels between are the net's own.
    """
    frames = draw(st.integers(1, 12) | st.just(1)) if wide else draw(st.integers(1, 12))
    shape = (1, draw(st.integers(1, 12)), frames, draw(_CHANNELS if wide else st.integers(1, 6)))
    net = Net(shape, seed=draw(st.integers(0, 2**16)))
    x = net.conv("x", draw(st.integers(2, 9)), (1, 1), activation=draw(_ACTIVATIONS)) if framed else "x"
    for _ in range(draw(st.integers(1, most))):
        x = _step(draw, net, x, draw(st.sampled_from(kinds)), wide)
    if framed or draw(st.booleans()):
        x = net.flatten(x)
        net.linear(x, draw(st.integers(1, 7)), activation=draw(_ACTIVATIONS), bias=draw(st.booleans()))
    return net


_ACTIVATIONS = st.sampled_from(("none", "relu"))
_CHANNELS = st.sampled_from((1, 2, 3, 4, 8, 15, 16, 17, 64, 130)) | st.integers(1, 130)


def _step(draw: st.DrawFn, net: Net, x: str, kind: str, wide: bool = False) -> str:
    _, h, w, c = net.shape(x)
    if kind in ("conv2d", "depthwise_conv2d"):
        kernel, stride, padding, dilation = _window(draw, h, w, most_dilation=8 if wide else 3, both=wide)
        options = {"stride": stride, "padding": padding, "dilation": dilation}
        options |= {"activation": draw(_ACTIVATIONS), "bias": draw(st.booleans())}
        if kind == "conv2d":
            return net.conv(x, draw(_CHANNELS if wide else st.integers(1, 9)), kernel, **options)
        return net.depthwise(x, kernel, **options)
    if kind == "add":
        other = net.conv(x, c, (1, 1))
        return net.op("add", [x, other], activation=draw(_ACTIVATIONS))
    if kind == "add_constant":
        return net.op("add", [x, net.constant(1, 1, 1, c)], activation="none")
    if kind == "mul":
        other = net.op("mean", [x], axes=draw(st.sampled_from(((1,), (2,), (1, 2), (1, 2, 3)))))
        return net.op("mul", [x, other], activation=draw(_ACTIVATIONS))
    if kind == "mean":
        return net.op("mean", [x], axes=draw(st.sampled_from(((1,), (2,), (3,), (1, 2), (1, 2, 3)))))
    if kind in ("max_pool", "average_pool"):
        kernel, stride, padding, _ = _window(draw, h, w, most_dilation=1)
        return net.op(kind, [x], kernel=kernel, stride=stride, padding=padding)
    if kind == "pad":
        return net.op("pad", [x], padding=tuple(draw(st.integers(0, 2)) for _ in range(4)))
    if kind == "concat":
        other = net.conv(x, c, (1, 1))
        return net.op("concat", [x, other], axis=draw(st.integers(1, 3)))
    if kind == "slice":
        begin = tuple(draw(st.integers(0, n - 1)) for n in (h, w, c))
        size = tuple(draw(st.integers(1, n - b)) for n, b in zip((h, w, c), begin, strict=True))
        return net.op("slice", [x], begin=(0, *begin), size=(1, *size))
    if kind == "reshape":
        shape = draw(st.sampled_from(((1, h * w, 1, c), (1, w, h, c), (1, 1, h, w * c), (1, h, 1, w * c))))
        return net.op("reshape", [x], shape=shape)
    if kind == "gate":
        gate = net.op("sigmoid", [x])
        return net.op("mul", [x, gate], activation="none")
    if kind == "maximum":
        other = net.conv(x, draw(st.sampled_from((1, c))), (1, 1))
        return net.op("maximum", draw(st.sampled_from(([x, other], [other, x]))))
    if kind == "channel_max":
        rows = net.op("reshape", [x], shape=(1, h * w, c, 1))
        pooled = net.op("max_pool", [rows], kernel=(1, c), stride=(1, 1), padding=(0, 0, 0, 0))
        return net.op("reshape", [pooled], shape=(1, h, w, 1))
    if kind == "rsqrt":
        power = net.op("mean", [net.op("mul", [x, x], activation="none")], axes=(1, 2))
        positive = net.op(
            "add", [power, net.graph.add_constant("c", np.full((1, 1, 1, 1), 0.05, net.dtype))], activation="none"
        )
        return net.op("mul", [x, net.op("rsqrt", [positive])], activation="none")
    return net.op(kind, [x])


def _window(draw: st.DrawFn, h: int, w: int, most_dilation: int, both: bool = False):
    """A window that fits, with VALID or SAME padding."""
    same = draw(st.booleans())
    kernel, dilation = [], []
    for n in (h, w):
        kernel.append(draw(st.integers(1, 4 if same else min(n, 4))))
        room = most_dilation if same or kernel[-1] == 1 else max(1, min(most_dilation, (n - 1) // (kernel[-1] - 1)))
        dilation.append(draw(st.integers(1, room)))
    # TFLite refuses nothing here, but a stride together with a dilation is not something that nets do.
    strides = st.just(1) if max(dilation) > 1 and not both else st.integers(1, 3)
    stride = (draw(strides), draw(strides))
    pair = (kernel[0], kernel[1]), (dilation[0], dilation[1])
    padding = same_padding((h, w), pair[0], stride, pair[1]) if same else (0, 0, 0, 0)
    return pair[0], stride, padding, pair[1]


def quantize_by_hand(graph: Graph, x: np.ndarray, *, per_channel_linear: bool = False) -> Graph:
    """An int8 copy of a float graph: ranges from one run on `x`, shared where operators ask for it."""
    graph = copy.deepcopy(graph)
    values = reference.run_all(graph, x)
    biases = {op.inputs[2] for op in graph.ops if op.kind in WEIGHTED and len(op.inputs) == 3}
    weights = {op.inputs[1]: op.kind for op in graph.ops if op.kind in WEIGHTED}
    for t in graph.constants():
        if t.name not in weights and t.name not in biases:
            values[t.name] = t.data
    group = {name: name for name in values}

    def root(name: str) -> str:
        return name if group[name] == name else root(group[name])

    for op in graph.ops:
        if op.kind in SAME_SCALE:
            for name in op.inputs:
                group[root(name)] = root(op.output)
    probability = {root(op.output) for op in graph.ops if op.kind == "sigmoid"}
    for leader in {root(name) for name in values}:
        members = [name for name in values if root(name) == leader]
        low = min(0.0, *(float(values[n].min()) for n in members))
        high = max(0.0, *(float(values[n].max()) for n in members))
        # A dead tensor (all zeros after a ReLU) still gets a range: XNNPACK's ADD overflows on absurd ratios.
        scale = np.float64(np.float32(max(high - low, 0.1) / 255))
        zero_point = int(np.clip(np.rint(-128 - low / scale), -128, 127))
        if leader in probability:
            scale, zero_point = np.float64(1 / 256), -128
        for name in members:
            _quantize(graph.tensors[name], "int8", np.array([scale]), zero_point, None)
    for op in graph.ops:
        if op.kind not in WEIGHTED:
            continue
        w = graph.tensors[op.inputs[1]]
        axis = WEIGHT_AXIS[op.kind]
        others = tuple(i for i in range(len(w.shape)) if i != axis)
        if op.kind == "fully_connected" and not per_channel_linear:
            others = (0, 1)
        largest = np.abs(w.data).max(axis=others).reshape(-1)
        scale = np.float64(np.float32(np.maximum(largest, 1e-6) / 127))
        _quantize(w, "int8", scale, 0, axis if scale.size > 1 else None)
        if len(op.inputs) == 3:
            input_scale = graph.tensors[op.inputs[0]].scale
            _quantize(graph.tensors[op.inputs[2]], "int32", input_scale * scale, 0, 0)
    graph.validate()
    return graph


def _quantize(t: Tensor, dtype: str, scale: np.ndarray, zero_point: int, axis: int | None) -> None:
    t.dtype, t.scale, t.axis = dtype, scale, axis
    t.zero_point = np.full(scale.size, zero_point, np.int64)
    if t.data is not None:
        shape = [1] * t.data.ndim
        if axis is not None and scale.size > 1:
            shape[axis] = scale.size
        limits = np.iinfo(dtype)
        low = -127 if axis is not None and dtype == "int8" else limits.min
        integers = np.rint(t.data / scale.reshape(shape)) + zero_point
        t.data = np.clip(integers, low, limits.max).astype(dtype)


def quantize_features(graph: Graph, x: np.ndarray) -> np.ndarray:
    """Features in the integers of a graph's input."""
    t = graph.tensors[graph.input]
    limits = np.iinfo(t.dtype)
    return np.clip(np.rint(x / t.scale) + t.zero_point, limits.min, limits.max).astype(t.dtype)


def small_student(seed: int = 0, gate: str = "hardswish") -> Net:
    """A net with every operator that the students use: stem, dilated separable blocks, gates, head."""
    net = Net((1, 32, 20, 1), seed)
    padding = same_padding((32, 20), (3, 3), (2, 2))
    x = net.conv("x", 8, (3, 3), stride=(2, 2), padding=padding, activation="relu")
    for dilation in (1, 2, 4):
        skip = x
        x = net.depthwise(x, (3, 1), dilation=(dilation, 1), padding=(dilation, dilation, 0, 0))
        x = net.conv(x, 8, (1, 1), activation="relu")
        columns = net.op("mean", [x], axes=(1,))
        rows = net.op("reshape", [net.op("mean", [x], axes=(2,))], shape=(1, 1, 16, 8))
        joined = net.conv(net.op("concat", [rows, columns], axis=2), 4, (1, 1))
        joined = net.op(gate, [joined])
        by_row = net.op("slice", [joined], begin=(0, 0, 0, 0), size=(1, 1, 16, 4))
        by_column = net.op("slice", [joined], begin=(0, 0, 16, 0), size=(1, 1, 10, 4))
        by_row = net.op("reshape", [by_row], shape=(1, 16, 1, 4))
        x = net.op("mul", [x, net.op("sigmoid", [net.conv(by_row, 8, (1, 1))])], activation="none")
        x = net.op("mul", [x, net.op("sigmoid", [net.conv(by_column, 8, (1, 1))])], activation="none")
        x = net.op("add", [x, skip], activation="relu")
    x = net.op("max_pool", [x], kernel=(2, 2), stride=(2, 2), padding=(0, 0, 0, 0))
    x = net.op("average_pool", [x], kernel=(2, 1), stride=(2, 1), padding=(0, 0, 0, 0))
    x = net.op("reshape", [net.op("mean", [x], axes=(1, 2))], shape=(1, 8))
    net.linear(x, 10)
    return net


def int8_bytes(graph):
    """By hand: biases of convolutions and linear layers take 4 bytes, everything else 1."""
    biases = {op.inputs[2] for op in graph.ops if op.kind in WEIGHTED and len(op.inputs) == 3}
    return sum(math.prod(t.shape) * (4 if t.name in biases else 1) for t in graph.constants())
