"""Channels that say nothing are cut: exactly those, with everything that is tied to them, and no others."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from graphs import Net, nets, quantize_features, small_student
from hypothesis import given, settings
from hypothesis import strategies as st
from modules import in_torch, modules, randomize
from rewriting import assert_same_function, check_lowered, constant_op, fires, kinds, new, rests
from runtimes import run_tflm
from torch import nn

from tinyasc_export import reference
from tinyasc_export.capture import capture
from tinyasc_export.count import macs, parameters
from tinyasc_export.graph import WEIGHTED, Graph
from tinyasc_export.lower import cast, lower
from tinyasc_export.lower_dead_channels import constant_channels, remove_dead_channels
from tinyasc_export.quantize import calibrate, quantize_int8, quantize_int16x8
from tinyasc_export.tflite import to_tflite


def kill(net: Net, at: int, channels: list[int], bias: float | None = 0.0) -> None:
    """Sets a layer's weights of some output channels to zero, and their biases to a value (None: as they are)."""
    op = net.graph.ops[at]
    weight = net.graph.tensors[op.inputs[1]].data
    if op.kind == "depthwise_conv2d":
        weight[..., channels] = 0
    else:
        weight[channels] = 0
    if len(op.inputs) == 3 and bias is not None:
        net.graph.tensors[op.inputs[2]].data[channels] = bias


def widths(graph: Graph) -> list[int]:
    return [graph.tensors[op.output].shape[-1] for op in graph.ops]


# What is cut ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("value", [0.0, 0.7, -0.7])
@pytest.mark.parametrize("activation", ["none", "relu"])
def test_a_constant_goes_into_the_next_bias(value, activation):
    net = new()
    x = net.conv("x", 6, (3, 3), activation=activation)
    net.conv(x, 4, (3, 3), bias=value > 0)
    kill(net, 0, [1, 4], value)
    graph = fires(remove_dead_channels, net)
    assert widths(graph) == [4, 4]
    assert graph.tensors[graph.ops[1].inputs[1]].shape == (4, 3, 3, 4)
    rests(remove_dead_channels, net)


def test_padding_stops_a_constant_but_not_a_zero():
    for value, activation, width in ((0.7, "none", 6), (0.0, "none", 4), (-0.7, "relu", 4)):
        net = new()
        net.conv(net.conv("x", 6, (1, 1), activation=activation), 4, (3, 3), padding=(1, 1, 1, 1))
        kill(net, 0, [1, 4], value)
        if width == 6:
            rests(remove_dead_channels, net)
        else:
            fires(remove_dead_channels, net)
        assert widths(net.graph) == [width, 4], value


def test_all_the_way_through_elementwise_operators_pools_and_a_depthwise():
    net = new((1, 12, 11, 3))
    x = net.conv("x", 6, (1, 1))
    x = net.op("hardswish", [x])
    x = net.op("max_pool", [x], kernel=(2, 2), stride=(2, 2), padding=(0, 0, 0, 0))
    x = net.depthwise(x, (3, 3))
    x = net.op("average_pool", [x], kernel=(2, 2), stride=(1, 1), padding=(1, 0, 0, 1))
    x = net.op("sigmoid", [x])
    x = constant_op(net, "mul", x, (1, 1, 1, 6))
    x = constant_op(net, "add", x, (1, 1, 1, 1), first=True)
    x = net.op("mean", [x], axes=(1, 2))
    x = net.op("reshape", [x], shape=(1, 6))
    net.linear(x, 5)
    kill(net, 0, [0, 5], 2.5)
    graph = fires(remove_dead_channels, net)
    assert widths(graph) == [4] * 10 + [5]
    assert {graph.tensors[op.inputs[1]].shape[-1] for op in graph.ops if op.kind == "depthwise_conv2d"} == {4}


def test_a_depthwise_that_silences_a_channel():
    net = new()
    x = net.depthwise(net.conv("x", 5, (1, 1), activation="relu"), (3, 3), padding=(1, 1, 1, 1), activation="relu")
    net.conv(x, 2, (1, 1))
    kill(net, 1, [2], 0.4)
    assert widths(fires(remove_dead_channels, net)) == [4, 4, 2]


def test_a_zero_passes_pads_and_padded_depthwises():
    net = new()
    x = net.op("pad", [net.conv("x", 5, (1, 1), bias=False)], padding=(1, 2, 0, 1))
    x = net.depthwise(x, (3, 3), padding=(1, 1, 1, 1), bias=True)
    net.conv(x, 2, (1, 1))
    kill(net, 0, [2])
    assert widths(fires(remove_dead_channels, net)) == [4, 4, 4, 2]


def test_a_flattened_map():
    net = new((1, 3, 2, 2))
    net.linear(net.flatten(net.conv("x", 4, (1, 1), activation="relu")), 3)
    kill(net, 0, [0, 2], 0.9)
    graph = fires(remove_dead_channels, net)
    assert widths(graph) == [2, 3 * 2 * 2, 3]


def test_what_no_layer_reads():
    net = new()
    net.conv(net.conv("x", 6, (1, 1)), 3, (3, 3), padding=(1, 1, 1, 1))
    net.graph.tensors[net.graph.ops[1].inputs[1]].data[..., [0, 3]] = 0
    assert widths(fires(remove_dead_channels, net)) == [4, 3]


def test_a_sum_loses_what_both_operands_lack():
    net = new()
    a, b = net.conv("x", 6, (1, 1)), net.conv("x", 6, (3, 3), padding=(1, 1, 1, 1))
    net.conv(net.op("add", [a, b], activation="relu"), 3, (1, 1))
    kill(net, 0, [1, 2], 0.5)
    kill(net, 1, [2, 3], 0.5)
    assert widths(fires(remove_dead_channels, net)) == [5, 5, 5, 3]


def test_a_gate_goes_with_its_dead_map():
    net = new()
    x = net.conv("x", 6, (1, 1), activation="relu")
    gate = net.op("sigmoid", [net.conv(net.op("mean", [x], axes=(1, 2)), 6, (1, 1))])
    net.conv(net.op("mul", [x, gate], activation="none"), 3, (3, 3), padding=(1, 1, 1, 1))
    kill(net, 0, [1, 2])
    graph = fires(remove_dead_channels, net)
    assert widths(graph) == [4] * 5 + [3]
    assert parameters(graph) == (3 * 4 + 4) + (4 * 4 + 4) + (9 * 4 * 3 + 3)


def test_concatenations_and_slices_over_channels():
    net = new()
    a, b = net.conv("x", 3, (1, 1)), net.conv("x", 4, (1, 1))
    x = net.op("concat", [a, b], axis=3)
    upper = net.op("slice", [x], begin=(0, 0, 0, 2), size=(1, 6, 7, 4))
    y = net.conv(upper, 5, (1, 1))
    z = net.conv(x, 5, (1, 1))
    net.op("add", [y, z], activation="none")
    kill(net, 0, [0], 0.5)  # outside the slice
    kill(net, 1, [1], -0.5)  # inside
    graph = fires(remove_dead_channels, net)
    assert widths(graph) == [2, 3, 5, 3, 5, 5, 5]
    assert graph.ops[3].attrs == {"begin": (0, 0, 0, 1), "size": (1, 6, 7, 3)}


def test_a_concatenation_over_time():
    net = new()
    a, b = net.conv("x", 4, (1, 1)), net.conv("x", 4, (3, 3))
    pooled = (
        net.op("mean", [b], axes=(2,)),
        net.op("mean", [net.op("slice", [a], begin=(0, 0, 0, 0), size=(1, 4, 7, 4))], axes=(2,)),
    )
    net.conv(net.op("concat", list(pooled), axis=2), 3, (1, 1))
    kill(net, 0, [1, 2], 0.5)
    kill(net, 1, [1], 0.5)
    kill(net, 1, [2], 0.25)  # another value: no constant
    assert widths(fires(remove_dead_channels, net)) == [3, 3, 3, 3, 3, 3, 3]


def test_both_halves_of_a_maximum():
    net = new()
    x = net.op("maximum", [net.conv("x", 4, (1, 1)), net.conv("x", 4, (1, 1))])
    net.conv(x, 3, (1, 1))
    kill(net, 0, [1, 2], -0.5)
    kill(net, 1, [1], 0.25)
    assert widths(fires(remove_dead_channels, net)) == [3, 3, 3, 3]


def test_one_channel_remains():
    net = new()
    net.conv(net.conv("x", 4, (1, 1)), 3, (1, 1))
    kill(net, 0, [0, 1, 2, 3], 0.5)
    assert widths(fires(remove_dead_channels, net)) == [1, 3]
    rests(remove_dead_channels, net)


# What stays ----------------------------------------------------------------------------------------------------------


def test_channels_that_stay():
    def case(make) -> None:
        net = new((1, 6, 7, 3))
        make(net)
        rests(remove_dead_channels, net)

    def the_output(net):
        net.conv("x", 4, (1, 1))
        kill(net, 0, [1])

    def the_input(net):
        net.conv("x", 4, (1, 1))
        net.graph.tensors[net.graph.ops[0].inputs[1]].data[..., 1] = 0

    def none_is_dead(net):
        net.conv(net.conv("x", 4, (1, 1)), 3, (1, 1))

    def all_but_one_tap(net):
        net.conv(net.conv("x", 4, (3, 3)), 3, (1, 1))
        net.graph.tensors[net.graph.ops[0].inputs[1]].data[1].reshape(-1)[:-1] = 0

    def a_sum_with_a_living_channel(net):
        x = net.op("add", [net.conv("x", 3, (1, 1)), "x"], activation="none")
        net.conv(x, 4, (1, 1))
        kill(net, 0, [1])

    def a_mean_over_channels(net):
        x = net.conv("x", 4, (1, 1))
        gate = net.op("sigmoid", [net.op("mean", [x], axes=(3,))])
        net.conv(net.op("mul", [x, gate], activation="none"), 3, (1, 1))
        kill(net, 0, [1])

    def a_maximum_over_channels(net):
        x = net.conv("x", 4, (1, 1))
        rows = net.op("reshape", [x], shape=(1, 42, 4, 1))
        top = net.op("max_pool", [rows], kernel=(1, 4), stride=(1, 1), padding=(0, 0, 0, 0))
        top = net.op("reshape", [top], shape=(1, 6, 7, 1))
        net.conv(net.op("mul", [x, top], activation="none"), 3, (1, 1))
        kill(net, 0, [1])

    def a_constant_that_varies_over_the_map(net):
        x = constant_op(net, "add", net.conv("x", 4, (1, 1)), (1, 6, 1, 4))
        net.conv(x, 3, (1, 1))
        kill(net, 0, [1])

    def a_constant_on_a_pad(net):
        x = net.op("pad", [net.conv("x", 4, (1, 1))], padding=(1, 1, 1, 1))
        net.conv(x, 3, (1, 1))
        kill(net, 0, [1], 0.5)

    def a_constant_on_a_padded_depthwise(net):
        x = net.depthwise(net.conv("x", 4, (1, 1)), (3, 3), padding=(1, 1, 1, 1))
        net.conv(x, 3, (1, 1))
        kill(net, 0, [1], 0.5)

    def one_reader_of_two_has_padding(net):
        x = net.conv("x", 4, (1, 1))
        a, b = net.conv(x, 3, (1, 1)), net.conv(x, 3, (3, 3), padding=(1, 1, 1, 1))
        net.op("add", [a, b], activation="none")
        kill(net, 0, [1], 0.5)

    for make in (
        the_output,
        the_input,
        none_is_dead,
        all_but_one_tap,
        a_sum_with_a_living_channel,
        a_mean_over_channels,
        a_maximum_over_channels,
        a_constant_that_varies_over_the_map,
        a_constant_on_a_pad,
        a_constant_on_a_padded_depthwise,
        one_reader_of_two_has_padding,
    ):
        case(make)


# All of it -----------------------------------------------------------------------------------------------------------


def kill_at_random(graph: Graph, rng: np.random.Generator) -> None:
    """Output channels of any layer to zero, with or without biases, and input channels that are not read."""
    for op in graph.ops:
        if op.kind not in WEIGHTED:
            continue
        weight = graph.tensors[op.inputs[1]]
        weight.data = weight.data.copy()
        axis = -1 if op.kind == "depthwise_conv2d" else 0
        np.moveaxis(weight.data, axis, 0)[rng.random(weight.shape[axis]) < 0.4] = 0
        if op.kind != "depthwise_conv2d" and rng.random() < 0.3:
            weight.data[..., rng.random(weight.shape[-1]) < 0.3] = 0
        if len(op.inputs) == 3:
            bias = graph.tensors[op.inputs[2]]
            bias.data = bias.data * (rng.random(bias.shape) < 0.5)


@settings(max_examples=200, deadline=None)
@given(nets(framed=True), st.integers(0, 2**16))
def test_random_graphs(net, seed):
    graph = cast(net.graph, "float64")
    kill_at_random(graph, np.random.default_rng(seed))
    before = copy.deepcopy(graph)
    x = net.features(2).astype(np.float64)
    values = reference.run_all(before, np.concatenate([x, -3 * x]))
    for name, known in constant_channels(before).items():
        for channel in np.flatnonzero(~np.isnan(known)):
            np.testing.assert_allclose(values[name][..., channel], known[channel], rtol=1e-9, atol=1e-12)
    size = parameters(before)
    while remove_dead_channels(graph):  # cutting one channel may leave another without inputs
        graph.prune()
        assert parameters(graph) < size
        size = parameters(graph)
        assert_same_function(graph, before, x)
    assert macs(graph) <= macs(before)


@settings(max_examples=30, deadline=None)
@given(modules(), st.integers(0, 2**16))
def test_random_modules_with_dead_channels(case, seed):
    module, shape = case
    graph = capture(module, shape)
    kill_at_random(graph, np.random.default_rng(seed))
    n, c, h, w = shape
    check_lowered(graph, np.random.default_rng(2).standard_normal((2 * n, h, w, c)))


def test_a_student_without_dead_channels_stays():
    net = small_student()
    rests(remove_dead_channels, net)


class Pruned(nn.Module):
    """Blocks with a shortcut whose batch norms have lost some of their gains, as sparse training leaves them."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(1, 8, 3, 2, 1, bias=False), nn.BatchNorm2d(8), nn.ReLU())
        self.block = nn.Sequential(
            nn.Conv2d(8, 24, 1, bias=False),
            nn.BatchNorm2d(24),
            nn.ReLU(),
            nn.Conv2d(24, 24, 3, 1, 1, groups=24, bias=False),
            nn.BatchNorm2d(24),
            nn.ReLU(),
            nn.Conv2d(24, 8, 1, bias=False),
            nn.BatchNorm2d(8),
        )
        self.head = nn.Linear(8, 3)

    def norms(self) -> list[nn.BatchNorm2d]:
        """Those of the expansion and of the depthwise."""
        return [part for part in self.block if isinstance(part, nn.BatchNorm2d)][:2]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.stem(x)
        return self.head(torch.relu(x + self.block(x)).mean((2, 3)))


def pruned() -> Pruned:
    """In float64: 7 of 24 channels silent, 3 constant before padding, 4 constant before the 1x1 that folds them."""
    torch.manual_seed(0)
    module = Pruned().double()
    randomize(module, 1)
    with torch.no_grad():
        expand, depthwise = module.norms()
        expand.weight[:10] = 0
        expand.bias[:7] = -0.3  # silent after the ReLU
        expand.bias[7:10] = 0.3  # a constant, which the depthwise's padding bends
        depthwise.weight[20:] = 0
        depthwise.bias[20:] = 0.5
    return module


def test_batch_norms_without_gain():
    module = pruned()
    x = np.random.default_rng(0).standard_normal((2, 20, 15, 1))
    graph, _, _ = lower(capture(module, (1, 1, 20, 15)))
    np.testing.assert_allclose(reference.run(graph, x), in_torch(module, x), rtol=1e-9, atol=1e-9)
    assert [graph.tensors[op.output].shape[-1] for op in graph.ops if op.kind == "depthwise_conv2d"] == [24 - 7 - 4]
    assert kinds(graph).count("conv2d") == 3


@pytest.mark.parametrize("quantize", [quantize_int8, quantize_int16x8])
def test_integers_of_a_cut_graph(quantize):
    """The graph that is left quantises and runs as any other: TensorFlow Lite Micro gives the reference's integers."""
    pytest.importorskip("tflite_micro", reason="the tflite-micro wheel exists for x86-64 Linux only")
    graph = cast(lower(capture(pruned(), (1, 1, 20, 15)))[0], "float32")
    x = np.random.default_rng(1).standard_normal((8, 20, 15, 1)).astype(np.float32)
    integer = quantize(graph, calibrate(graph, x))
    data, q = to_tflite(integer), quantize_features(integer, x)
    expected = reference.run(integer, q)
    for i in range(len(q)):
        np.testing.assert_array_equal(run_tflm(data, q[i : i + 1]), expected[i : i + 1])
    out = integer.tensors[integer.output]
    answers, wanted = (expected.astype(float) - out.zero_point) * out.scale, reference.run(graph, x)
    assert 10 * np.log10((wanted**2).mean() / ((answers - wanted) ** 2).mean()) > 20
