"""Model files without a card: described from outside, believed only where the description fits."""

import json

import numpy as np
import pytest
import tiny_models as tiny

from tinyasc import load
from tinyasc.errors import InputError, ModelFileError
from tinyasc.frontend import features
from tinyasc.infer.foreign import ForeignBackend, describe, read_front_end, read_labels
from tinyasc_export.graph import Graph, Tensor
from tinyasc_export.onnx import to_onnx
from tinyasc_export.tflite import to_tflite

FRONT_END = tiny.FRONT_END


@pytest.fixture(params=["tflite", "onnx"])
def cardless(request, tmp_path):
    path = tmp_path / f"m.{request.param}"
    path.write_bytes((to_tflite if request.param == "tflite" else to_onnx)(tiny.graph()))
    return path


def test_a_described_file_answers_as_the_one_with_a_card(cardless):
    model = load(cardless, front_end=FRONT_END, labels=tiny.LABELS)
    for label in tiny.LABELS:
        clip = tiny.tone(label)
        np.testing.assert_allclose(model(clip).probabilities, tiny.expected(clip), atol=1e-5)
    assert model.labels == tiny.LABELS and model.front_end == FRONT_END


@pytest.mark.parametrize(
    ("described", "message"),
    [
        ({}, "without a tinyasc card.*--front-end and --labels"),
        ({"front_end": FRONT_END}, "name them together"),
        ({"labels": tiny.LABELS}, "name them together"),
        ({"outputs": "probabilities"}, "name them together"),
        ({"front_end": FRONT_END, "labels": ["a", "b"]}, "gives 3 outputs, 2 labels were named"),
        ({"front_end": FRONT_END, "labels": ["a", "b", "a"]}, "'a' is there twice"),
        ({"front_end": FRONT_END, "labels": ["a", " ", "b"]}, "list of names"),
        ({"front_end": FRONT_END, "labels": []}, "list of names"),
        ({"front_end": FRONT_END, "labels": "abc"}, "list of names"),
        ({"front_end": FRONT_END, "labels": tiny.LABELS, "outputs": "votes"}, "must be one of logits, probabilities"),
        (
            {"front_end": tiny.other_front_end(hop_length=512), "labels": tiny.LABELS},
            r"takes 1 x 12 x 15 \(channels x mels x frames\), the front end named gives 1 x 12 x 8",
        ),
    ],
)
def test_what_does_not_fit_is_refused(cardless, described, message):
    with pytest.raises(InputError, match=message):
        load(cardless, **described)


def test_a_file_with_a_card_is_not_described_again(tmp_path):
    (tmp_path / "m.tflite").write_bytes(tiny.tflite())
    with pytest.raises(ModelFileError, match="says itself what its front end and labels are"):
        load(tmp_path / "m.tflite", front_end=FRONT_END, labels=tiny.LABELS)


def waveform_graph():
    """A model that takes another input: 12 samples, as many that hear raw sound do."""
    g = Graph({"wave": Tensor("wave", (1, 12))}, [], "wave", "")
    names = ["wave", g.add_constant("w", tiny.WEIGHT), g.add_constant("b", np.zeros(3, np.float32))]
    g.output = g.add_op("fully_connected", names, {"activation": "none"})
    return g


@pytest.mark.parametrize(
    ("name", "write", "layout"),
    [
        ("m.tflite", to_tflite, r"\(1, 12\), expected \(1, n_mels, frames, channels\).* makes \(1, 12, 15, 1\)"),
        ("m.onnx", to_onnx, r"\(1, 12\), expected \(1, channels, n_mels, frames\).* makes \(1, 1, 12, 15\)"),
    ],
)
def test_a_model_of_another_input_is_refused_with_both_shapes(tmp_path, name, write, layout):
    (tmp_path / name).write_bytes(write(waveform_graph()))
    with pytest.raises(ModelFileError, match=layout):
        load(tmp_path / name, front_end=FRONT_END, labels=tiny.LABELS)


class Given:
    """A backend whose outputs are given."""

    input_shape, n_classes = FRONT_END.shape, 3

    def __init__(self, answer, outputs):
        self.bundle, self._answer = describe(FRONT_END, tiny.LABELS, outputs), np.array(answer, np.float32)

    def logits(self, features):
        return self._answer


def ask(answer, outputs):
    return ForeignBackend(Given(answer, outputs), "m.tflite").logits(np.zeros(FRONT_END.shape, np.float32))


@pytest.mark.parametrize("p", [[0.7, 0.2, 0.1], [1, 0, 0], [0.69921875, 0.19921875, 0.09765625]])
def test_probabilities_give_their_logarithms_and_are_refused_as_logits(p):
    """The last are multiples of 1/256, as an int8 softmax gives them, of sum 0.996."""
    logits = ask(p, "probabilities")
    powers = np.exp(logits.astype(np.float64))
    np.testing.assert_allclose(powers / powers.sum(), np.array(p) / np.sum(p), atol=1e-6)
    with pytest.raises(ModelFileError, match=r"probabilities already.*--outputs probabilities"):
        ask(p, "logits")


@pytest.mark.parametrize("logits", [[3, 0.2, 0.1], [-0.1, 0.6, 0.5], [0.2, 0.2, 0.2]])
def test_logits_are_kept_and_refused_as_probabilities(logits):
    np.testing.assert_array_equal(ask(logits, "logits"), np.array(logits, np.float32))
    with pytest.raises(ModelFileError, match="no probabilities"):
        ask(logits, "probabilities")


def test_damaged_answers_are_left_to_the_caller():
    assert np.isnan(ask([np.nan, 0, 0], "probabilities")).any()


def test_a_front_end_file_is_read_as_it_was_written(tmp_path):
    (tmp_path / "f.json").write_text(json.dumps(FRONT_END.to_dict()))
    assert read_front_end(tmp_path / "f.json") == FRONT_END
    clip = tiny.tone("low")
    np.testing.assert_array_equal(features(clip, read_front_end(tmp_path / "f.json")), features(clip, FRONT_END))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "cannot read this file"),
        ("n_mels: 64", "is no JSON"),
        ("[1]", "holds no JSON object"),
        ('{"n_mels": 64}', "lacks sample_rate, clip_samples, n_fft"),
        (json.dumps(FRONT_END.to_dict() | {"n_mel": 1}), "unknown 'n_mel'"),
        (json.dumps(FRONT_END.to_dict() | {"n_mels": -1}), "n_mels must be positive"),
        (json.dumps(FRONT_END.to_dict() | {"hop_length": "many"}), "front-end record cannot be used"),
    ],
)
def test_other_front_end_files_are_refused(tmp_path, content, message):
    if content is not None:
        (tmp_path / "f.json").write_text(content)
    with pytest.raises(InputError, match=message) as caught:
        read_front_end(tmp_path / "f.json")
    assert "--front-end" in str(caught.value)


def test_labels_are_a_file_or_have_commas(tmp_path):
    (tmp_path / "labels.txt").write_text("\ufeffairport\r\n\nshopping mall, indoor\n", encoding="utf-8")
    assert read_labels(str(tmp_path / "labels.txt")) == ["airport", "shopping mall, indoor"]
    assert read_labels("airport, bus,park") == ["airport", "bus", "park"]
    many = [f"class number {i}" for i in range(50)]
    assert read_labels(",".join(many)) == many, "longer than the name of a file may be"
    for text in ("nowhere.txt", "nul\0", str(tmp_path)):
        with pytest.raises(InputError, match=r"no such file|cannot read"):
            read_labels(text)
    (tmp_path / "binary").write_bytes(b"\xff\xfe\xfa")
    with pytest.raises(InputError, match="cannot read"):
        read_labels(str(tmp_path / "binary"))
