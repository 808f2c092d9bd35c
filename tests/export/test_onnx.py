import numpy as np
import onnx
import pytest
from graphs import BUNDLE, KINDS, Net, nets, quantize_by_hand, small_student
from hypothesis import given, settings
from hypothesis import strategies as st
from runtimes import run_onnx

from tinyasc_export import reference
from tinyasc_export.errors import GraphError, ModelFileError
from tinyasc_export.onnx import IR_VERSION, OPSET, read_onnx_bundle, to_onnx


def assert_close(actual: np.ndarray, expected: np.ndarray) -> None:
    """Equal to 1e-4 of the largest value."""
    assert actual.shape == expected.shape
    np.testing.assert_allclose(actual, expected, rtol=1e-4, atol=1e-4 * max(float(np.abs(expected).max()), 1e-3))


@settings(max_examples=80, deadline=None)
@given(nets())
def test_onnxruntime_equals_the_reference(net):
    x = net.features()
    data = to_onnx(net.graph)
    assert_close(run_onnx(data, x), reference.run(net.graph, x))


@pytest.mark.parametrize("kind", KINDS)
def test_every_operator(kind):
    @settings(max_examples=8, deadline=None, database=None)
    @given(nets(most=1, kinds=(kind,)))
    def check(net):
        x = net.features()
        assert_close(run_onnx(to_onnx(net.graph), x), reference.run(net.graph, x))

    check()


def test_student():
    net = small_student()
    x = net.features()
    data = to_onnx(net.graph, BUNDLE)
    assert_close(run_onnx(data, x), reference.run(net.graph, x))
    assert data == to_onnx(small_student().graph, BUNDLE)
    model = onnx.load_model_from_string(data)
    assert (model.ir_version, model.opset_import[0].version) == (IR_VERSION, OPSET)
    assert [d.dim_value for d in model.graph.input[0].type.tensor_type.shape.dim] == [1, 1, 32, 20]
    assert (model.graph.input[0].name, model.graph.output[0].name) == ("features", "logits")
    names = [node.name for node in model.graph.node]
    assert len(set(names)) == len(names)
    assert "net.conv2d0" in names
    assert {"net.conv2d0.weight", "net.conv2d0.bias"} <= {i.name for i in model.graph.initializer}


def nodes(data: bytes) -> list[str]:
    return [node.op_type for node in onnx.load_model_from_string(data).graph.node]


@pytest.mark.parametrize(
    ("before", "after", "kinds"),
    [
        ((1, 6, 1, 4), (1, 1, 6, 4), ["Reshape"]),
        ((1, 1, 1, 4), (1, 4), ["Reshape"]),
        ((1, 6, 5, 1), (1, 30), ["Reshape"]),
        ((1, 6, 5, 4), (1, 120), ["Transpose", "Reshape"]),
        ((1, 6, 5, 4), (1, 1, 6, 20), ["Transpose", "Reshape", "Transpose"]),
        ((1, 6, 5, 4), (1, 30, 1, 4), ["Reshape"]),
    ],
)
def test_reshapes_transpose_only_when_they_must(before, after, kinds):
    net = Net(before)
    net.op("reshape", ["x"], shape=after)
    data = to_onnx(net.graph)
    x = net.features()
    assert nodes(data) == kinds
    np.testing.assert_array_equal(run_onnx(data, x), reference.run(net.graph, x))


@pytest.mark.parametrize("kind", ["max_pool", "average_pool"])
@pytest.mark.parametrize("padding", [(1, 1, 1, 1), (2, 0, 0, 0), (0, 0, 0, 2)])
@pytest.mark.parametrize("kernel", [(1, 1), (2, 2), (3, 3)])
def test_zeros_before_a_pool_stay_zeros(kind, padding, kernel):
    net = Net((1, 5, 4, 2))
    x = net.op("pad", ["x"], padding=padding)
    net.op(kind, [x], kernel=kernel, stride=(1, 1), padding=(0, 0, 0, 0))
    x = -np.abs(net.features())
    assert_close(run_onnx(to_onnx(net.graph), x), reference.run(net.graph, x))


def test_the_bundle_comes_back():
    net = small_student()
    assert read_onnx_bundle(to_onnx(net.graph, BUNDLE), "m.onnx") == BUNDLE
    assert read_onnx_bundle(to_onnx(net.graph), "m.onnx") is None


STUDENT = to_onnx(small_student().graph, BUNDLE)


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_damaged_files_give_one_error(data):
    damaged = bytearray(STUDENT[: data.draw(st.integers(0, len(STUDENT)))])
    for _ in range(data.draw(st.integers(0, 4))):
        if damaged:
            damaged[data.draw(st.integers(0, len(damaged) - 1))] = data.draw(st.integers(0, 255))
    try:
        read_onnx_bundle(bytes(damaged), "m.onnx")
    except ModelFileError as error:
        assert "m.onnx" in str(error)


@pytest.mark.parametrize("garbage", [b"", b"TFL3", b"RIFF" * 40, bytes(500)])
def test_other_files_are_refused(garbage):
    with pytest.raises(ModelFileError, match=r"m\.onnx: not an ONNX model"):
        read_onnx_bundle(garbage, "m.onnx")


def test_graphs_of_mixed_types_are_refused():
    net = Net((1, 4, 4, 1))
    net.conv("x", 2, (3, 3))
    quantized = quantize_by_hand(net.graph, net.features())
    quantized.tensors["x"].dtype, quantized.tensors["x"].scale = "float32", None
    with pytest.raises(GraphError, match="float32 throughout"):
        to_onnx(quantized)
    quantized = quantize_by_hand(net.graph, net.features())
    quantized.constants()[0].scale = None
    with pytest.raises(GraphError, match="without a scale"):
        to_onnx(quantized)
    with pytest.raises(GraphError, match="'float16'"):
        to_onnx(net.graph, weights="bfloat16")


def test_unequal_ranks_are_refused():
    net = Net((1, 2, 2, 3))
    row = net.op("reshape", [net.op("mean", ["x"], axes=(1, 2))], shape=(1, 3))
    net.op("mul", ["x", row], activation="none")
    with pytest.raises(GraphError, match="put a reshape before it"):
        to_onnx(net.graph)
