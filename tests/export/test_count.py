import numpy as np
import torch
from fvcore.nn import FlopCountAnalysis
from graphs import Net, quantize_by_hand, same_padding, small_student
from torch import nn

from tinyasc_export.count import (
    count,
    macs,
    macs_per_op,
    nonzero_bytes,
    nonzero_parameters,
    parameter_bytes,
    parameters,
    per_module,
    per_op,
    quantization_bytes,
)


def by_hand() -> Net:
    """Conv 8 of 3x3 at stride 2, depthwise 3x3, 1x1 to 16, mean, linear to 10, on a 10 x 7 map."""
    net = Net((1, 10, 7, 1))
    x = net.conv("x", 8, (3, 3), stride=(2, 2), padding=(1, 1, 1, 1), activation="relu")
    x = net.depthwise(x, (3, 3), padding=(1, 1, 1, 1), bias=False)
    x = net.conv(x, 16, (1, 1))
    x = net.op("reshape", [net.op("mean", [x], axes=(1, 2))], shape=(1, 16))
    net.linear(x, 10)
    return net


def test_macs_by_hand():
    graph = by_hand().graph
    expected = [5 * 4 * 8 * 9, 5 * 4 * 8 * 9, 5 * 4 * 16 * 8, 0, 0, 160]
    assert macs_per_op(graph) == expected
    assert macs(graph) == sum(expected)


def test_macs_equal_fvcore():
    module = nn.Sequential(
        nn.Conv2d(1, 8, 3, stride=2, padding=1),
        nn.ReLU(),
        nn.Conv2d(8, 8, 3, padding=1, groups=8, bias=False),
        nn.Conv2d(8, 16, 1),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(16, 10),
    )
    analysis = FlopCountAnalysis(module, torch.zeros(1, 1, 10, 7))
    analysis.unsupported_ops_warnings(False)
    counted = analysis.by_operator()
    assert macs(by_hand().graph) == counted["conv"] + counted["linear"]
    assert parameters(by_hand().graph) == sum(p.numel() for p in module.parameters())


def test_dilation_does_not_change_the_macs():
    counts = []
    for dilation in (1, 3):
        net = Net((1, 12, 12, 4))
        padding = same_padding((12, 12), (3, 3), (1, 1), (dilation, dilation))
        net.depthwise("x", (3, 3), dilation=(dilation, dilation), padding=padding)
        counts.append(macs(net.graph))
    assert counts == [12 * 12 * 4 * 9] * 2


def test_bytes_at_float32_and_int8():
    net = by_hand()
    weights, biases = 72 + 72 + 128 + 160, 8 + 16 + 10
    assert parameters(net.graph) == weights + biases
    assert parameter_bytes(net.graph) == 4 * (weights + biases)
    assert quantization_bytes(net.graph) == 0
    quantized = quantize_by_hand(net.graph, net.features())
    assert parameters(quantized) == weights + biases
    assert parameter_bytes(quantized) == weights + 4 * biases
    # Seven activations, 8 + 8 + 16 channels and one linear layer; biases have their weights' counts.
    assert quantization_bytes(quantized) == (4 + 4) * (7 + (8 + 8 + 16 + 1) + (8 + 16 + 1))


def test_a_shared_constant_counts_once():
    net = Net((1, 2, 2, 3))
    c = net.constant(1, 1, 1, 3)
    x = net.op("add", ["x", c], activation="none")
    net.op("mul", [x, c], activation="none")
    assert parameters(net.graph) == 3


def test_unread_constants_count_nothing():
    net = by_hand()
    before = parameter_bytes(net.graph)
    net.constant(100)
    assert parameter_bytes(net.graph) == before


def test_count_gathers_everything():
    graph = small_student().graph
    counts = count(graph, file_bytes=1234)
    assert counts.macs == sum(counts.macs_per_op) == macs(graph)
    assert len(counts.macs_per_op) == len(graph.ops)
    assert (counts.parameters, counts.parameter_bytes) == (parameters(graph), parameter_bytes(graph))
    assert counts.file_bytes == 1234
    assert count(graph).file_bytes is None
    assert all(isinstance(n, int) for n in (counts.macs, counts.parameters, counts.parameter_bytes))
    assert np.prod((3, 3)) * 8 == graph.constants()[0].data.size


def test_the_tables_add_up():
    graph = quantize_by_hand(small_student().graph, small_student().features())
    counts, rows = count(graph), per_op(graph)
    assert [r.macs for r in rows] == list(counts.macs_per_op)
    for table in (rows, per_module(graph), per_module(graph, depth=1)):
        assert sum(r.macs for r in table) == counts.macs
        assert sum(r.parameters for r in table) == counts.parameters
        assert sum(r.parameter_bytes for r in table) == counts.parameter_bytes
    assert rows[0].shape == (1, 16, 10, 8) and rows[0].kind == "conv2d" and rows[0].module == "net.conv2d0"
    (only,) = per_module(graph, depth=1)
    assert (only.module, only.operators) == ("net", len(graph.ops))


def test_nonzero_parameters_by_hand():
    net = Net((1, 4, 4, 2))
    x = net.conv("x", 3, (1, 1))
    net.op("add", [x, net.constant(1, 1, 1, 3)], activation="none")
    w, b, c = net.graph.constants()
    w.data[0, 0, 0, 0] = b.data[1] = 0
    assert nonzero_parameters(net.graph) == 6 + 3 + 3 - 2
    assert nonzero_bytes(net.graph) == 4 * 10
    quantized = quantize_by_hand(net.graph, net.features())
    w, b, c = quantized.constants()
    c.data[..., 0] = c.zero_point[0]  # stands for zero, though the integer is none
    c.data[..., 1:] = c.zero_point[0] - 1
    expected = np.count_nonzero(w.data), np.count_nonzero(b.data), 2
    assert nonzero_parameters(quantized) == sum(expected)
    assert nonzero_bytes(quantized) == expected[0] + 4 * expected[1] + 2
