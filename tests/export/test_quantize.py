"""Post-training quantisation: ranges, scales, integers, and what the runtimes make of them."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from graphs import BUNDLE, Net, int8_bytes, nets, quantize_features
from hypothesis import given, settings
from hypothesis import strategies as st
from modules import randomize
from runtimes import run_litert, run_tflm

from tinyasc.models import build
from tinyasc_export import reference
from tinyasc_export.capture import capture
from tinyasc_export.count import count, parameter_bytes
from tinyasc_export.errors import GraphError
from tinyasc_export.graph import WEIGHTED, Graph, Tensor
from tinyasc_export.lower import lower
from tinyasc_export.quantize import LEAST_RANGE, calibrate, quantize_int8
from tinyasc_export.tflite import to_tflite
from tinyasc_export.tflite_rules import SAME_SCALE, check_integer_graph


def dequantized(t: Tensor, q: np.ndarray | None = None) -> np.ndarray:
    integers = np.asarray(t.data if q is None else q, np.float64)
    shape = [1] * integers.ndim
    if t.axis is not None:
        shape[t.axis] = -1
    return t.scale.reshape(shape if t.scale.size > 1 else [1]) * (
        integers - t.zero_point.reshape(shape if t.scale.size > 1 else [1])
    )


def sqnr(actual: np.ndarray, expected: np.ndarray) -> float:
    """Signal to quantisation noise in dB."""
    return float(10 * np.log10((expected**2).mean() / ((actual - expected) ** 2).mean()))


def student(base: int, size: tuple[int, int], seed: int = 0, activation: str = "hardswish") -> tuple[Graph, np.ndarray]:
    """A lowered student with random batch norms, and features like normalised log-mel maps."""
    torch.manual_seed(seed)
    options = {"base_channels": base, "attention_activation": activation}
    model = build("sepconv_ca", n_classes=10, n_mels=size[0], **options)
    graph, scale, offset = lower(capture(randomize(model, seed), (1, 1, *size)))
    x = np.random.default_rng(seed).standard_normal((12, *size, 1))
    x += np.random.default_rng(seed + 1).standard_normal((12, size[0], 1, 1))  # each clip has its spectrum
    return graph, (x * scale[:, None, None] + offset[:, None, None]).astype(np.float32)


def quantized(graph: Graph, x: np.ndarray) -> Graph:
    integer = quantize_int8(graph, calibrate(graph, x))
    check_integer_graph(integer)
    return integer


def logits(graph: Graph, x: np.ndarray) -> np.ndarray:
    return dequantized(graph.tensors[graph.output], reference.run(graph, quantize_features(graph, x)))


@pytest.mark.parametrize(
    ("base", "size", "activation"),
    [(4, (32, 32), "hardswish"), (8, (40, 31), "relu"), (12, (33, 20), "hardswish"), (64, (64, 44), "hardswish")],
)
def test_the_student_runs_everywhere_with_equal_answers(base, size, activation):
    pytest.importorskip("tflite_micro", reason="the tflite-micro wheel exists for x86-64 Linux only")
    graph, x = student(base, size, seed=base, activation=activation)
    integer = quantized(graph, x[:8])
    data = to_tflite(integer, BUNDLE)
    clips = x[8:10]  # not calibrated on
    q = quantize_features(integer, clips)
    expected = reference.run(integer, q)
    for i in range(len(clips)):
        np.testing.assert_array_equal(run_tflm(data, q[i : i + 1])[0], expected[i])
        from_litert = run_litert(data, q[i : i + 1], reference_kernels=True)[0].astype(int)
        assert np.abs(from_litert - expected[i]).max() <= 1
    assert len(np.unique(expected)) > 5, "the logits say nothing"


@pytest.mark.parametrize("seed", range(3))
def test_the_students_logits_stay_close(seed):
    graph, x = student(16, (40, 44), seed)
    integer = quantized(graph, x)
    assert sqnr(logits(integer, x), reference.run(graph, x)) > 20


@settings(max_examples=60, deadline=None)
@given(nets())
def test_random_nets(net):
    """Every random net is quantised by the rules, within a few steps of the float net, and as TFLM runs it."""
    x = net.features(4)
    ranges = calibrate(net.graph, x)
    try:
        integer = quantize_int8(net.graph, ranges)
    except GraphError as error:
        assert "sigmoid" in str(error)
        return
    check_integer_graph(integer)
    assert parameter_bytes(integer) == int8_bytes(net.graph) == count(integer).parameter_bytes
    for op in integer.ops:
        if op.kind in SAME_SCALE:
            for name in op.inputs:
                np.testing.assert_array_equal(integer.tensors[name].scale, integer.tensors[op.output].scale)
                np.testing.assert_array_equal(integer.tensors[name].zero_point, integer.tensors[op.output].zero_point)
    for name, t in integer.tensors.items():
        if t.data is None and t.name not in {op.output for op in integer.ops if op.kind == "sigmoid"}:
            low, high = ranges[name]
            step = t.scale[0]
            # The range is covered but for the rounding of the zero point.
            assert dequantized(t, np.array(-128)) <= min(low, 0) + step
            assert dequantized(t, np.array(127)) >= max(high, 0) - step
            assert dequantized(t, np.asarray(t.zero_point[0])) == 0


def test_a_float_graph_is_left_as_it_is():
    graph, x = student(4, (32, 32))
    before, ranges = str(graph), calibrate(graph, x)
    values = {t.name: t.data.copy() for t in graph.constants()}
    quantize_int8(graph, ranges)
    assert str(graph) == before
    for t in graph.constants():
        np.testing.assert_array_equal(t.data, values[t.name])


@pytest.mark.parametrize("base", [4, 20])
def test_bytes_are_predicted(base):
    graph, x = student(base, (32, 32))
    integer = quantized(graph, x)
    assert parameter_bytes(integer) == int8_bytes(graph)
    biases = sum(t.nbytes for t in integer.constants() if t.dtype == "int32")
    weights = sum(t.nbytes for t in integer.constants() if t.dtype == "int8")
    assert biases + weights == parameter_bytes(integer) and biases % 4 == 0 and biases > 0
    # The file holds them all.
    assert len(to_tflite(integer)) > parameter_bytes(integer)


# Ranges --------------------------------------------------------------------------------------------------------------


def test_ranges_are_extremes_over_all_clips_whatever_the_batches():
    net = Net((1, 3, 3, 1))
    net.op("relu", [net.conv("x", 2, (2, 2))])
    x = net.features(7)
    x[5] *= 50  # one loud clip: an average over clips or batches would cut it off
    x[2] -= 30
    values = reference.run_all(net.graph, x)
    wanted = {name: (float(v.min()), float(v.max())) for name, v in values.items()}
    done = []
    for batch_size in (1, 2, 3, 7, 16):
        ranges = calibrate(net.graph, x, batch_size=batch_size, progress=lambda *step: done.append(step))
        assert ranges.keys() == wanted.keys()
        for name, pair in ranges.items():
            np.testing.assert_allclose(pair, wanted[name], rtol=1e-6)
        assert done[-1] == (7, 7)
    t = quantize_int8(net.graph, ranges).tensors["x"]
    assert dequantized(t, np.array(127)) >= x.max() - t.scale[0]
    assert dequantized(t, np.array(-128)) <= x.min() + t.scale[0]


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_calibration_refuses_what_is_not_finite(value):
    net = Net((1, 3, 3, 1))
    net.conv("x", 2, (2, 2))
    x = net.features(5)
    x[3, 1, 1, 0] = value
    with np.errstate(all="ignore"), pytest.raises(GraphError, match="not finite on calibration clips 2 to"):
        calibrate(net.graph, x, batch_size=2)


def test_calibration_refuses_an_overflow_inside():
    net = Net((1, 3))
    net.op("mul", ["x", "x"], activation="none")
    with np.errstate(all="ignore"), pytest.raises(GraphError, match="t1 is not finite"):
        calibrate(net.graph, np.full((1, 3), 1e30, np.float32))


def test_calibration_needs_clips():
    net = Net((1, 3, 3, 1))
    net.conv("x", 2, (2, 2))
    with pytest.raises(GraphError, match="at least one clip"):
        calibrate(net.graph, net.features(1)[:0])


# Scales --------------------------------------------------------------------------------------------------------------


def test_joined_maps_share_one_scale_through_chains():
    net = Net((1, 4, 6, 2))
    a, b = net.conv("x", 2, (1, 1)), net.conv("x", 2, (1, 1), activation="relu")
    for op, constant in zip(net.graph.ops, (1.0, 40.0), strict=True):
        net.graph.tensors[op.inputs[1]].data *= constant
    joined = net.op("concat", [a, b], axis=2)
    pooled = net.op("max_pool", [joined], kernel=(2, 2), stride=(2, 2), padding=(0, 0, 0, 0))
    averaged = net.op("average_pool", [pooled], kernel=(2, 1), stride=(1, 1), padding=(0, 0, 0, 0))
    cut = net.op("slice", [averaged], begin=(0, 0, 0, 0), size=(1, 1, 3, 2))
    padded = net.op("pad", [cut], padding=(0, 1, 0, 0))
    flat = net.flatten(padded)
    other = net.linear(flat, 3)
    x = net.features(4)
    ranges = calibrate(net.graph, x)
    integer = quantize_int8(net.graph, ranges)
    group = (a, b, joined, pooled, averaged, cut, padded, flat)
    assert {(float(integer.tensors[n].scale[0]), int(integer.tensors[n].zero_point[0])) for n in group} == {
        (float(integer.tensors[a].scale[0]), int(integer.tensors[a].zero_point[0]))
    }
    high, low = max(ranges[n][1] for n in group), min(ranges[n][0] for n in group)
    assert integer.tensors[a].scale[0] == pytest.approx((high - min(low, 0)) / 255, rel=1e-6)
    assert integer.tensors["x"].scale[0] != integer.tensors[a].scale[0]
    assert integer.tensors[other].scale[0] != integer.tensors[a].scale[0]


def test_a_sigmoid_has_the_scale_that_tflite_wants():
    net = Net((1, 3, 3, 2))
    gate = net.op("sigmoid", ["x"])
    net.op("mul", ["x", gate], activation="none")
    integer = quantized(net.graph, net.features(2))
    assert (integer.tensors[gate].scale[0], integer.tensors[gate].zero_point[0]) == (1 / 256, -128)


def test_a_sigmoid_into_a_shared_scale_is_refused():
    net = Net((1, 4, 4, 2))
    net.flatten(net.op("sigmoid", ["x"]))
    with pytest.raises(GraphError, match=r"sigmoid of net\.sigmoid0"):
        quantize_int8(net.graph, calibrate(net.graph, net.features(2)))


@settings(max_examples=100, deadline=None)
@given(st.floats(-1e6, 1e6), st.floats(-1e6, 1e6))
def test_zero_is_exact_and_the_range_is_held(a, b):
    net = Net((1, 2))
    net.op("relu", ["x"])
    low, high = min(a, b), max(a, b)
    t = quantize_int8(net.graph, {"x": (low, high), net.graph.output: (0.0, max(high, 0.0))}).tensors["x"]
    step, zero = float(t.scale[0]), int(t.zero_point[0])
    assert step == np.float32(step) and step > 0 and -128 <= zero <= 127
    assert step * (127 - zero) >= max(high, 0) - step
    assert step * (-128 - zero) <= min(low, 0) + step
    assert step <= 1.0001 * max(max(high, 0) - min(low, 0), LEAST_RANGE) / 255


# Weights and biases --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["conv", "depthwise", "linear"])
def test_weights_are_symmetric_per_channel_and_biases_fit_them(kind):
    net = Net((1, 12) if kind == "linear" else (1, 5, 5, 6), seed=3)
    if kind == "linear":
        net.linear("x", 6)
    elif kind == "conv":
        net.conv("x", 6, (3, 3))
    else:
        net.depthwise("x", (3, 3))
    weight, bias = net.graph.constants()
    axis = 3 if kind == "depthwise" else 0
    loudness = np.geomspace(1e-3, 10, 6).astype(np.float32)
    weight.data = np.moveaxis(np.moveaxis(weight.data, axis, -1) * loudness, -1, axis)
    weight.data = np.ascontiguousarray(weight.data)
    integer = quantized(net.graph, net.features(4))
    w, b = integer.tensors[weight.name], integer.tensors[bias.name]
    x_scale = integer.tensors["x"].scale[0]
    assert w.data.dtype == np.int8 and b.data.dtype == np.int32 and not w.zero_point.any() and not b.zero_point.any()
    assert w.data.min() >= -127
    others = tuple(i for i in range(w.data.ndim) if i != axis)
    largest = np.abs(weight.data).max(axis=others)
    if kind == "linear":
        assert w.scale.size == 1 and w.axis is None
        np.testing.assert_allclose(w.scale, largest.max() / 127, rtol=1e-6)
    else:
        assert w.axis == axis
        np.testing.assert_allclose(w.scale, largest / 127, rtol=1e-6)
        assert (np.abs(w.data).max(axis=others) == 127).all()
    np.testing.assert_array_equal(w.scale, w.scale.astype(np.float32))
    assert np.abs(dequantized(w) - weight.data).max() <= w.scale.max() / 2 * 1.001
    np.testing.assert_allclose(b.scale, w.scale * x_scale, rtol=1e-6)
    assert (np.abs(b.data * b.scale - bias.data) <= b.scale / 2 * 1.001).all()


@pytest.mark.parametrize("kind", ["conv", "depthwise", "linear"])
@pytest.mark.parametrize("dead", [slice(0, 1), slice(None)])
def test_a_dead_channel_keeps_its_bias(kind, dead):
    """All weights zero: no scale follows from them, yet the bias must come through in every runtime."""
    net = Net((1, 9) if kind == "linear" else (1, 3, 3, 4), seed=4)
    if kind == "linear":
        net.linear("x", 4)
    elif kind == "conv":
        net.conv("x", 4, (2, 2))
    else:
        net.depthwise("x", (2, 2))
    weight, bias = net.graph.constants()
    np.moveaxis(weight.data, 3 if kind == "depthwise" else 0, 0)[dead] = 0
    bias.data[:] = (0.7, -0.3, 0.0, 0.2)
    x = net.features(3)
    integer = quantized(net.graph, x)
    q = quantize_features(integer, x)
    y = reference.run(integer, q)
    expected, out = reference.run(net.graph, x), integer.tensors[integer.output]
    assert np.abs(dequantized(out, y) - expected)[..., dead].max() <= out.scale[0]
    data = to_tflite(integer)
    np.testing.assert_array_equal(run_tflm(data, q[:1]), y[:1])
    for reference_kernels in (True, False):
        assert np.abs(run_litert(data, q[:1], reference_kernels=reference_kernels).astype(int) - y[:1]).max() <= 1


@pytest.mark.parametrize("value", [0.7, -3.0, 500.0])
def test_a_bias_far_above_its_weights_does_not_overflow(value):
    net = Net((1, 4, 4, 3), seed=5)
    net.conv("x", 2, (2, 2))
    weight, bias = net.graph.constants()
    weight.data *= np.float32(1e-9)
    bias.data[:] = value
    x = net.features(3)
    integer = quantized(net.graph, x)
    stored = integer.tensors[bias.name]
    assert np.abs(stored.data.astype(np.int64)).max() <= 2**30 * 1.001
    np.testing.assert_allclose(stored.data * stored.scale, bias.data, rtol=1e-6)
    y = reference.run(integer, quantize_features(integer, x))
    out = integer.tensors[integer.output]
    assert np.abs(dequantized(out, y) - value).max() <= out.scale[0]
    np.testing.assert_array_equal(run_tflm(to_tflite(integer), quantize_features(integer, x)[:1]), y[:1])


def test_constant_maps_and_silence():
    """A net calibrated on silence alone still has scales that every runtime takes."""
    net = Net((1, 6, 6, 1), seed=6)
    x = net.conv("x", 4, (3, 3), padding=(1, 1, 1, 1), activation="relu", bias=False)
    x = net.op("add", [x, net.conv(x, 4, (1, 1), bias=False)], activation="none")
    x = net.op("hardswish", [x])
    x = net.op("mul", [x, net.op("sigmoid", [x])], activation="none")
    x = net.op("mean", [x], axes=(1, 2))
    net.linear(net.flatten(x), 3)
    silence = np.zeros((3, 6, 6, 1), np.float32)
    integer = quantized(net.graph, silence)
    assert all(np.isfinite(t.scale).all() and (t.scale > 0).all() for t in integer.tensors.values())
    data = to_tflite(integer)
    for features in (silence, net.features(2)):
        q = quantize_features(integer, features)[:1]
        expected = reference.run(integer, q)
        np.testing.assert_array_equal(run_tflm(data, q), expected)
        assert np.abs(run_litert(data, q).astype(int) - expected).max() <= 3
    out = integer.tensors[integer.output]
    error = dequantized(out, reference.run(integer, quantize_features(integer, silence))) - reference.run(
        net.graph, silence
    )
    assert np.abs(error).max() <= 2 * out.scale[0]


@pytest.mark.parametrize("factor", [0.0, 1e-5, 0.004, 3.0])
@pytest.mark.parametrize("kind", ["mul", "add"])
def test_constants_of_any_size_keep_their_values(kind, factor):
    net = Net((1, 4, 4, 3), seed=7)
    x = net.op("relu", ["x"])
    c = net.constant(1, 1, 1, 3)
    net.graph.tensors[c].data[:] = factor * np.array([1.0, 0.5, -0.25], np.float32)
    y = net.op(kind, [x, c], activation="none")
    net.op("mul", [y, net.constant(1, 1, 1, 1)], activation="none")
    x = net.features(3)
    integer = quantized(net.graph, x)
    data = net.graph.tensors[c].data
    if kind == "mul":
        assert np.abs(dequantized(integer.tensors[c]) - data).max() <= 0.005 * factor
    q = quantize_features(integer, x)
    values, floats = reference.run_all(integer, q), reference.run_all(net.graph, x)
    assert np.abs(dequantized(integer.tensors[y], values[y]) - floats[y]).max() <= 3 * integer.tensors[y].scale[0]
    data = to_tflite(integer)
    np.testing.assert_array_equal(run_tflm(data, q[:1]), values[integer.output][:1])
    assert np.abs(run_litert(data, q[:1]).astype(int) - values[integer.output][:1]).max() <= 3


def test_a_constant_of_two_operators_is_refused():
    """It would be quantised twice, and a bias's scale follows from one input."""
    net = Net((1, 6), seed=8)
    first = net.linear("x", 6)
    op = net.graph.ops[0]
    net.op("fully_connected", [net.op("relu", [first]), *op.inputs[1:]], activation="none")
    with pytest.raises(GraphError, match=r"net\.fully_connected0 and net\.fully_connected2"):
        quantize_int8(net.graph, calibrate(net.graph, net.features(4)))


def test_every_weighted_operator_is_integer():
    graph, x = student(4, (32, 32))
    integer = quantized(graph, x)
    for op in integer.ops:
        types = [integer.tensors[n].dtype for n in op.inputs]
        assert types == (["int8", "int8", "int32"] if op.kind in WEIGHTED else ["int8"] * len(types))
