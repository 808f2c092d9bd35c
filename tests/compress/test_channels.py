"""Features of several channels (stereo, deltas) from training to the model file and back to a clip."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
import yaml
from click.testing import CliRunner

from tinyasc.audio import read_audio
from tinyasc.cli.main import cli
from tinyasc.compress.deploy import deploy, write_files
from tinyasc.compress.limits import parse_limits
from tinyasc.data.scenes import write_scenes
from tinyasc.errors import InputError
from tinyasc.frontend import FrontEnd, fit_length
from tinyasc.frontend_torch import LogMel
from tinyasc.infer.runner import load, softmax
from tinyasc.models import FAMILIES, Family, build
from tinyasc.training.augmentation import gain_scale
from tinyasc.training.features import Part, prepare
from tinyasc.training.fit import logits
from tinyasc.training.recipe import Recipe, load_recipe
from tinyasc.training.run import Run, Trained

BANDS = 32
SMALL = FrontEnd(
    sample_rate=8000,
    clip_samples=10000,
    n_fft=512,
    win_length=512,
    hop_length=256,
    n_mels=BANDS,
    fmax=4000,
    stereo=True,
    deltas=2,
)
STUDENTS = sorted(name for name, family in FAMILIES.items() if family.capturable)
PARTS = {
    "data": {"name": "demo", "root": "scenes"},
    "front_end": {
        "sample_rate": 16000,
        "clip_seconds": 0.5,
        "n_fft": 512,
        "hop_length": 256,
        "n_mels": 32,
        "mel_scale": "htk",
        "fmin": 50,
        "stereo": True,
        "deltas": 2,
        "pre_emphasis": 0.97,
    },
}
TEACHER = PARTS | {
    "name": "stereo",
    "model": {"family": "atrous_cnn", "trunk": "baseline", "head": "average", "base_channels": 4},
    "training": {"epochs": 2, "batch_size": 16, "lr": 0.003},
    "augment": {"roll": True, "gain_db": 3},
    "student": "student.yaml",
}
STUDENT = {
    "name": "stereo-student",
    "model": {"family": "cp_mobile", "base_channels": 8, "grn": False},
    "training": {"epochs": 2, "batch_size": 16, "lr": 0.01},
    "distill": {},
}


def random_model(family: str, front_end: FrontEnd, folder: Path, features: np.ndarray) -> Trained:
    """Random weights; batch norms with the statistics of the features, so that the answers differ from clip to clip."""
    torch.manual_seed(0)
    recipe = Recipe.model_validate({"name": "x", "model": {"family": family}, "data": {"name": "demo"}})
    module = build(family, n_classes=3, n_mels=front_end.n_mels, in_channels=front_end.channels)
    with torch.no_grad():
        for part in module.modules():
            if isinstance(part, torch.nn.Conv2d | torch.nn.Linear):
                part.weight.mul_(2)
        for _ in range(30):
            module.train()(torch.from_numpy(features))
    return Trained(module.eval(), ("a", "b", "c"), front_end, recipe, {}, True, folder)


@pytest.mark.parametrize("family", STUDENTS)
def test_every_student_goes_to_its_files_with_six_channels(family, tmp_path):
    """The files' answers, by the front end that is inside them."""
    rng = np.random.default_rng(0)
    scale = rng.uniform(0.5, 2, (6, BANDS))
    front_end = SMALL.with_normalization(scale, np.zeros((6, BANDS)))
    # Every clip's channels with levels of their own: channels that change places change the answer.
    features = rng.standard_normal((16, *front_end.shape)) + 3 * rng.standard_normal((16, 6, 1, 1))
    features = features.astype(np.float32)
    model = random_model(family, front_end, tmp_path, features)
    deployed = deploy(model, features)
    assert deployed.float_graph.tensors[deployed.float_graph.input].shape == (1, BANDS, front_end.n_frames(), 6)
    expected = logits(model, features)
    part = Part(features, np.arange(16) % 3)
    written = write_files(deployed, model, part, {}, tmp_path, parse_limits(), expected=expected)
    swapped = np.abs(logits(model, features[:, ::-1].copy()) - expected).max()
    for file in written:
        loaded = load(file.path, exact=True)
        assert loaded.backend.input_shape == loaded.front_end.shape == front_end.shape
        # The student's own input normalisation has moved into the file's front end.
        own = np.array(loaded.front_end.band_scale).reshape(6, BANDS) / scale
        offset = np.array(loaded.front_end.band_offset).reshape(6, BANDS)
        given = (features * own[..., None] + offset[..., None]).astype(np.float32)
        answers = np.stack([loaded.backend.logits(x) for x in given])
        assert np.abs(answers - expected).max() <= swapped * (1e-3 if file.precision == "fp32" else 0.25)


def test_a_family_of_one_channel_refuses_more(monkeypatch):
    def plain(*, n_classes, n_mels):
        return torch.nn.Linear(n_mels, n_classes)

    monkeypatch.setitem(FAMILIES, "plain", Family(plain, False, "", FAMILIES["atrous_cnn"].width))
    with pytest.raises(
        InputError, match=r"plain takes one channel, the front end gives 3; leave out front_end\.deltas"
    ):
        build("plain", n_classes=2, n_mels=4, in_channels=3)
    build("plain", n_classes=2, n_mels=4)


def test_a_gain_in_db_adds_nothing_to_deltas():
    front_end = SMALL.with_normalization(np.full((6, BANDS), 0.5), np.zeros((6, BANDS)))
    expected = np.zeros((6, BANDS))
    expected[:2] = 0.5
    np.testing.assert_array_equal(gain_scale(front_end), expected)
    plain = dataclasses.replace(SMALL, stereo=False, deltas=0)
    np.testing.assert_array_equal(gain_scale(plain), np.ones((1, BANDS)))


def tinyasc(*args: object, code: int = 0):
    result = CliRunner().invoke(cli, [str(a) for a in args])
    print(result.stderr)
    assert result.exit_code == code, result.exception
    return result


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with stereo scenes and a stereo teacher with deltas, compressed."""
    folder = tmp_path_factory.mktemp("stereo")
    write_scenes(folder / "scenes", clips_per_scene=12, seconds=0.5)
    for file in (folder / "scenes").rglob("*.wav"):
        samples, rate = soundfile.read(file)
        soundfile.write(file, np.stack([samples, 0.5 * np.roll(samples, 40)], axis=1), rate)
    (folder / "teacher.yaml").write_text(yaml.safe_dump(TEACHER))
    (folder / "student.yaml").write_text(yaml.safe_dump(STUDENT))
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        tinyasc("train", "teacher.yaml")
        tinyasc("compress", "--budget", "16KB")
    return folder


@pytest.fixture
def student(place, monkeypatch) -> Path:
    monkeypatch.chdir(place)
    return next(p.parent for p in Path("runs").glob("*/model-int8.tflite"))


def test_from_a_stereo_clip_to_the_answer(student, place):
    """The runner on a file, against the torch front end and the torch student."""
    clip = next((place / "scenes").rglob("*.wav"))
    model = load(student / "model-fp32.tflite")
    trained = Run(student).load()
    assert model.front_end.shape == trained.front_end.shape == (6, 32, 22)
    samples = read_audio(clip, 16000, stereo=True)
    assert samples.shape == (2, 8000)
    own = LogMel(trained.front_end).double()(torch.from_numpy(fit_length(samples, 8000))[None].double())
    with torch.inference_mode():
        expected = softmax(trained.module(own.float())[0].numpy())
    np.testing.assert_allclose(model.predict(samples).probabilities, expected, atol=1e-3)
    answer = json.loads(tinyasc("infer", "--json", "--model", student / "model-fp32.tflite", clip).stdout)
    np.testing.assert_allclose(list(answer["probabilities"].values()), expected, atol=1e-3)


def test_every_command_takes_a_stereo_student(student, tmp_path):
    (entry,) = (p for p in Path("runs").iterdir() if p != student)
    for run in (student, entry):
        for line in tinyasc("evaluate", "--json", run, "--split", "validation").stdout.splitlines():
            assert np.isfinite(json.loads(line)["log_loss"])
    drifts = json.loads(tinyasc("profile", student, "--drift", "--clips", 4, "--json").stdout)["drift"]
    assert next(d for d in drifts if d["kind"] == "input")["sqnr_db"] > 20
    for to, precision in (("onnx", "int8"), ("onnx", "fp32"), ("tflite", "int16x8")):
        file = tmp_path / f"m-{precision}.{to}"
        tinyasc("export", student, "--to", to, "--precision", precision, "-o", file)
        assert load(file).backend.input_shape == (6, 32, 22)
    tinyasc("export", entry, "--to", "onnx", "--precision", "fp32", "-o", tmp_path / "teacher.onnx")
    clip = next(Path("scenes").rglob("*.wav"))
    tinyasc("infer", "--model", tmp_path / "teacher.onnx", "--tta", 3, clip)


def test_a_mono_clip_is_refused_by_a_stereo_model(student, tmp_path):
    file = tmp_path / "mono.wav"
    soundfile.write(file, np.zeros(8000), 16000)
    result = tinyasc("infer", "--model", student / "model-int8.tflite", file, code=2)
    assert f"{file}: stereo is wanted and its channels are 1" in result.stderr


def test_every_channel_is_normalized_by_its_own_training_clips(place, monkeypatch):
    monkeypatch.chdir(place)
    recipe = load_recipe("teacher.yaml")
    data = prepare(recipe.data, recipe.front_end.record())
    assert data.train.features.shape[1:] == data.front_end.shape == (6, 32, 22)
    np.testing.assert_allclose(data.train.features.mean(axis=(0, 3)), 0, atol=1e-3)
    np.testing.assert_allclose(data.train.features.std(axis=(0, 3)), 1, atol=1e-3)


def test_bands_without_an_fft_bin_are_one_clear_line(place, monkeypatch):
    monkeypatch.chdir(place)
    result = tinyasc("train", "teacher.yaml", "--set", "front_end.n_mels=200", code=2)
    assert "mel bands hold no FFT bin" in result.stderr.splitlines()[-1]


def test_a_gain_in_db_needs_a_log(place, monkeypatch):
    monkeypatch.chdir(place)
    for key, other in (("gain_db", "filter_db"), ("filter_db", "gain_db")):
        settings = ("--set", f"augment.{key}=6", "--set", f"augment.{other}=0", "--set", "front_end.log=false")
        result = tinyasc("train", "teacher.yaml", *settings, "--run", "runs/power", code=2)
        assert f"augment.{key} adds dB, so it needs front_end.log" in result.stderr


def test_power_without_a_log_trains(place, monkeypatch):
    monkeypatch.chdir(place)
    tinyasc(
        *("train", "teacher.yaml", "--run", "runs/power-2"),
        *("--set", "front_end.log=false", "--set", "augment.gain_db=0", "--set", "training.epochs=1"),
    )
    front_end = Run(Path("runs/power-2")).load().front_end
    assert not front_end.log and np.isfinite(front_end.band_scale).all()
