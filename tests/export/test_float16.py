"""Weights stored as float16, computed with as float32."""

import numpy as np
import pytest
from ai_edge_litert import schema_py_generated as schema
from graphs import BUNDLE, Net, nets, small_student
from hypothesis import given, settings
from runtimes import run_litert

from tinyasc_export import reference
from tinyasc_export.count import parameter_bytes, parameters
from tinyasc_export.errors import GraphError
from tinyasc_export.lower import store_float16
from tinyasc_export.quantize import calibrate, quantize_int8
from tinyasc_export.tflite import read_bundle, to_tflite


@pytest.mark.parametrize("reference_kernels", [False, True])
@settings(max_examples=40, deadline=None)
@given(nets())
def test_files_equal_the_reference(reference_kernels, net):
    x = net.features()
    expected = reference.run(store_float16(net.graph), x)
    actual = run_litert(to_tflite(net.graph, weights="float16"), x, reference_kernels=reference_kernels)
    np.testing.assert_allclose(actual, expected, rtol=1e-4, atol=1e-4 * max(float(np.abs(expected).max()), 1e-3))


def test_a_student():
    net = small_student()
    graph = store_float16(net.graph)
    data = to_tflite(net.graph, BUNDLE, weights="float16")
    assert data == to_tflite(graph, BUNDLE)
    assert read_bundle(data, "m.tflite") == BUNDLE
    assert parameter_bytes(graph) == 2 * parameters(net.graph) == parameter_bytes(net.graph) // 2
    x = net.features()
    expected = reference.run(net.graph, x)
    assert np.abs(run_litert(data, x) - expected).max() < 1e-2 * np.abs(expected).max()
    assert str(graph.constants()[0].data.dtype) == "float16" and net.graph.constants()[0].dtype == "float32"


def test_constants_are_half_as_large():
    net = Net((1, 1, 1, 256))
    net.conv("x", 256, (1, 1))
    plain, half = to_tflite(net.graph), to_tflite(net.graph, weights="float16")
    assert len(plain) - len(half) > 2 * 256 * 256 - 500
    model = schema.ModelT.InitFromObj(schema.Model.GetRootAs(half, 0))
    stored = [t.type for t in model.subgraphs[0].tensors if model.buffers[t.buffer].data is not None]
    assert set(stored) == {schema.TensorType.FLOAT16}


def test_each_constant_is_widened_once():
    net = Net((1, 2, 2, 3))
    c = net.constant(1, 1, 1, 3)
    net.op("mul", [net.op("add", ["x", c], activation="none"), c], activation="none")
    model = schema.ModelT.InitFromObj(schema.Model.GetRootAs(to_tflite(net.graph, weights="float16"), 0))
    assert len(model.subgraphs[0].operators) == 3


def test_what_float16_cannot_hold_is_refused():
    net = Net((1, 2, 2, 3))
    net.conv("x", 2, (1, 1))
    net.graph.constants()[0].data[0, 0, 0, 0] = 7e4
    with pytest.raises(GraphError, match="65504"):
        to_tflite(net.graph, weights="float16")


def test_quantised_graphs_and_other_widths_are_refused():
    net = small_student()
    graph = quantize_int8(net.graph, calibrate(net.graph, net.features()))
    with pytest.raises(GraphError, match="quantised"):
        to_tflite(graph, weights="float16")
    with pytest.raises(GraphError, match="'bfloat16'"):
        to_tflite(net.graph, weights="bfloat16")
