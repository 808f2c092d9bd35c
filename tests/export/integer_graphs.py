"""Random integer graphs, quantised with ranges that fit or do not, and integers to feed them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from graphs import INT16_KINDS, KINDS, Net, nets, quantize_features
from hypothesis import assume
from hypothesis import strategies as st

from tinyasc_export.graph import WEIGHTED, Graph
from tinyasc_export.limits import WIDEST_SIGMOID_INPUT
from tinyasc_export.quantize import calibrate, quantize_int8, quantize_int16x8

QUANTIZERS = {"int8": quantize_int8, "int16": quantize_int16x8}


def kill_channels(net: Net, rng: np.random.Generator) -> None:
    """Sets some output channels of some layers to zero, with or without their biases, and spreads the rest's sizes."""
    for op in net.graph.ops:
        if op.kind not in WEIGHTED or rng.random() < 0.5:
            continue
        axis = 3 if op.kind == "depthwise_conv2d" else 0
        weight = net.graph.tensors[op.inputs[1]]
        channels = weight.shape[axis]
        size = np.exp2(rng.uniform(-8, 2, channels)) * (rng.random(channels) < 0.8)
        shape = [1] * weight.data.ndim
        shape[axis] = channels
        weight.data = (weight.data * size.reshape(shape)).astype(np.float32)
        if len(op.inputs) == 3 and rng.random() < 0.5:
            bias = net.graph.tensors[op.inputs[2]]
            bias.data = (bias.data * (size > 0)).astype(np.float32)


@dataclass
class Case:
    """A graph and what to feed it, printed without its thousand integers."""

    graph: Graph
    q: np.ndarray

    def __repr__(self) -> str:
        return f"{self.graph}\nfed from {self.q.min()} to {self.q.max()}, first {self.q.flat[0]}"


@st.composite
def integer_graphs(draw: st.DrawFn, dtype: str) -> Case:
    """A graph quantised with ranges that are up to 30 times too wide or too narrow, and integers to feed it."""
    kinds = KINDS if dtype == "int8" else INT16_KINDS
    net = draw(nets(most=4, kinds=kinds, wide=True))
    rng = np.random.default_rng(draw(st.integers(0, 2**16)))
    kill_channels(net, rng)
    x = net.features(2) * np.float32(np.exp2(draw(st.integers(-6, 6))))
    ranges = calibrate(net.graph, x)
    if draw(st.booleans()):
        ranges = {name: tuple(np.array(r) * np.exp2(rng.uniform(-5, 5))) for name, r in ranges.items()}
    graph = QUANTIZERS[dtype](net.graph, ranges)
    # The writer refuses values of a hundred thousand before an int16 sigmoid (see test_reference_int16.py).
    sigmoids = [graph.tensors[op.inputs[0]] for op in graph.ops if op.kind == "sigmoid" and dtype == "int16"]
    assume(all(t.scale[0] <= WIDEST_SIGMOID_INPUT for t in sigmoids))
    limits = np.iinfo(dtype)
    shape = net.shape("x")
    feeds = ("features", "any", "extremes", "constant")
    match draw(st.sampled_from(feeds)):
        case "features":
            q = quantize_features(graph, 1.5 * x[:1])
        case "any":
            q = rng.integers(limits.min, limits.max + 1, shape).astype(dtype)
        case "extremes":
            q = rng.choice(np.array([limits.min, limits.max], dtype), shape)
        case _:
            q = np.full(shape, rng.choice(np.array([limits.min, 0, limits.max], dtype)), dtype)
    return Case(graph, q)
