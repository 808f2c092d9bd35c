"""The int16x8 reference against TensorFlow Lite Micro, operator by operator: equal bits, no tolerance."""

import numpy as np
import pytest
from graphs import INT16_KINDS, Net, nets, quantize_features, same_padding, small_student
from hypothesis import given, settings
from runtimes import run_tflm

from tinyasc_export import reference, rounding
from tinyasc_export.count import parameter_bytes, parameters
from tinyasc_export.errors import GraphError, InputError
from tinyasc_export.graph import OPERATORS
from tinyasc_export.limits import least_output_scale
from tinyasc_export.quantize import calibrate, quantize_int8, quantize_int16x8
from tinyasc_export.tflite import to_tflite
from tinyasc_export.tflite_rules import INT16_OPERATORS, check_int16_operators

pytest.importorskip("tflite_micro", reason="the tflite-micro wheel exists for x86-64 Linux only")


def give_scale(net: Net, name: str, scale: float, dtype: str = "int16") -> None:
    t = net.graph.tensors[name]
    t.dtype, t.scale, t.zero_point = dtype, np.array([np.float64(np.float32(scale))]), np.array([0])


@pytest.mark.parametrize("scale", [1 / 4096, 1.0005 / 4096, 1.001 / 4096, 1e-6, 3e-5, 0.0003, 0.01, 0.3, 2.6])
def test_every_input_of_the_sigmoid(scale):
    net = Net((1, 256, 256, 1))
    net.op("sigmoid", ["x"])
    give_scale(net, "x", scale)
    give_scale(net, net.graph.output, 1 / 32768)
    q = np.arange(-32768, 32768).astype(np.int16).reshape(1, 256, 256, 1)
    expected = run_tflm(to_tflite(net.graph), q)
    np.testing.assert_array_equal(reference.run(net.graph, q), expected)
    real = 0.5 + 0.5 * np.tanh(0.5 * np.float64(np.float32(scale)) * q)
    assert np.abs(expected / 32768 - real).max() < 2e-4


def test_a_sigmoid_whose_factor_overflows_is_refused():
    assert rounding.logistic_parameters(2.6)[0] < 1 << 15
    net = Net((1, 2, 2, 1))
    net.op("sigmoid", ["x"])
    give_scale(net, "x", 2.7)
    give_scale(net, net.graph.output, 1 / 32768)
    with pytest.raises(GraphError, match=r"overflows at any output scale: .* 2[.]7 is too large"):
        to_tflite(net.graph)


@pytest.mark.parametrize("kind", [*INT16_KINDS, "linear"])
def test_every_operator(kind):
    @settings(max_examples=25, deadline=None, database=None)
    @given(nets(most=1, kinds=("reshape" if kind == "linear" else kind,), wide=True))
    def check(net):
        x = net.features()
        graph = quantize_int16x8(net.graph, calibrate(net.graph, x))
        q = quantize_features(graph, 1.3 * x)
        np.testing.assert_array_equal(reference.run(graph, q), run_tflm(to_tflite(graph), q), err_msg=str(graph))

    check()


def test_hardswish_is_refused_with_its_module_and_a_mend():
    net = small_student()
    ranges = calibrate(net.graph, net.features())
    with pytest.raises(InputError, match=r"net\.hardswish\d+.*attention_activation: relu"):
        quantize_int16x8(net.graph, ranges)
    graph = quantize_int8(net.graph, ranges)
    with pytest.raises(InputError, match="no int16 kernel"):
        check_int16_operators(graph)
    assert set(OPERATORS) - set(INT16_OPERATORS) == {"hardswish", "rsqrt"}


def test_rsqrt_is_refused_with_its_module_and_a_mend():
    net = Net((1, 4, 4, 3))
    net.op("rsqrt", ["x"])
    with pytest.raises(InputError, match=r"module net\.rsqrt0: rsqrt answers otherwise at int16 in LiteRT.*grn: false"):
        quantize_int16x8(net.graph, calibrate(net.graph, np.abs(net.features()) + np.float32(0.1)))


def test_types_and_counts():
    net = small_student(gate="relu")
    graph = quantize_int16x8(net.graph, calibrate(net.graph, net.features()))
    types = {t.dtype for t in graph.constants()}
    assert types == {"int8", "int64"}
    assert {t.dtype for t in graph.tensors.values() if not t.constant} == {"int16"}
    biases = sum(t.data.size for t in graph.constants() if t.dtype == "int64")
    assert parameter_bytes(graph) == parameters(graph) + 7 * biases


def test_a_zero_point_is_refused():
    net = small_student(gate="relu")
    graph = quantize_int16x8(net.graph, calibrate(net.graph, net.features()))
    graph.tensors[graph.input].zero_point = np.array([3])
    with pytest.raises(GraphError, match="symmetric throughout"):
        to_tflite(graph)


@pytest.mark.parametrize("quantize", [quantize_int8, quantize_int16x8])
@pytest.mark.parametrize("kind", ["add", "mul", "conv2d", "relu", "mean"])
def test_outputs_that_were_almost_zero_get_a_scale_that_cannot_overflow(quantize, kind):
    """Ranges from clips on which a map stays at zero, though its inputs do not."""
    net = Net((1, 4, 4, 3))
    if kind in ("add", "mul"):
        other = net.conv("x", 3, (3, 3), padding=same_padding((4, 4), (3, 3), (1, 1)))
        net.op(kind, ["x", other], activation="none")
    elif kind == "conv2d":
        net.conv("x", 3, (1, 1))
    else:
        net.op(kind, ["x"], **({"axes": (1, 2)} if kind == "mean" else {}))
    x = 1e4 * net.features()
    ranges = calibrate(net.graph, x) | {net.graph.output: (0.0, 1e-7)}
    graph = quantize(net.graph, ranges)
    for op in graph.ops:
        assert graph.tensors[op.output].scale[0] >= least_output_scale(graph, op)
    q = quantize_features(graph, x)
    np.testing.assert_array_equal(reference.run(graph, q), run_tflm(to_tflite(graph), q))


def test_too_fine_a_scale_is_refused():
    net = Net((1, 4, 4, 3))
    net.op("add", ["x", net.conv("x", 3, (1, 1))], activation="none")
    graph = quantize_int16x8(net.graph, calibrate(net.graph, net.features()))
    out = graph.tensors[graph.output]
    out.scale = out.scale * 1e-6
    with pytest.raises(GraphError, match="could overflow"):
        to_tflite(graph)


def test_float_features_are_refused():
    net = small_student(gate="relu")
    graph = quantize_int16x8(net.graph, calibrate(net.graph, net.features()))
    with pytest.raises(GraphError, match="both must be int16"):
        reference.run(graph, net.features())
