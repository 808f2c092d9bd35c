"""What is refused of an .onnx file before onnxruntime sees it. The `onnx` package is the oracle of the framing."""

import glob
import os
from pathlib import Path

import numpy as np
import onnx
import pytest
from google.protobuf.message import DecodeError
from graphs import BUNDLE, nets, quantize_by_hand, small_student
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from tinyasc_export.errors import ModelFileError
from tinyasc_export.onnx import to_onnx
from tinyasc_export.onnx_check import check_onnx

NET = small_student()
STUDENT = to_onnx(NET.graph, BUNDLE)
BARE = to_onnx(NET.graph)


@settings(max_examples=25, deadline=None)
@given(nets())
def test_files_of_random_nets_pass(net):
    check_onnx(to_onnx(net.graph, BUNDLE), "m")
    check_onnx(to_onnx(net.graph, weights="float16"), "m")
    check_onnx(to_onnx(quantize_by_hand(net.graph, net.features())), "m")


def test_models_of_others_pass():
    """What PyTorch exported and the model zoo's nets, as the onnx package brings them."""
    folder = Path(onnx.__file__).parent / "backend/test/data"
    paths = sorted(glob.glob(f"{folder}/light/*.onnx") + glob.glob(f"{folder}/pytorch-converted/*Conv2d*/model.onnx"))
    if not paths:
        pytest.skip("this onnx package brings no models")
    for path in paths:
        check_onnx(Path(path).read_bytes(), path)


def changed(change):
    model = onnx.load_from_string(BARE)
    change(model)
    return model.SerializeToString()


def external(model):
    weights = model.graph.initializer[0]
    weights.ClearField("raw_data")
    weights.ClearField("float_data")
    weights.data_location = TensorProto.EXTERNAL
    weights.external_data.add(key="location", value="/etc/passwd")


def external_in_a_constant(model):
    value = numpy_helper.from_array(np.zeros(3, np.float32), "v")
    value.ClearField("raw_data")
    value.external_data.add(key="location", value="weights.bin")
    model.graph.node.append(helper.make_node("Constant", [], ["c"], value=value))


def loop(model):
    body = helper.make_graph([], "body", [], [])
    model.graph.node.append(helper.make_node("Loop", ["", "x"], ["y"], body=body))


REFUSED = {
    "weights elsewhere": (external, "lie in another file"),
    "a constant elsewhere": (external_in_a_constant, "lie in another file"),
    "loop": (loop, "graph or sparse values inside"),
    "random": (lambda m: m.graph.node.append(helper.make_node("RandomNormal", [], ["r"], shape=[4])), "'RandomNormal'"),
    "other maker": (
        lambda m: m.graph.node.append(helper.make_node("PyOp", [], ["r"], domain="ai.onnx.contrib")),
        "'ai.onnx.contrib::PyOp'",
    ),
    "function": (lambda m: m.functions.add(name="f", domain="d"), "functions or training"),
    "training": (lambda m: m.training_info.add(), "functions or training"),
    "strings": (
        lambda m: m.graph.initializer.append(helper.make_tensor("s", TensorProto.STRING, [1], [b"x"])), "strings",
    ),
    "sparse": (lambda m: m.graph.sparse_initializer.add(), "sparse weights"),
    "no graph": (lambda m: m.ClearField("graph"), "not an ONNX model"),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_what_a_model_has_no_use_for_is_refused_in_one_line(name):
    change, says = REFUSED[name]
    with pytest.raises(ModelFileError, match=says) as caught:
        check_onnx(changed(change), "m.onnx")
    assert str(caught.value).startswith("m.onnx: ") and "\n" not in str(caught.value)


def test_a_file_that_was_changed_is_refused():
    whole = bytearray(STUDENT)
    whole[STUDENT.index(b"logits")] ^= 1
    with pytest.raises(ModelFileError, match="not as it was written"):
        check_onnx(bytes(whole), "m")


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_what_passes_is_a_protocol_buffer(data):
    """The walk may be stricter than the library, never laxer on what it walks through."""
    whole = bytearray(BARE[: data.draw(st.just(len(BARE)) | st.integers(0, len(BARE)))])
    for _ in range(data.draw(st.integers(0, 4))):
        if whole:
            whole[data.draw(st.integers(0, len(whole) - 1))] = data.draw(st.integers(0, 255))
    try:
        check_onnx(bytes(whole), "m.onnx")
    except ModelFileError as error:
        assert str(error).startswith("m.onnx: ") and "\n" not in str(error)
        return
    try:
        model = onnx.load_from_string(bytes(whole))
    except DecodeError:
        return  # texts that are no UTF-8, and fields of messages that are not walked through
    assert not any(t.external_data or t.data_location for t in model.graph.initializer)


@pytest.mark.skipif(os.name != "posix", reason="needs a sparse file")
def test_a_weight_file_is_never_opened(tmp_path, monkeypatch):
    """onnxruntime itself would read it, next to the model or in the current folder."""
    weights = next(t for t in onnx.load_from_string(BARE).graph.initializer if t.raw_data)
    (tmp_path / "weights.bin").write_bytes(weights.raw_data)

    def move(model):
        moved = next(t for t in model.graph.initializer if t.name == weights.name)
        moved.ClearField("raw_data")
        moved.data_location = TensorProto.EXTERNAL
        moved.external_data.add(key="location", value="weights.bin")

    monkeypatch.chdir(tmp_path)
    from tinyasc.infer.backends.onnx_backend import OnnxBackend

    with pytest.raises(ModelFileError, match="lie in another file"):
        OnnxBackend(changed(move))
