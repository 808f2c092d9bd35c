"""The numpy reference as a backend, and the choice among backends."""

import builtins
import io
import json
import zipfile
from functools import lru_cache

import numpy as np
import pytest
import tiny_models as tiny

from tinyasc.errors import InputError, ModelFileError, TinyascError
from tinyasc.frontend import features
from tinyasc.infer.backends.choose import BACKENDS, TAKES, open_backend
from tinyasc.infer.backends.reference_backend import ReferenceBackend
from tinyasc.infer.runner import load
from tinyasc_export.graph import Graph, Tensor
from tinyasc_export.graphfile import save_graph
from tinyasc_export.onnx import to_onnx
from tinyasc_export.quantize import calibrate, quantize_int16x8
from tinyasc_export.tflite import to_tflite

MELS = [features(tiny.tone(label), tiny.FRONT_END) for label in tiny.LABELS]


def int16x8_graph() -> Graph:
    clips = np.stack(MELS).transpose(0, 2, 3, 1)
    return quantize_int16x8(tiny.graph(), calibrate(tiny.graph(), clips))


GRAPHS = {"fp32": tiny.graph, "int8": tiny.int8_graph, "int16x8": int16x8_graph}


@pytest.fixture
def run_folder(tmp_path):
    """Files as `compress` leaves them, of every precision."""
    for precision, make in GRAPHS.items():
        graph, bundle = make(), tiny.bundle(precision=precision, weights_blake2b="ab")
        (tmp_path / f"graph-{precision}.npz").write_bytes(save_graph(graph, bundle))
        (tmp_path / f"model-{precision}.tflite").write_bytes(to_tflite(graph, bundle))
    (tmp_path / "model-fp32.onnx").write_bytes(to_onnx(tiny.graph(), tiny.bundle(precision="fp32")))
    return tmp_path


@pytest.mark.parametrize("precision", GRAPHS)
@pytest.mark.parametrize("name", ["graph-{}.npz", "model-{}.tflite"])
def test_the_reference_answers_as_the_runtime_does(run_folder, precision, name):
    """Against LiteRT, which shares no line with it; integer models on its reference kernels, one unit allowed."""
    reference = ReferenceBackend(run_folder / name.format(precision))
    runtime = open_backend(run_folder / f"model-{precision}.tflite", "litert", exact=True)
    assert reference.input_shape == runtime.input_shape and reference.n_classes == 3
    assert reference.bundle == runtime.bundle
    graph = GRAPHS[precision]()
    scale = graph.tensors[graph.output].scale
    unit = 1e-6 if scale is None else 1.001 * float(scale.flat[0])
    for mel in MELS:
        got = reference.logits(mel)
        assert got.shape == (3,) and got.dtype == np.float32
        np.testing.assert_allclose(got, runtime.logits(mel), atol=unit)


def test_every_backend_names_the_tone(run_folder):
    """But C, which needs a compiler: tests/infer/test_c_backend.py."""
    files = {"litert": "model-int8.tflite", "onnx": "model-fp32.onnx", "reference": "model-int8.tflite"}
    assert {*files, "c"} == set(TAKES)
    for backend, name in files.items():
        model = load(run_folder / name, backend=backend)
        assert [model.predict(tiny.tone(label)).top()[0][0] for label in tiny.LABELS] == list(tiny.LABELS)


@pytest.mark.parametrize(
    ("name", "backend"),
    [
        ("model-int8.tflite", "LiteRtBackend"),
        ("model-fp32.onnx", "OnnxBackend"),
        ("graph-int8.npz", "ReferenceBackend"),
    ],
)
def test_auto_goes_by_the_file(run_folder, name, backend):
    assert type(load(run_folder / name).backend).__name__ == backend


@pytest.mark.parametrize(
    ("name", "backend", "takes"),
    [
        ("model-fp32.onnx", "litert", ".tflite"),
        ("graph-int8.npz", "litert", ".tflite"),
        ("model-int8.tflite", "onnx", ".onnx"),
        ("model-fp32.onnx", "reference", ".npz and .tflite"),
    ],
)
def test_a_backend_refuses_other_files_and_says_what_it_takes(run_folder, name, backend, takes):
    with pytest.raises(InputError, match=rf"{name}: is a .* file, and backend {backend} takes {takes};"):
        load(run_folder / name, backend=backend)


@pytest.mark.parametrize("name", ["cc", "torch", ""])
def test_an_unknown_backend_is_refused_with_those_there_are(run_folder, name):
    with pytest.raises(InputError, match=", ".join(BACKENDS)):
        load(run_folder / "model-int8.tflite", backend=name)


def test_auto_never_turns_to_a_slower_backend(run_folder, monkeypatch):
    """The graph lies beside the file, and still a missing runtime is said."""
    real = builtins.__import__

    def without(name, *args, **kwargs):
        if name.partition(".")[0] in ("ai_edge_litert", "tflite_runtime"):
            raise ModuleNotFoundError(name=name)
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(TinyascError, match="pip install ai-edge-litert"):
        load(run_folder / "model-int8.tflite")
    assert load(run_folder / "model-int8.tflite", backend="reference").labels == tiny.LABELS


def test_a_file_without_its_graph_is_refused(run_folder):
    (run_folder / "graph-int8.npz").unlink()
    with pytest.raises(ModelFileError, match=r"there is no graph-int8.npz beside it"):
        ReferenceBackend(run_folder / "model-int8.tflite")


def test_a_precision_of_which_no_graph_is_kept_is_refused(run_folder):
    path = run_folder / "model-fp16.tflite"
    path.write_bytes(to_tflite(tiny.graph(), tiny.bundle(precision="fp16"), weights="float16"))
    with pytest.raises(ModelFileError, match="'fp16', of which no graph is kept"):
        ReferenceBackend(path)


def other_weights():
    return tiny.graph(tiny.WEIGHT[::-1] * 0.5), tiny.bundle(precision="fp32", weights_blake2b="ab")


def other_labels():
    return tiny.graph(), tiny.bundle(labels=("a", "b", "c"), precision="fp32", weights_blake2b="ab")


def other_training():
    return tiny.graph(), tiny.bundle(precision="fp32", weights_blake2b="cd")


@pytest.mark.parametrize("other", [other_weights, other_labels, other_training])
def test_another_models_graph_is_refused(run_folder, other):
    (run_folder / "graph-fp32.npz").write_bytes(save_graph(*other()))
    with pytest.raises(ModelFileError, match=r"model-fp32.tflite: was not written from .*graph-fp32.npz"):
        ReferenceBackend(run_folder / "model-fp32.tflite")


def test_other_scales_are_another_model(run_folder):
    graph = tiny.int8_graph()
    for t in graph.tensors.values():
        if t.scale is not None:
            t.scale = 1.3 * t.scale
    (run_folder / "graph-int8.npz").write_bytes(save_graph(graph, tiny.bundle(precision="int8", weights_blake2b="ab")))
    with pytest.raises(ModelFileError, match="was not written from"):
        ReferenceBackend(run_folder / "model-int8.tflite")


@lru_cache
def damaged():
    """name -> bytes of a .npz file that holds no usable graph."""
    whole = save_graph(tiny.int8_graph(), tiny.bundle())
    vector = Graph({"x": Tensor("x", (1, 3))}, [], "x", "x")
    bomb = io.BytesIO()
    with zipfile.ZipFile(bomb, "w", zipfile.ZIP_DEFLATED) as archive, archive.open("0.npy", "w") as member:
        for _ in range(300):
            member.write(bytes(1 << 20))
    huge = Graph({"x": Tensor("x", (1, 1, 1, 1))}, [], "x", "")
    padded = huge.add_op("pad", ["x"], {"padding": (0, 1 << 15, 0, 1 << 15)})
    mean = huge.add_op("mean", [padded], {"axes": (1, 2)})
    huge.output = huge.add_op("reshape", [mean], {"shape": (1, 1)})
    return {
        "empty": b"",
        "text": b"hello",
        "cut": whole[: len(whole) // 2],
        "cardless": save_graph(tiny.graph()),
        "vector": save_graph(vector, tiny.bundle()),
        "bomb": bomb.getvalue(),
        "huge": save_graph(huge, tiny.bundle()),
    }


@pytest.mark.parametrize("name", ["empty", "text", "cut", "cardless", "vector", "bomb", "huge"])
def test_damaged_graphs_are_refused_in_one_line(tmp_path, name):
    path = tmp_path / f"{name}.npz"
    path.write_bytes(damaged()[name])
    with pytest.raises(ModelFileError) as caught:
        load(path)
    assert str(caught.value).startswith(str(path)) and "\n" not in str(caught.value)


def test_an_integer_output_without_a_scale_is_refused(tmp_path):
    graph = tiny.int8_graph()
    graph.tensors[graph.ops[-1].output].scale = None
    graph.tensors[graph.ops[-1].output].zero_point = None
    path = tmp_path / "g.npz"
    path.write_bytes(save_graph(graph, tiny.bundle()))
    with pytest.raises(ModelFileError, match="output is int8 without a usable scale"):
        load(path)


def test_flipped_bytes_never_escape_as_another_error(tmp_path):
    """Of the JSON itself: a zip's checksums catch most flips before anybody reads them."""
    graph, bundle = tiny.int8_graph(), tiny.bundle()
    with np.load(io.BytesIO(save_graph(graph, bundle))) as archive:
        arrays = {name: archive[name] for name in archive.files}
    header = json.loads(arrays["graph"].tobytes())
    random = np.random.default_rng(0)
    path, mel, answered = tmp_path / "g.npz", MELS[0], 0
    for _ in range(300):
        changed = json.loads(json.dumps(header))
        spot: object = changed
        while isinstance(spot, dict | list) and spot:
            keys = list(spot) if isinstance(spot, dict) else range(len(spot))
            parent, key = spot, keys[int(random.integers(len(keys)))]
            spot = parent[key]
        parent[key] = [None, -1, 0, 7, "x", [], {}, 1e300, True][int(random.integers(9))]
        text = np.frombuffer(json.dumps(changed).encode(), np.uint8)
        buffer = io.BytesIO()
        np.savez(buffer, **(arrays | {"graph": text}))
        path.write_bytes(buffer.getvalue())
        try:
            load(path).backend.logits(mel)
            answered += 1
        except ModelFileError as error:
            assert "\n" not in str(error)
        except ValueError as error:  # the graph now wants other features, which `load` alone would refuse
            assert "the model takes" in str(error)
    assert answered < 300
