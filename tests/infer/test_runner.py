import dataclasses
import math
import os

import numpy as np
import pytest
import tiny_models as tiny
from hypothesis import given, settings
from hypothesis import strategies as st

from tinyasc.errors import InputError, ModelFileError
from tinyasc.frontend import ADDED_FIELDS, fit_length
from tinyasc.infer import find
from tinyasc.infer.backends.litert_backend import LiteRtBackend
from tinyasc.infer.find import default_model, newest_model
from tinyasc.infer.runner import Model, load, softmax
from tinyasc.infer.tta import Tta
from tinyasc.infer.windows import windows
from tinyasc_export.bundle import Bundle
from tinyasc_export.tflite import to_tflite

CLIP = tiny.FRONT_END.clip_samples


@pytest.fixture(scope="module")
def model():
    return Model(LiteRtBackend(tiny.tflite()))


@pytest.mark.parametrize("label", tiny.LABELS)
@pytest.mark.parametrize("write", [tiny.tflite, tiny.tflite_int8, tiny.onnx], ids=lambda f: f.__name__)
def test_every_file_names_the_tone(write, label, tmp_path):
    path = tmp_path / ("m.onnx" if write is tiny.onnx else "m.tflite")
    path.write_bytes(write())
    prediction = load(path).predict(tiny.tone(label))
    assert prediction.top(1)[0][0] == label
    assert prediction.probabilities.dtype == np.float64
    tolerance = 0.02 if write is tiny.tflite_int8 else 1e-5
    np.testing.assert_allclose(prediction.probabilities, tiny.expected(tiny.tone(label)), atol=tolerance)
    assert prediction.probabilities.sum() == pytest.approx(1)
    assert (prediction.copies, prediction.windows) == (1, 1)


def test_top_sorts_and_stops_at_the_number_of_classes(model):
    best = model.predict(tiny.tone("middle")).top(10)
    assert len(best) == 3 and best[0][0] == "middle"
    assert [p for _, p in best] == sorted((p for _, p in best), reverse=True)


def test_short_clips_are_padded_with_zeros_at_the_end(model):
    short = tiny.tone("high")[:700]
    padded = model.predict(fit_length(short, CLIP)).probabilities
    np.testing.assert_array_equal(model.predict(short).probabilities, padded)


@pytest.mark.parametrize(
    ("extra", "starts"),
    [
        (0, [0]),
        (1, [0, 1]),
        (CLIP // 2, [0, CLIP // 2]),
        (CLIP // 2 + 7, [0, CLIP // 2, CLIP // 2 + 7]),
        (CLIP, [0, CLIP // 2, CLIP]),
    ],
)
def test_windows_overlap_by_half_and_end_with_the_clip(extra, starts):
    cut = list(windows(np.arange(CLIP + extra, dtype=np.float32), CLIP))
    assert [int(w[0]) for w in cut] == starts
    assert all(len(w) == CLIP for w in cut)


def test_a_long_clip_is_the_mean_softmax_of_its_windows(model):
    long = np.concatenate([tiny.tone("low"), tiny.tone("high")])
    want = np.mean([tiny.expected(w) for w in windows(long, CLIP)], axis=0)
    prediction = model.predict(long)
    np.testing.assert_allclose(prediction.probabilities, want, atol=1e-5)
    assert prediction.windows == 3


@pytest.mark.parametrize("length", [CLIP // 2, CLIP, 2 * CLIP])
def test_tta_is_the_mean_over_its_copies(model, length):
    clip = np.resize(np.concatenate([tiny.tone("low"), tiny.tone("high")]), length)
    made = [copy.sound(clip) for copy in Tta(5).draw(length, tiny.FRONT_END, 2)]
    plain = [model.predict(copy).probabilities for copy in made]
    prediction = model.predict(clip, tta=5, seed=2)
    np.testing.assert_allclose(prediction.probabilities, np.mean(plain, axis=0), atol=1e-12)
    assert prediction.copies == 5
    np.testing.assert_array_equal(model.predict(clip, tta=1).probabilities, model.predict(clip).probabilities)
    again = model.predict(clip, tta=5, seed=2).probabilities
    np.testing.assert_array_equal(again, prediction.probabilities)


def test_another_rate_is_resampled(model):
    other = model.predict(tiny.tone("middle", 2 * CLIP, 2 * tiny.RATE), rate=2 * tiny.RATE)
    np.testing.assert_allclose(other.probabilities, tiny.expected(tiny.tone("middle")), atol=0.05)
    assert other.windows == 1


@pytest.mark.parametrize(
    ("samples", "options", "message"),
    [
        (np.zeros(0, np.float32), {}, "no samples"),
        (np.zeros((100, 2), np.float32), {}, r"\(100, 2\)"),
        (np.zeros(100, np.int16), {}, "int16"),
        (np.array([0, np.nan], np.float32), {}, "NaN"),
        (np.array([0, np.inf], np.float32), {}, "infinite"),
        (np.zeros(100, np.float32), {"rate": 0}, "rate"),
        (np.zeros(100, np.float32), {"rate": math.nan}, "rate must be at least 1 Hz and at most 2147483647, got nan"),
        (np.zeros(100, np.float32), {"rate": math.inf}, "rate must be at least 1 Hz and at most 2147483647, got inf"),
        (np.zeros(100, np.float32), {"rate": 1e300}, r"rate must be at least 1 Hz and at most 2147483647, got 1e\+300"),
        (np.float32(1), {}, r"one channel of floats, \(samples,\), got float32 \(\)"),
        (np.zeros(100, np.float32), {"window_hop": 1e308}, r"at most 1e\+09, got 1e\+308"),
        (np.zeros(1, np.float32), {"rate": 10**6}, "too short: 1 samples at 1e\\+06 Hz"),
        (np.zeros(100, np.float32), {"tta": 0}, "tta"),
        (np.zeros(100, np.float32), {"seed": -1}, "seed"),
    ],
)
def test_unusable_samples_are_refused(model, samples, options, message):
    with pytest.raises(InputError, match=message):
        model.predict(samples, **options)


@pytest.mark.parametrize("dtype", [np.float16, np.longdouble])
@pytest.mark.parametrize("rate", [None, 2 * tiny.RATE])
def test_floats_of_any_width_are_taken(model, dtype, rate):
    samples = tiny.tone("middle").astype(np.float16)
    expected = model.predict(samples.astype(np.float32), rate)
    assert np.array_equal(model.predict(samples.astype(dtype), rate).probabilities, expected.probabilities)


@settings(max_examples=200, deadline=None)
@given(
    answers=st.lists(st.sampled_from([(9, 0, 0), (0, 9, 0), (0, 0, 9), (1, 1, 0), (0, 0, 0)]), min_size=1, max_size=12)
)
def test_copies_left_out_never_change_the_likeliest_class(answers):
    """Nearly certain answers that take turns are what turns a lead round the fastest; equal ones are ties."""
    early, whole = (
        Model(Told(answers)).predict(tiny.tone("low"), tta=len(answers), stop_early=stop) for stop in (True, False)
    )
    assert early.top(1)[0][0] == whole.top(1)[0][0]
    assert whole.copies == whole.planned == early.planned == len(answers) >= early.copies


class Told:
    """A backend whose answers are known beforehand."""

    def __init__(self, answers):
        self.bundle, self.input_shape, self.n_classes = tiny.bundle(), tiny.FRONT_END.shape, 3
        self._answers = iter(answers)

    def logits(self, features):
        return np.array(next(self._answers), np.float32)


@pytest.mark.parametrize("length", [1, 2, 100])
def test_silence_and_tiny_clips_are_answered(model, length):
    assert np.isfinite(model.predict(np.zeros(length, np.float32), tta=3).probabilities).all()


def test_temperature_of_the_card_divides_the_logits():
    plain = tiny.expected(tiny.tone("low"))
    cooled = Model(LiteRtBackend(tiny.tflite(temperature=0.25))).predict(tiny.tone("low")).probabilities
    np.testing.assert_allclose(cooled, plain**4 / (plain**4).sum(), atol=1e-4)


@pytest.mark.parametrize("temperature", [0, -1, "hot", True, None])
def test_an_impossible_temperature_is_refused(temperature):
    with pytest.raises(ModelFileError, match="temperature"):
        Model(LiteRtBackend(tiny.tflite(temperature=temperature)))


@pytest.mark.parametrize("temperature", [1, 0.25])
def test_decision_weights_of_the_card_multiply_the_probabilities(temperature):
    """As McDonnell & Gao (2019) did for unknown scenes: the softmax output times 5, before the likeliest is taken."""
    tone = tiny.tone("low")
    plain = Model(LiteRtBackend(tiny.tflite(temperature=temperature))).predict(tone).probabilities
    card = {"temperature": temperature, "decision_weights": {"high": 5, "middle": 0.5}}
    weighted = Model(LiteRtBackend(tiny.tflite(**card))).predict(tone).probabilities
    expected = plain * [1, 0.5, 5]
    np.testing.assert_allclose(weighted, expected / expected.sum(), rtol=1e-9)


def test_weights_of_one_change_no_bit(model):
    same = Model(LiteRtBackend(tiny.tflite(decision_weights={"low": 1.0})))
    answers = [m.predict(tiny.tone("middle")).probabilities for m in (model, same)]
    np.testing.assert_array_equal(*answers)


@pytest.mark.parametrize(
    "weights", [{"tram": 2}, {"low": 0}, {"low": -1}, {"low": "5"}, {"low": True}, {"low": None}, [5], 5, None]
)
def test_impossible_decision_weights_are_refused(weights):
    with pytest.raises(ModelFileError, match="decision_weights must be positive numbers by label"):
        Model(LiteRtBackend(tiny.tflite(decision_weights=weights)))


def test_a_temperature_and_weights_that_overflow_together_are_refused():
    """Each alone is a number, their product gave probabilities of NaN."""
    with pytest.raises(ModelFileError, match="temperature and decision_weights are too large together"):
        Model(LiteRtBackend(tiny.tflite(temperature=1e308, decision_weights={"low": 1e300})))


def test_softmax_of_huge_logits_does_not_overflow():
    assert softmax(np.array([1e30, 0, -1e30], np.float32)).tolist() == [1, 0, 0]


def test_a_front_end_that_does_not_fit_is_refused_with_both_shapes():
    longer = tiny.other_front_end(clip_samples=CLIP + 256)
    content = to_tflite(tiny.graph(), tiny.bundle(front_end=longer))
    with pytest.raises(ModelFileError, match=r"takes 1 x 12 x 15 \(channels x mels x frames\).*gives 1 x 12 x 16"):
        Model(LiteRtBackend(content))


def test_a_file_of_an_older_version_answers_as_before():
    """Its front-end record lacks the fields that came later."""
    old = {k: v for k, v in tiny.FRONT_END.to_dict().items() if k not in ADDED_FIELDS}
    content = to_tflite(tiny.graph(), Bundle(tiny.LABELS, old, {}))
    clip = tiny.tone("middle")
    np.testing.assert_allclose(
        Model(LiteRtBackend(content)).predict(clip).probabilities, tiny.expected(clip), atol=1e-5
    )


class Louder:
    """Knows which side is louder: the logits are the mean levels of both sides."""

    bundle = tiny.bundle(
        labels=["left", "right"], front_end=tiny.other_front_end(stereo=True, band_scale=(), band_offset=())
    )
    n_classes = 2

    def __init__(self):
        self.input_shape = (2, tiny.FRONT_END.n_mels, tiny.FRONT_END.n_frames())

    def logits(self, features):
        assert features.shape == self.input_shape
        return features.mean(axis=(1, 2))


@pytest.mark.parametrize(
    ("length", "rate"), [(CLIP // 2, None), (CLIP, None), (3 * CLIP, None), (2 * CLIP, 2 * tiny.RATE)]
)
@pytest.mark.parametrize("tta", [1, 4])
def test_a_stereo_model_tells_the_sides_apart(length, rate, tta):
    model = Model(Louder())
    noise = np.random.default_rng(0).normal(0, 0.1, length)
    for gains, label in (((1, 0.1), "left"), ((0.1, 1), "right")):
        prediction = model.predict(np.stack([g * noise for g in gains]), rate, tta=tta)
        assert prediction.top(1)[0][0] == label and prediction.top(1)[0][1] > 0.9


@pytest.mark.parametrize("shape", [(CLIP,), (1, CLIP), (CLIP, 2), (3, CLIP)])
def test_a_stereo_model_refuses_other_channels(shape):
    with pytest.raises(InputError, match=r"left and right.*\(2, samples\)"):
        Model(Louder()).predict(np.zeros(shape))
    with pytest.raises(InputError, match="no samples"):
        Model(Louder()).predict(np.zeros((2, 0)))


def test_labels_that_do_not_fit_are_refused_with_both_counts():
    content = to_tflite(tiny.graph(), tiny.bundle(labels=["a", "b"]))
    with pytest.raises(ModelFileError, match=r"3 logits.*2 labels"):
        Model(LiteRtBackend(content))


def test_weights_that_give_nan_are_refused():
    content = to_tflite(tiny.graph(np.full_like(tiny.WEIGHT, np.nan)), tiny.bundle())
    with pytest.raises(ModelFileError, match="NaN"):
        Model(LiteRtBackend(content)).predict(tiny.tone("low"))


def test_load_tells_files_by_their_content(tmp_path):
    path = tmp_path / "renamed.bin"
    path.write_bytes(tiny.tflite())
    assert load(path).labels == tiny.LABELS
    path.write_bytes(b"hello")
    with pytest.raises(ModelFileError, match=r"neither a \.tflite nor an \.onnx"):
        load(path)


def test_a_prediction_cannot_be_changed(model):
    with pytest.raises(dataclasses.FrozenInstanceError):
        model.predict(tiny.tone("low")).copies = 2


def test_the_newest_compressed_model_is_found(tmp_path):
    for age, name in enumerate(["b", "c", "a"]):
        path = tmp_path / "runs" / name / "model-int8.tflite"
        path.parent.mkdir(parents=True)
        path.touch()
        os.utime(path, (1000 + age, 1000 + age))
    (tmp_path / "runs" / "z").mkdir()
    (tmp_path / "runs" / "z" / "model-int8.tflite").symlink_to(tmp_path / "gone")
    assert newest_model(tmp_path) == tmp_path / "runs" / "a" / "model-int8.tflite"


def test_a_model_beside_one_that_broke_a_limit_is_no_default(tmp_path):
    run = tmp_path / "runs" / "a"
    run.mkdir(parents=True)
    (run / "model-int16x8.tflite").touch()
    assert newest_model(tmp_path) == run / "model-int16x8.tflite"
    (run / "model-int8-over-budget.tflite").touch()
    with pytest.raises(InputError):
        newest_model(tmp_path)


def test_no_compressed_model_is_answered_with_how_to_make_one(tmp_path):
    with pytest.raises(InputError, match="tinyasc compress --budget 128KB"):
        newest_model(tmp_path)


def test_the_bundled_model_answers_where_no_run_does(tmp_path, monkeypatch):
    bundled = tmp_path / "bundled.tflite"
    monkeypatch.setattr(find, "BUNDLED", bundled)
    with pytest.raises(InputError, match="no model was named"):
        default_model(tmp_path)
    bundled.write_bytes(tiny.tflite_int8())
    path, which = default_model(tmp_path)
    assert path == bundled and "comes with tinyasc" in which
    own = tmp_path / "runs" / "a" / "model-int8.tflite"
    own.parent.mkdir(parents=True)
    own.write_bytes(b"")
    assert default_model(tmp_path) == (own, "newest in ./runs")
