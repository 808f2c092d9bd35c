"""`tinyasc` with networks that are told the recording device: trained, measured, and distilled from."""

import json
from pathlib import Path

import numpy as np
import pytest
import yaml
from click.testing import CliRunner

from tinyasc.audio import read_audio
from tinyasc.cli.main import cli
from tinyasc.data import load_table, split_table
from tinyasc.data.scenes import UNSEEN_DEVICES, write_scenes
from tinyasc.evaluate.clips import clip_names
from tinyasc.evaluate.predictions import load
from tinyasc.frontend import features
from tinyasc.infer.runner import softmax
from tinyasc.training.fit import logits
from tinyasc.training.run import Run

TEACHER = {
    "name": "told",
    "data": {"name": "demo", "root": "scenes"},
    "front_end": {"sample_rate": 16000, "clip_seconds": 0.5, "n_fft": 512, "hop_length": 320, "n_mels": 32},
    "model": {"family": "caa_net", "strategy": "teacher_forcing", "base_channels": 4, "trunk": "baseline"},
    "training": {"epochs": 1, "batch_size": 16, "lr": 0.003},
}
STUDENT = {
    "name": "untold",
    "model": {"family": "sepconv_ca", "base_channels": 8},
    "training": {"epochs": 1},
    "distill": {},
}


def tinyasc(*args):
    result = CliRunner().invoke(cli, [str(a) for a in args])
    print(result.output)
    assert result.exit_code == 0, result.exception
    return result


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with a trained network that is told the device, whose condition says a lot."""
    folder = tmp_path_factory.mktemp("place")
    write_scenes(folder / "scenes", clips_per_scene=12, seconds=0.5)
    (folder / "teacher.yaml").write_text(yaml.safe_dump(TEACHER))
    (folder / "student.yaml").write_text(yaml.safe_dump(STUDENT))
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        tinyasc("train", "teacher.yaml", "--run", "teacher")
    return folder


@pytest.fixture
def folder(place, monkeypatch):
    monkeypatch.chdir(place)
    return place


def split():
    table = load_table("demo", "scenes")
    return table, split_table(table)


def answers(clips, devices):
    trained = Run(Path("teacher")).load()
    mel = np.stack([features(read_audio(clip.path, 16000), trained.front_end) for clip in clips])
    return logits(trained, mel, devices)


def test_the_true_device_is_told_in_evaluation_and_unseen_ones_are_unknown(folder):
    tinyasc("evaluate", "teacher", "--out", "answers")
    table, parts = split()
    found = load(next(Path("answers").rglob("predictions.npz")))
    assert found.clips.tolist() == clip_names(table, parts.test)
    devices = [clip.device for clip in parts.test]
    assert set(devices) & set(UNSEEN_DEVICES) and set(devices) - set(UNSEEN_DEVICES)
    np.testing.assert_allclose(found.probabilities, softmax(answers(parts.test, devices)), atol=1e-5)
    untold = softmax(answers(parts.test, [""] * len(devices)))
    unseen = np.isin(devices, UNSEEN_DEVICES)
    np.testing.assert_allclose(found.probabilities[unseen], untold[unseen], atol=1e-5)
    assert (np.abs(found.probabilities - untold).max(axis=1) > 1e-4)[~unseen].all()


def test_test_copies_are_told_the_device_too(folder):
    clip = split()[1].test[0]
    assert clip.device not in UNSEEN_DEVICES
    from tinyasc.training.backend import torch_model

    model, samples = torch_model(Run(Path("teacher")).load()), read_audio(clip.path, 16000)
    told, untold = (model.predict(samples, tta=3, device=device).probabilities for device in (clip.device, ""))
    assert np.abs(told - untold).max() > 1e-4


def test_a_student_learns_from_answers_under_the_true_devices(folder):
    tinyasc("compress", "--teacher", "teacher", "--student", "student.yaml", "--budget", "16KB", "--run", "student")
    clips = split()[1].train
    kept = np.load(next(Path("student/teachers").iterdir()))["logits"]
    np.testing.assert_allclose(kept, answers(clips, [clip.device for clip in clips]), atol=1e-4)
    assert np.abs(kept - answers(clips, [""] * len(clips))).max() > 1e-3
    assert json.loads(Path("student/report.json").read_text())["budget"]["met"]
