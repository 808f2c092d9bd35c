"""Sums at the ends of their types: written where a proof holds, refused one step further, by hand-made graphs."""

from __future__ import annotations

import numpy as np
import pytest
from c_program import Trial, check, sanitizers
from graphs import Net, quantize_by_hand
from integer_graphs import QUANTIZERS

from tinyasc_export.c99 import to_c
from tinyasc_export.errors import GraphError, InputError
from tinyasc_export.graph import Graph, Tensor
from tinyasc_export.quantize import calibrate


def layer(dtype: str) -> Graph:
    """A layer of 3 inputs and 2 outputs, whose output's scale binds nothing."""
    net = Net((1, 2, 2, 3), 0)
    net.conv("x", 2, (1, 1))
    graph = QUANTIZERS[dtype](net.graph, calibrate(net.graph, net.features(4)))
    output = graph.tensors[graph.output]
    output.scale = output.scale * 2.0**40
    return graph


@pytest.mark.parametrize("rounding", ["tflite", "single"])
def test_sums_of_int16x8_at_their_end(rounding, tmp_path):
    """|sum| < 2^47 is what TensorFlow Lite Micro's 16-bit multiplier takes; C is held to the reference there."""
    if not sanitizers():
        pytest.skip("no compiler here links the address and undefined-behaviour sanitisers")
    graph = layer("int16")
    weights, bias = (graph.tensors[name] for name in graph.ops[0].inputs[1:])
    room = 2**47 - 1 - 32768 * int(np.abs(weights.data.astype(np.int64)).reshape(2, -1).sum(axis=1).max())
    bias.data = np.array([room, -room])
    clips = np.random.default_rng(0).integers(-32768, 32768, (3, 2, 2, 3)).astype(np.int16)
    check([Trial(graph, rounding, clips)], tmp_path, list(sanitizers()), "-O1")
    # The last one would wrap the proof's own arithmetic if it were in 64 bits.
    for size in (2**47, 2**62, 2**63 - 1):
        bias.data = np.array([0, size])
        with pytest.raises(GraphError, match=r"operator 0 \(conv2d.* overflows at any output scale"):
            to_c(graph, rounding=rounding)


@pytest.mark.parametrize("size", [2**31 - 1, -(2**31)])
def test_biases_of_int8_that_leave_no_room_are_refused(size):
    graph = layer("int8")
    bias = graph.tensors[graph.ops[0].inputs[2]]
    bias.data = np.array([0, size], np.int32)
    with pytest.raises((GraphError, InputError), match=r"operator 0 \(conv2d"):
        to_c(graph)


def pool(dtype: str, side: int) -> Graph:
    graph = Graph(input="x", tensors={"x": Tensor("x", (1, side, side, 1))})
    attrs = {"kernel": (side, side), "stride": (1, 1), "padding": (0, 0, 0, 0)}
    graph.output = graph.add_op("average_pool", ["x"], attrs)
    return QUANTIZERS[dtype](graph, {name: (-1.0, 1.0) for name in graph.tensors})


@pytest.mark.parametrize(("dtype", "side"), [("int8", 2896), ("int16", 181)])
def test_windows_whose_sum_leaves_32_bits_are_refused(dtype, side):
    to_c(pool(dtype, side))
    with pytest.raises(GraphError, match=r"operator 0 \(average_pool.* overflows at any output scale"):
        to_c(pool(dtype, side + 1))


@pytest.mark.parametrize("rounding", ["tflite", "single"])
def test_a_channel_of_zeros_may_have_any_scale(rounding, tmp_path):
    """Its factor may need a shift that C does not have; its sums are 0 and so is what comes of them."""
    if not sanitizers():
        pytest.skip("no compiler here links the address and undefined-behaviour sanitisers")
    net = Net((1, 2, 2, 3), 0)
    net.conv("x", 2, (1, 1))
    graph = quantize_by_hand(net.graph, net.features(2))
    x, weights, bias = (graph.tensors[name] for name in graph.ops[0].inputs)
    weights.data[1], bias.data[1] = 0, 0
    weights.scale, weights.axis = np.array([np.broadcast_to(weights.scale, 2)[0], 1e12]), 0
    bias.scale = x.scale.reshape(-1) * weights.scale
    bias.zero_point = weights.zero_point = np.zeros(2, np.int64)
    clips = np.random.default_rng(0).integers(-128, 128, (3, 2, 2, 3)).astype(np.int8)
    check([Trial(graph, rounding, clips)], tmp_path, list(sanitizers()), "-O1")
