import builtins

import numpy as np
import pytest
import tiny_models as tiny

from tinyasc.errors import ModelFileError, TinyascError
from tinyasc.frontend import features
from tinyasc.infer.backends.litert_backend import LiteRtBackend, dequantize, quantize
from tinyasc.infer.backends.onnx_backend import OnnxBackend
from tinyasc_export.onnx import to_onnx
from tinyasc_export.tflite import to_tflite

# int8 features have 255 steps over the calibrated range, and the weights and the logits as many over theirs.
INT8_LOGIT_TOLERANCE = 0.05
SHAPE = tiny.FRONT_END.shape
FILES = {
    "tflite": (LiteRtBackend, tiny.tflite, 1e-5),
    "tflite-int8": (LiteRtBackend, tiny.tflite_int8, INT8_LOGIT_TOLERANCE),
    "onnx": (OnnxBackend, tiny.onnx, 1e-5),
}


@pytest.mark.parametrize("kind", FILES)
@pytest.mark.parametrize("label", tiny.LABELS)
def test_logits_are_those_of_the_definition(kind, label):
    backend, write, tolerance = FILES[kind]
    mel = features(tiny.tone(label), tiny.FRONT_END)
    got = backend(write()).logits(mel)
    assert got.shape == (3,) and got.dtype == np.float32
    np.testing.assert_allclose(got, tiny.WEIGHT @ mel[0].mean(axis=1), atol=tolerance)


@pytest.mark.parametrize("kind", FILES)
def test_a_backend_says_what_the_file_holds(kind, tmp_path):
    backend, write, _ = FILES[kind]
    path = tmp_path / "m"
    path.write_bytes(write(note="hello"))
    for source in (path, str(path), path.read_bytes()):
        model = backend(source)
        assert model.input_shape == SHAPE and model.n_classes == 3
        assert model.bundle == tiny.bundle(note="hello")


@pytest.mark.parametrize("kind", FILES)
def test_the_answer_of_one_clip_does_not_depend_on_the_one_before(kind):
    backend, write, _ = FILES[kind]
    model = backend(write())
    low, high = (features(tiny.tone(label), tiny.FRONT_END) for label in ("low", "high"))
    first = model.logits(low)
    model.logits(high)
    assert np.array_equal(first, model.logits(low))


@pytest.mark.parametrize("kind", FILES)
def test_features_of_another_shape_are_refused_with_both(kind):
    backend, write, _ = FILES[kind]
    with pytest.raises(ValueError, match=r"\(1, 12, 3\).*\(1, 12, 15\)"):
        backend(write()).logits(np.zeros((1, 12, 3), np.float32))


@pytest.mark.parametrize("dtype", ["int8", "int16"])
def test_quantize_rounds_to_the_nearest_step_and_saturates(dtype):
    details = {"dtype": np.dtype(dtype).type, "quantization": (0.5, 3)}
    limits = np.iinfo(dtype)
    x = np.array([0.0, 0.74, 0.76, -0.74, 1e9, -1e9], np.float32)
    q = quantize(x, details)
    assert q.dtype == dtype and q.tolist() == [3, 4, 5, 2, limits.max, limits.min]
    np.testing.assert_allclose(dequantize(q[:4], details), [0, 0.5, 1, -0.5])


@pytest.mark.parametrize("kind", FILES)
def test_damaged_files_are_refused_in_one_line(kind, tmp_path):
    backend, write, _ = FILES[kind]
    whole = write()
    contents = {"empty": b"", "text": b"not a model at all\n" * 20, "zeros": bytes(4096)}
    contents |= {f"cut-{share}": whole[: int(len(whole) * share)] for share in (0.02, 0.3, 0.6, 0.9)}
    for name, content in contents.items():
        path = tmp_path / name
        path.write_bytes(content)
        with pytest.raises(ModelFileError) as caught:
            backend(path)
        assert name in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize("backend", [LiteRtBackend, OnnxBackend])
def test_missing_files_and_folders_are_refused(backend, tmp_path):
    for path in (tmp_path / "nowhere.tflite", tmp_path, "nul\0name"):
        with pytest.raises(ModelFileError, match="cannot read this model file"):
            backend(path)


def test_a_file_without_a_card_is_refused():
    with pytest.raises(ModelFileError, match="without a tinyasc card"):
        LiteRtBackend(to_tflite(tiny.graph()))


def test_an_onnx_file_without_a_card_is_refused():
    onnx = pytest.importorskip("onnx")
    model = onnx.load_from_string(to_onnx(tiny.graph(), tiny.bundle()))
    del model.metadata_props[:]
    with pytest.raises(ModelFileError, match="without a tinyasc card"):
        OnnxBackend(model.SerializeToString())


def test_a_missing_runtime_is_named_with_its_extra(monkeypatch):
    real = builtins.__import__

    def without(name, *args, **kwargs):
        if name.partition(".")[0] in ("onnxruntime", "ai_edge_litert", "tflite_runtime"):
            raise ModuleNotFoundError(name=name)
        return real(name, *args, **kwargs)

    tflite, onnx = tiny.tflite(), tiny.onnx()
    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(TinyascError, match=r"pip install 'tinyasc\[onnx\]'"):
        OnnxBackend(onnx)
    with pytest.raises(TinyascError, match="pip install ai-edge-litert"):
        LiteRtBackend(tflite)


def test_a_model_that_fails_while_it_runs_is_one_line():
    """onnxruntime finds some shapes impossible only then, and its exceptions have no base class of their own."""

    class Failing:
        def run(self, *args):
            raise Exception("Non-zero status code\nwhile running Reshape")

    model = OnnxBackend(tiny.onnx())
    model._session = Failing()
    with pytest.raises(ModelFileError, match=r"^model: onnxruntime cannot run this model: Non-zero status code while"):
        model.logits(np.zeros(SHAPE, np.float32))
