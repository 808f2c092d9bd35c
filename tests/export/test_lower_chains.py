"""Dense layers in a row become one: where it costs less, and only where nothing non-linear lies between them."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from modules import in_torch, randomize
from rewriting import fires, kinds, new, rests
from torch import nn

from tinyasc_export import reference
from tinyasc_export.capture import capture
from tinyasc_export.count import macs, parameters
from tinyasc_export.lower import lower
from tinyasc_export.lower_chains import merge_dense_chain


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("activation", ["none", "relu"])
def test_two_pointwise_convolutions(bias, activation):
    net = new((1, 6, 7, 3))
    net.conv(net.conv("x", 16, (1, 1), bias=bias), 4, (1, 1), activation=activation)
    graph = fires(merge_dense_chain, net)
    assert kinds(graph) == ["conv2d"] and graph.ops[0].attrs["activation"] == activation
    assert parameters(graph) == 3 * 4 + 4


def test_two_linear_layers():
    net = new((1, 5))
    net.linear(net.linear("x", 9), 3, activation="relu")
    graph = fires(merge_dense_chain, net)
    assert kinds(graph) == ["fully_connected"] and parameters(graph) == 5 * 3 + 3


def test_a_window_keeps_its_geometry_when_a_product_follows():
    net = new((1, 9, 8, 3))
    x = net.conv("x", 12, (3, 2), stride=(2, 1), padding=(1, 0, 2, 1), dilation=(1, 2))
    net.conv(x, 2, (1, 1))
    graph = fires(merge_dense_chain, net)
    assert kinds(graph) == ["conv2d"] and graph.ops[0].attrs["padding"] == (1, 0, 2, 1)


@pytest.mark.parametrize(("padding", "bias"), [((0, 0, 0, 0), True), ((1, 1, 1, 1), False)])
def test_a_window_takes_in_the_product_before_it(padding, bias):
    net = new((1, 9, 8, 2))
    net.conv(net.conv("x", 12, (1, 1), bias=bias), 4, (3, 3), stride=(2, 1), padding=padding, activation="relu")
    graph = fires(merge_dense_chain, net)
    assert kinds(graph) == ["conv2d"] and parameters(graph) == 4 * 9 * 2 + 4


@pytest.mark.parametrize("pooling", ["mean", "average_pool", "padded_average_pool", "none"])
def test_through_means_and_reshapes(pooling):
    net = new((1, 6, 7, 3))
    x = net.conv("x", 32, (3, 3), padding=(1, 1, 1, 1))
    if pooling != "none":
        padding = (1, 1, 1, 1) if pooling == "padded_average_pool" else (0, 0, 0, 0)
        x = net.op("average_pool", [x], kernel=(3, 3), stride=(1, 1), padding=padding) if "average" in pooling else x
        x = net.op("mean", [x], axes=(1, 2))
        x = net.op("reshape", [x], shape=(1, 32))
        net.linear(x, 5)
    else:
        x = net.op("reshape", [x], shape=(1, 42, 1, 32))
        net.conv(x, 5, (1, 1), activation="relu")
    graph = fires(merge_dense_chain, net)
    assert kinds(graph).count("conv2d") == 1 and "fully_connected" not in kinds(graph)
    assert parameters(graph) == 9 * 3 * 5 + 5
    rests(merge_dense_chain, net)


def test_a_long_chain_becomes_one_layer():
    net = new((1, 4))
    net.linear(net.linear(net.linear("x", 8), 6), 3)
    while merge_dense_chain(net.graph):
        pass
    assert kinds(net.graph) == ["fully_connected"] and parameters(net.graph) == 4 * 3 + 3


def test_chains_that_stay():
    def case(make) -> None:
        net = new((1, 6, 7, 8))
        make(net)
        rests(merge_dense_chain, net)

    def a_bottleneck_is_cheaper(net):
        net.conv(net.conv("x", 2, (1, 1)), 8, (1, 1))

    def more_positions(net):  # fewer parameters, but the product would move before the stride
        x = net.op("mean", [net.conv("x", 8, (1, 1))], axes=(1, 2))
        net.conv(x, 9, (1, 1))

    def rectified(net):
        net.conv(net.conv("x", 32, (1, 1), activation="relu"), 4, (1, 1))

    def read_twice(net):
        x = net.conv("x", 8, (1, 1))
        y = net.conv(x, 8, (1, 1))
        net.op("add", [x, y], activation="none")

    def the_first_is_the_output(net):
        x = net.conv("x", 8, (1, 1))
        net.conv(x, 4, (1, 1))
        net.graph.output = x

    def a_mean_of_what_is_rectified(net):
        x = net.op("mean", [net.conv("x", 32, (1, 1))], axes=(1, 2))
        net.conv(x, 4, (1, 1), activation="relu")

    def a_maximum_between(net):
        x = net.op("max_pool", [net.conv("x", 32, (1, 1))], kernel=(2, 2), stride=(2, 2), padding=(0, 0, 0, 0))
        net.conv(x, 4, (1, 1))

    def a_mean_over_channels(net):
        net.conv(net.op("mean", [net.conv("x", 32, (1, 1))], axes=(3,)), 1, (1, 1))

    def a_bias_that_padding_cuts_off(net):
        net.conv(net.conv("x", 32, (1, 1)), 1, (3, 3), padding=(1, 1, 1, 1))

    def two_windows(net):
        net.conv(net.conv("x", 32, (3, 3)), 1, (3, 3))

    def a_flattened_map(net):
        net.linear(net.flatten(net.conv("x", 32, (1, 1))), 2)

    def a_strided_product(net):
        net.conv(net.conv("x", 32, (1, 1)), 4, (1, 1), stride=(2, 2))

    for make in (
        a_bottleneck_is_cheaper,
        more_positions,
        rectified,
        read_twice,
        the_first_is_the_output,
        a_mean_of_what_is_rectified,
        a_maximum_between,
        a_mean_over_channels,
        a_bias_that_padding_cuts_off,
        two_windows,
        a_flattened_map,
    ):
        case(make)
    # Stride without a window is a window too: the product before it goes into it.
    net = new((1, 6, 7, 8))
    a_strided_product(net)
    assert kinds(fires(merge_dense_chain, net)) == ["conv2d"]


class Head(nn.Module):
    """The end of the split-frequency network (McDonnell and Gao, DCASE 2019): no non-linearity between its two 1x1."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.BatchNorm2d(192),
            nn.ReLU(),
            nn.Conv2d(192, 768, 1, bias=False),
            nn.BatchNorm2d(768),
            nn.Conv2d(768, 10, 1, bias=False),
            nn.BatchNorm2d(10),
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layers(x).mean((2, 3))


def test_the_head_of_the_split_frequency_network():
    torch.manual_seed(0)
    module = randomize(Head().double(), 1)
    captured = capture(module, (1, 192, 8, 5))
    graph, scale, offset = lower(captured)
    x = np.random.default_rng(0).standard_normal((2, 8, 5, 192))
    expected = in_torch(module, x)
    actual = reference.run(graph, x * scale[:, None, None] + offset[:, None, None])
    np.testing.assert_allclose(actual, expected, rtol=1e-9, atol=1e-9 * np.abs(expected).max())
    assert kinds(graph).count("conv2d") == 1
    assert macs(graph) == 8 * 5 * 192 * 10
    # 155,136 weights of both layers become 1,920; the first norm stands before a ReLU and stays.
    assert parameters(graph) == 192 * 10 + 10 + 2 * 192
