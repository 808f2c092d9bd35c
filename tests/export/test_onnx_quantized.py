"""ONNX files of quantised graphs and of float16 weights, run in onnxruntime with its graph optimisations off."""

from __future__ import annotations

import copy

import numpy as np
import onnx
import onnxruntime
import pytest
from graphs import BUNDLE, KINDS, Net, nets, quantize_by_hand, quantize_features, small_student
from hypothesis import given, settings
from hypothesis import strategies as st
from runtimes import run_onnx
from students import s4

from tinyasc_export import reference
from tinyasc_export.errors import GraphError
from tinyasc_export.graph import WEIGHTED, Graph
from tinyasc_export.onnx import label_onnx, read_onnx_bundle, to_onnx
from tinyasc_export.onnx_quantized import SIMULATED

ZEROS = st.integers(-128, 127)
AXES = st.sampled_from([(1,), (2,), (3,), (1, 2), (1, 2, 3)])


def run_plain(data: bytes, x: np.ndarray, outputs: list[str] | None = None) -> list[np.ndarray]:
    """Answers clip by clip with graph optimisations off; `outputs` names inner uint8 tensors to read too."""
    model = onnx.load_model_from_string(data)
    for name in outputs or []:
        model.graph.output.append(onnx.helper.make_tensor_value_info(name, onnx.TensorProto.UINT8, None))
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    x = x.transpose(0, 3, 1, 2) if x.ndim == 4 else x
    answers = [session.run(None, {"features": clip[None]}) for clip in x]
    return [np.concatenate(values) for values in zip(*answers, strict=True)]


def real(graph: Graph, name: str, q: np.ndarray) -> np.ndarray:
    t = graph.tensors[name]
    return ((q.astype(np.float64) - t.zero_point[0]) * t.scale[0]).astype(np.float32)


def integers(graph: Graph, y: np.ndarray) -> np.ndarray:
    t = graph.tensors[graph.output]
    y = y.transpose(0, 2, 3, 1) if y.ndim == 4 else y
    return np.rint(y / t.scale[0]).astype(int) + t.zero_point[0]


@pytest.mark.parametrize("kind", KINDS)
def test_every_operator_is_within_one_step(kind):
    @settings(max_examples=15, deadline=None, database=None)
    @given(nets(most=1, kinds=(kind,)))
    def check(net):
        graph = quantize_by_hand(net.graph, net.features())
        x = quantize_features(graph, net.features(seed=7))
        answer = integers(graph, run_plain(to_onnx(graph), real(graph, "x", x))[0])
        steps = np.abs(answer - reference.run(graph, x, "single"))
        assert steps.max() <= len(graph.ops), str(graph)

    check()


@pytest.mark.parametrize("padding", [(0, 0, 0, 0), (1, 0, 1, 0)])
def test_average_pools_round_halves_as_the_reference_does(padding):
    net = Net((1, 16, 16, 4))
    net.op("average_pool", ["x"], kernel=(2, 2), stride=(2, 2), padding=padding)
    graph = quantize_by_hand(net.graph, net.features())
    x = np.random.default_rng(0).integers(-128, 128, (20, 16, 16, 4)).astype(np.int8)
    answer = integers(graph, run_plain(to_onnx(graph), real(graph, "x", x))[0])
    np.testing.assert_array_equal(answer, reference.run(graph, x))


def with_integers(graph: Graph, kind: str) -> Graph:
    """A graph of one operator of one input, of which the input's scale and zero point are its output's too."""
    given, got = graph.tensors[graph.input], graph.tensors[graph.output]
    for t in (given, got):
        t.dtype = kind
        t.zero_point = np.zeros(1, np.int64) if kind == "int16" else t.zero_point
    got.scale, got.zero_point = given.scale.copy(), given.zero_point.copy()
    return graph


@pytest.mark.parametrize("kind", ["int8", "int16"])
@pytest.mark.parametrize("shape", [(2, 2), (3, 2), (5, 4), (32, 24)], ids=str)
def test_means_round_halves_as_the_single_rounding_does(shape, kind):
    """At one scale for input and output, where every even count has halves, negative ones too."""
    net = Net((1, *shape, 64))
    net.op("mean", ["x"], axes=(1, 2))
    graph = with_integers(quantize_by_hand(net.graph, net.features(8)), kind)
    limits, rng = np.iinfo(kind), np.random.default_rng(0)
    x = rng.integers(limits.min, limits.max + 1, (60, *shape, 64)).astype(kind)
    twice = 2 * (x.astype(int) - graph.tensors["x"].zero_point[0]).sum(axis=(1, 2)) / np.prod(shape)
    assert ((twice % 2 == 1) & (twice < 0)).any()
    answer = integers(graph, run_plain(to_onnx(graph), real(graph, "x", x))[0])
    np.testing.assert_array_equal(answer, reference.run(graph, x, "single"))


@given(scales=st.tuples(st.floats(1e-4, 1.0), st.floats(1e-4, 1.0)), zeros=st.tuples(ZEROS, ZEROS), axes=AXES)
@settings(max_examples=40, deadline=None, database=None)
def test_means_equal_the_single_rounding_at_all_scales(scales, zeros, axes):
    net = Net((1, 6, 7, 5))
    net.op("mean", ["x"], axes=axes)
    graph = quantize_by_hand(net.graph, net.features(8))
    for name, scale, zero_point in zip(("x", graph.output), scales, zeros, strict=True):
        graph.tensors[name].scale = np.array([np.float32(scale)], np.float64)
        graph.tensors[name].zero_point = np.array([zero_point])
    x = np.random.default_rng(0).integers(-128, 128, (6, 6, 7, 5)).astype(np.int8)
    answer = integers(graph, run_plain(to_onnx(graph), real(graph, "x", x))[0])
    np.testing.assert_array_equal(answer, reference.run(graph, x, "single"))


def test_the_file_of_a_student():
    _, graph, _ = s4()
    data = to_onnx(graph, BUNDLE)
    assert data == to_onnx(graph, BUNDLE) and read_onnx_bundle(data, "m.onnx") == BUNDLE
    model = onnx.load_model_from_string(data)
    types = {i.name: i.data_type for i in model.graph.initializer}
    weights = [n for n in types if n.split("_")[0].endswith(".weight")]
    biases = [n for n in types if n.split("_")[0].endswith(".bias")]
    assert {types[n] for n in weights} == {onnx.TensorProto.INT8}
    assert {types[n] for n in biases} == {onnx.TensorProto.INT32}
    of = {n.op_type for n in model.graph.node}
    assert {"QuantizeLinear", "DequantizeLinear", "Conv", "Gemm", "ReduceSum"} <= of and "QLinearConv" not in of
    first = next(n for n in model.graph.node if n.op_type == "Conv")
    axes = [a.i for n in model.graph.node if n.output[0] == first.input[1] for a in n.attribute if a.name == "axis"]
    assert axes == [0]


@pytest.mark.parametrize(("settled", "least"), [(False, 0.999), (True, 0.94)])
def test_s4_follows_the_int8_reference(settled, least):
    """In its `single` rounding. One element that float32 rounds otherwise moves others behind it; random gains, as in
    the settled net, make much of them."""
    _, graph, x = s4(settled=settled)
    t = graph.tensors[graph.input]
    features = ((x.astype(np.float64) - t.zero_point[0]) * t.scale[0]).astype(np.float32)
    answer = integers(graph, run_plain(to_onnx(graph), features)[0])
    steps = np.abs(answer - reference.run(graph, x, "single"))
    assert (steps <= 1).mean() >= least and (steps == 0).mean() > 0.5


def test_s4_in_float16():
    graph, _, _ = s4()
    x = small_features(graph)
    data = to_onnx(graph, BUNDLE, weights="float16")
    types = {i.data_type for i in onnx.load_model_from_string(data).graph.initializer if i.name.endswith(".weight")}
    assert types == {onnx.TensorProto.FLOAT16} and read_onnx_bundle(data, "m") == BUNDLE
    assert len(data) < 0.62 * len(to_onnx(graph, BUNDLE))
    halves = copy.deepcopy(graph)
    for t in halves.constants():
        t.data = t.data.astype(np.float16).astype(np.float32)
    expected = reference.run(halves, x)
    np.testing.assert_allclose(run_plain(data, x)[0], expected, atol=1e-4 * np.abs(expected).max())


def small_features(graph: Graph) -> np.ndarray:
    return np.random.default_rng(4).standard_normal((4, *graph.tensors[graph.input].shape[1:])).astype(np.float32)


def test_constants_beyond_float16_are_refused():
    net = Net((1, 4, 4, 1))
    net.conv("x", 2, (3, 3))
    net.graph.constants()[0].data[0] = 1e5
    with pytest.raises(GraphError, match="does not fit float16"):
        to_onnx(net.graph, weights="float16")


def in_16_bits(graph: Graph, x: np.ndarray) -> Graph:
    """int16x8 by hand: symmetric int16 activations, int8 weights, int64 biases."""
    graph8 = quantize_by_hand(graph, x)
    values = reference.run_all(graph, x)
    for t in graph8.tensors.values():
        if t.data is not None and t.dtype == "int8" and not np.any(t.zero_point):
            continue
        if t.data is None:
            t.dtype, t.scale = "int16", np.array([max(np.abs(values[t.name]).max(), 1e-3) / 32767])
            t.zero_point = np.zeros(1, np.int64)
    for op in graph8.ops:
        if op.kind in WEIGHTED and len(op.inputs) == 3:
            b, w, i = (graph8.tensors[op.inputs[k]] for k in (2, 1, 0))
            b.dtype, b.scale, b.zero_point = "int64", w.scale * i.scale, np.zeros(w.scale.size, np.int64)
            b.data = np.rint(graph.tensors[b.name].data / b.scale).astype(np.int64)
    return graph8


@pytest.mark.parametrize("wide_bias", [False, True])
def test_int16_is_simulated_and_says_so(wide_bias):
    net = small_student()
    graph = in_16_bits(net.graph, net.features(batch=4))
    x = net.features(batch=4)
    if wide_bias:  # beyond 32 bits, though the value itself is small
        for g in (graph, net.graph):
            w = next(o for o in g.ops if o.kind == "fully_connected").inputs
            t = g.tensors[w[2]]
            t.data = t.data + t.data.dtype.type(2**33 if t.quantized else 2**33 * graph.tensors[w[2]].scale.flat[0])
        last = graph.tensors[graph.output]
        last.scale = np.abs(reference.run(net.graph, x)).max(keepdims=True).reshape(1) / 32767
    data = to_onnx(graph, BUNDLE)
    model = onnx.load_model_from_string(data)
    assert model.doc_string == SIMULATED and "simulated on CPU" in SIMULATED
    expected = reference.run(net.graph, x)
    noise = run_plain(data, x)[0] - expected
    assert 10 * np.log10((expected**2).sum() / (noise**2).sum()) > 35


def test_a_model_of_another_writer_is_labelled():
    data = label_onnx(to_onnx(small_student().graph), BUNDLE, "from elsewhere")
    assert onnx.load_model_from_string(data).doc_string == "from elsewhere"
    assert read_onnx_bundle(data, "m.onnx") == BUNDLE


def test_onnxruntime_takes_the_file_with_its_optimisations_on():
    _, graph, x = s4(settled=False)
    answer = integers(graph, run_onnx(to_onnx(graph), real(graph, graph.input, x[:1])))
    assert np.abs(answer - reference.run(graph, x[:1])).max() <= 8  # its kernels round and saturate otherwise
