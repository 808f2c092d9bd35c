"""The integer reference against TensorFlow Lite Micro: equal bits, no tolerance."""

import math

import numpy as np
import pytest
from graphs import Net, nets, quantize_by_hand, quantize_features, same_padding, small_student
from hypothesis import given, settings
from hypothesis import strategies as st
from runtimes import run_litert, run_tflm

from tinyasc_export import reference, rounding
from tinyasc_export.errors import GraphError
from tinyasc_export.graph import WEIGHTED, Tensor
from tinyasc_export.limits import MARGIN
from tinyasc_export.tflite import to_tflite
from tinyasc_export.tflite_rules import WEIGHT_AXIS

pytest.importorskip("tflite_micro", reason="the tflite-micro wheel exists for x86-64 Linux only")


@settings(max_examples=100, deadline=None)
@given(nets(), st.booleans(), st.sampled_from((0.5, 1.0, 1.5)))
def test_random_graphs(net, per_channel_linear, loudness):
    x = net.features()
    graph = quantize_by_hand(net.graph, x, per_channel_linear=per_channel_linear)
    q = quantize_features(graph, loudness * x)
    np.testing.assert_array_equal(reference.run(graph, q), run_tflm(to_tflite(graph), q), err_msg=str(graph))


@pytest.mark.parametrize("seed", range(4))
def test_student(seed):
    net = small_student(seed)
    graph = quantize_by_hand(net.graph, net.features(8))
    q = quantize_features(graph, net.features(8))
    together = reference.run(graph, q)
    assert together.dtype == np.int8
    data = to_tflite(graph)
    for i in range(8):
        np.testing.assert_array_equal(together[i : i + 1], run_tflm(data, q[i : i + 1]))


def give_scale(t: Tensor, scale, zero_point: int, dtype: str = "int8", axis: int | None = None) -> None:
    t.dtype, t.axis = dtype, axis
    t.scale = np.atleast_1d(np.asarray(scale, np.float32).astype(np.float64))
    t.zero_point = np.full(t.scale.size, zero_point, np.int64)


def any_scale(rng: np.random.Generator, low: float, high: float) -> float:
    return float(np.exp(rng.uniform(np.log(low), np.log(high))))


@pytest.mark.parametrize(
    ("x_scale", "y_scale"),
    [(4.3998694e-05, 0.85811216), (0.11742849, 0.0029820325), (0.0012037039, 0.12778151), (0.0051347446, 0.026966952)],
)
def test_reciprocal_roots_where_single_precision_would_show(x_scale, y_scale):
    """The multiplier is computed in double precision; in single one of the 256 answers would be another."""
    net = Net((1, 16, 16, 1))
    net.op("rsqrt", ["x"])
    give_scale(net.graph.tensors["x"], x_scale, -128)
    give_scale(net.graph.tensors[net.graph.output], y_scale, -128)
    q = np.arange(-128, 128).astype(np.int8).reshape(1, 16, 16, 1)
    np.testing.assert_array_equal(reference.run(net.graph, q), run_tflm(to_tflite(net.graph), q))


@pytest.mark.parametrize("fine", [1.001, 0.999])
def test_the_finest_scale_of_a_reciprocal_root(fine):
    net = Net((1, 16, 16, 1))
    net.op("rsqrt", ["x"])
    give_scale(net.graph.tensors["x"], 0.25, -128)
    give_scale(net.graph.tensors[net.graph.output], fine * MARGIN * 2.0**-29, -128)
    q = np.arange(-128, 128).astype(np.int8).reshape(1, 16, 16, 1)
    if fine < 1:
        with pytest.raises(GraphError, match="could overflow"):
            to_tflite(net.graph)
    else:
        np.testing.assert_array_equal(reference.run(net.graph, q), run_tflm(to_tflite(net.graph), q))


ONE_OPERATOR = (
    "fully_connected",
    "conv2d",
    "depthwise_conv2d",
    "add",
    "mul",
    "maximum",
    "mean",
    "max_pool",
    "average_pool",
    "relu",
    "sigmoid",
    "hardswish",
    "rsqrt",
)


@pytest.mark.parametrize("kind", ONE_OPERATOR)
@pytest.mark.parametrize("seed", range(20))
def test_one_operator_with_any_scales(kind, seed):
    """Scales over three decades, zero points and integers over their whole range."""
    rng = np.random.default_rng([seed, ONE_OPERATOR.index(kind)])
    h, w, c = int(rng.integers(1, 9)), int(rng.integers(1, 9)), int(rng.integers(1, 80))
    net = Net((1, c) if kind == "fully_connected" else (1, h, w, c), seed)
    graph = net.graph
    activation = str(rng.choice(["none", "relu"]))
    x_scale, x_zero = any_scale(rng, 1e-3, 0.5), int(rng.integers(-128, 128))
    y_scale, y_zero = x_scale * any_scale(rng, 1 / 30, 30), int(rng.integers(-128, 128))
    kernel = (min(h, 3), min(w, 3))
    if kind == "fully_connected":
        net.linear("x", 8, activation=activation)
    elif kind == "conv2d":
        net.conv("x", int(rng.integers(1, 20)), kernel, activation=activation)
    elif kind == "depthwise_conv2d":
        net.depthwise("x", kernel, activation=activation, padding=same_padding((h, w), kernel, (1, 1)))
    elif kind in ("add", "mul"):
        other = net.constant(*(n if rng.random() < 0.5 else 1 for n in (1, h, w, c)))
        net.op(kind, ["x", other], activation=activation)
        other_scale = x_scale * any_scale(rng, 1 / 20, 20)
        y_scale = (max(x_scale, other_scale) if kind == "add" else 20 * x_scale * other_scale) * any_scale(rng, 0.1, 4)
        give_scale(graph.tensors[other], other_scale, int(rng.integers(-128, 128)))
        graph.tensors[other].data = rng.integers(-128, 128, net.shape(other)).astype(np.int8)
    elif kind == "maximum":
        net.op(kind, ["x", net.constant(*(n if rng.random() < 0.5 else 1 for n in (1, h, w, c)))])
        other = graph.constants()[0]
        y_scale, y_zero = x_scale, x_zero
        give_scale(other, x_scale, x_zero)
        other.data = rng.integers(-128, 128, other.shape).astype(np.int8)
    elif kind == "mean":
        net.op(kind, ["x"], axes=[(1,), (2,), (3,), (1, 2), (2, 3), (1, 3), (1, 2, 3)][seed % 7])
    elif kind in ("max_pool", "average_pool"):
        padding = same_padding((h, w), kernel, (2, 2))
        net.op(kind, ["x"], kernel=kernel, stride=(2, 2), padding=padding)
        y_scale, y_zero = x_scale, x_zero
    else:
        net.op(kind, ["x"])
        if kind == "rsqrt":
            x_zero, y_scale = -128, x_scale**-0.5 / 255 * any_scale(rng, 0.1, 2)
        y_scale, y_zero = (1 / 256, -128) if kind == "sigmoid" else (y_scale, y_zero)
    give_scale(graph.tensors["x"], x_scale, x_zero)
    give_scale(graph.tensors[graph.output], y_scale, y_zero)
    op = graph.ops[0]
    if op.kind in WEIGHTED:
        weight, bias = graph.tensors[op.inputs[1]], graph.tensors[op.inputs[2]]
        axis = WEIGHT_AXIS[kind]
        channels = 1 if kind == "fully_connected" and seed % 2 else weight.shape[axis]
        taps = math.prod(weight.shape) / weight.shape[axis]
        spread = np.array([any_scale(rng, 0.003, 0.3) for _ in range(channels)])
        give_scale(weight, y_scale / x_scale / taps**0.5 * spread, 0, axis=axis if channels > 1 else None)
        give_scale(bias, np.float32(x_scale) * weight.scale, 0, "int32", 0)
        weight.data = rng.integers(-127, 128, weight.shape).astype(np.int8)
        bias.data = rng.integers(-20000, 20000, bias.shape).astype(np.int32)
        bias.scale = graph.tensors["x"].scale * weight.scale
    q = rng.integers(-128, 128, net.shape("x")).astype(np.int8)
    data = to_tflite(graph)
    expected = run_tflm(data, q)
    np.testing.assert_array_equal(reference.run(graph, q), expected, err_msg=str(graph))
    # XNNPACK rounds once where TFLM rounds twice.
    assert np.abs(run_litert(data, q).astype(int) - expected).max() <= 1


def test_scales_are_multiplied_in_double_precision():
    """Accumulators on which a product of scales in single precision would round to another integer."""
    rng = np.random.default_rng(2)  # a seed that gives such accumulators
    x_scale, w_scale, y_scale = (np.float32(rng.uniform(*r)) for r in ((0.01, 0.1), (2e-5, 6e-4), (0.01, 0.1)))
    totals = np.arange(-(1 << 20), 1 << 20)
    double = rounding.quantize_multiplier(float(x_scale) * float(w_scale) / float(y_scale))
    single = rounding.quantize_multiplier(float(x_scale * w_scale) / float(y_scale))
    differ = rounding.scale(totals, *double) != rounding.scale(totals, *single)
    totals = totals[differ & (np.abs(rounding.scale(totals, *double)) < 127)]
    assert totals.size
    net = Net((1, 4))
    net.linear("x", totals.size)
    weight, bias = net.graph.constants()
    give_scale(net.graph.tensors["x"], x_scale, 0)
    give_scale(net.graph.tensors[net.graph.output], y_scale, 0)
    give_scale(weight, w_scale, 0)
    give_scale(bias, 1, 0, "int32")
    bias.scale = net.graph.tensors["x"].scale * weight.scale
    weight.data, bias.data = np.zeros(weight.shape, np.int8), totals.astype(np.int32)
    q = np.zeros((1, 4), np.int8)
    np.testing.assert_array_equal(reference.run(net.graph, q), run_tflm(to_tflite(net.graph), q))


@given(st.floats(1e-9, 1e4))
def test_a_multiplier_is_its_factor(real):
    multiplier, shift = rounding.quantize_multiplier(real)
    assert 1 << 30 <= multiplier < 1 << 31
    assert math.isclose(multiplier * 2.0 ** (shift - 31), real, rel_tol=2**-30)


def test_rounding_of_halves():
    x = np.array([-3, -1, 1, 3])
    assert rounding.shift_down(x, 1).tolist() == [-2, -1, 1, 2]
    assert rounding.divide_toward_zero(x, 2).tolist() == [-1, 0, 0, 1]
    assert rounding.high_mul(np.array([-(1 << 31)]), -(1 << 31)).tolist() == [rounding.INT32_MAX]


def test_logistic_is_the_logistic():
    x = np.arange(-8, 8, 1 / 16)
    y = rounding.logistic(np.rint(x * 2**27).astype(np.int64)) / 2**31
    np.testing.assert_allclose(y, 1 / (1 + np.exp(-x)), atol=1e-7)


def test_float_features_are_refused():
    net = small_student()
    graph = quantize_by_hand(net.graph, net.features())
    with pytest.raises(GraphError, match="both must be int8"):
        reference.run(graph, net.features())
