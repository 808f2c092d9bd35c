"""Measuring on clips, with a model whose answer can be told from the sound alone."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile

from tinyasc.data import Clip, ClipTable
from tinyasc.data.devices import through
from tinyasc.errors import InputError
from tinyasc.evaluate.clips import clip_names, measure, measure_views, probabilities
from tinyasc.frontend import FrontEnd, features
from tinyasc.infer.runner import Model
from tinyasc_export.bundle import Bundle

FRONT_END = FrontEnd(sample_rate=8000, clip_samples=4000, n_fft=256, win_length=256, hop_length=128, n_mels=16)


class Tilt:
    """Answers "high" where the upper bands are louder than the lower ones."""

    def __init__(self, labels=("high", "low")):
        self.bundle = Bundle(labels, FRONT_END.to_dict())
        self.input_shape = FRONT_END.shape
        self.n_classes = len(labels)

    def logits(self, mel):
        tilt = float(mel[:, 8:].mean() - mel[:, :8].mean())
        return np.array([tilt, -tilt], np.float32) / 10


@pytest.fixture
def table(tmp_path):
    t = np.arange(4000) / 8000
    clips = []
    for i, (scene, hz, device) in enumerate(
        [("low", 200, "a"), ("high", 3000, "a"), ("low", 300, "s1"), ("high", 2500, "")]
    ):
        path = tmp_path / f"set/{scene}/{i}.wav"
        path.parent.mkdir(parents=True, exist_ok=True)
        soundfile.write(path, 0.3 * np.sin(2 * np.pi * hz * t), 8000)
        clips.append(Clip(path, scene, device, f"place{i}", 1))
    return ClipTable("tilts", ("high", "low"), tuple(clips))


def model():
    return Model(Tilt(), "tilt.tflite")  # pyright: ignore[reportArgumentType]


def test_rows_say_where_they_come_from(table):
    found = measure(model(), table, table.clips, heard={"a", "b"}, fold=2, run_seed=7)
    assert found.clips.tolist() == ["low/0.wav", "high/1.wav", "low/2.wav", "high/3.wav"]
    assert found.labels.tolist() == [1, 0, 1, 0]
    assert found.devices.tolist() == ["a", "a", "s1", ""]
    assert found.seen.tolist() == [1, 1, 0, -1]
    assert set(found.folds) == {2} and set(found.seeds) == {7}
    assert (found.probabilities.argmax(axis=1) == found.labels).all()
    np.testing.assert_array_equal(found.probabilities, probabilities(model(), table.clips))


def test_beside_an_unknown_device_no_other_is_called_unseen(table):
    found = measure(model(), table, table.clips, heard={"a", ""}, fold=1)
    assert found.seen.tolist() == [1, 1, -1, -1]


def test_names_are_the_same_wherever_the_data_lies(table, tmp_path):
    moved = tmp_path / "elsewhere/deep"
    clips = [Clip(moved / c.path.relative_to(tmp_path / "set"), c.scene, c.device, "", 1) for c in table.clips]
    other = ClipTable("tilts", table.labels, tuple(clips))
    assert clip_names(other, clips[1:]) == clip_names(table, table.clips[1:])


def test_views_are_what_each_microphone_hears(table, rng):
    # A microphone that hears only lows makes every clip low.
    dull = np.hanning(400)
    bright = np.array([1.0, -1.0])
    done = []
    found = measure_views(
        model(), table, table.clips, seen={"dull": dull}, unseen={"bright": bright}, fold=1,
        progress=lambda n, total: done.append((n, total)),
    )  # fmt: skip
    assert len(found) == 12 and done[-1] == (12, 12)
    by = {device: found.where(found.devices == device) for device in ("clean", "dull", "bright")}
    assert [set(rows.seen) for rows in by.values()] == [{-1}, {1}, {0}]
    for device, response in (("dull", dull), ("bright", bright)):
        assert by[device].clips.tolist() == by["clean"].clips.tolist()
        for i, clip in enumerate(table.clips):
            samples = soundfile.read(clip.path, dtype="float32")[0]
            expected = model().classify(features(through(samples, response), FRONT_END))
            np.testing.assert_allclose(by[device].probabilities[i], expected)
    np.testing.assert_array_equal(by["clean"].probabilities, probabilities(model(), table.clips))


def test_a_model_is_told_the_device_of_the_clip_and_of_the_view(table):
    told = []

    class Told(Model):
        def logits(self, mel, device):
            told.append(device)
            return super().logits(mel, device)

    model = Told(Tilt(), "told")  # pyright: ignore[reportArgumentType]
    measure(model, table, table.clips, heard=[], fold=1)
    assert told == ["a", "a", "s1", ""]
    told.clear()
    measure_views(model, table, table.clips[2:], seen={"dull": np.hanning(40)}, unseen={"bright": np.ones(1)}, fold=1)
    assert told == ["s1", "dull", "bright", "", "dull", "bright"]


def test_clips_without_labels_are_refused(table):
    bare = [Clip(c.path, "", c.device, c.location, 1) for c in table.clips[:2]]
    clips = [*bare, *table.clips[2:]]
    with pytest.raises(InputError, match=r"2 of 4 clips have no label.*`tinyasc infer`"):
        measure(model(), table, clips, heard=[], fold=1)
    with pytest.raises(InputError, match="no label"):
        measure_views(model(), table, clips, seen={}, unseen={}, fold=1)


def test_other_labels_are_refused(table):
    other = Model(Tilt(("down", "up")), "other.tflite")  # pyright: ignore[reportArgumentType]
    with pytest.raises(InputError, match=r"other\.tflite: its labels are not those of data set tilts"):
        measure(other, table, table.clips, heard=[], fold=1)


def test_a_clip_that_is_gone(table):
    clips = [Clip(Path("nowhere.wav"), "low", "", "", 1)]
    with pytest.raises(InputError, match=r"nowhere\.wav"):
        measure(model(), table, clips, heard=[], fold=1)


def test_stereo_clips_are_heard_in_stereo(tmp_path, rng):
    """A model that hears which side is louder: mixed down, it could not tell."""
    front_end = replace(FRONT_END, stereo=True)

    class Louder(Tilt):
        def __init__(self):
            super().__init__(("left", "right"))
            self.bundle = Bundle(("left", "right"), front_end.to_dict())
            self.input_shape = front_end.shape

        def logits(self, mel):
            tilt = float(mel[0].mean() - mel[1].mean())
            return np.array([tilt, -tilt], np.float32) / 10

    louder, clips = Model(Louder(), "louder.tflite"), []  # pyright: ignore[reportArgumentType]
    for i, side in enumerate(("left", "right", "right")):
        sound = rng.standard_normal((4000, 2)) * ((0.2, 0.02) if side == "left" else (0.02, 0.2))
        soundfile.write(tmp_path / f"{i}.wav", sound, 8000)
        clips.append(Clip(tmp_path / f"{i}.wav", side, "", f"place{i}", 1))
    table = ClipTable("sides", ("left", "right"), tuple(clips))
    found = measure_views(louder, table, clips, seen={"dull": np.hanning(40)}, unseen={"bright": np.ones(1)}, fold=1)
    assert (found.probabilities.argmax(axis=1) == found.labels).all() and len(found) == 9
