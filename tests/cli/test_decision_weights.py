"""`decision_weights` of a recipe, from training to the answer."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import yaml
from click.testing import CliRunner

from tinyasc.cli.main import cli
from tinyasc.data.scenes import write_scenes
from tinyasc.infer.runner import load, softmax
from tinyasc.training.backend import torch_model
from tinyasc.training.recipe import load_recipe
from tinyasc.training.run import Run

TEACHER = {
    "name": "tiny",
    "data": {"name": "demo", "root": "scenes"},
    "front_end": {"sample_rate": 16000, "clip_seconds": 0.5, "n_fft": 512, "hop_length": 400, "n_mels": 32},
    "model": {"family": "atrous_cnn", "head": "average", "base_channels": 4},
    "training": {"epochs": 1, "batch_size": 16},
    "student": "student.yaml",
}
STUDENT = {
    "name": "small",
    "model": {"family": "cp_mobile", "base_channels": 8},
    "training": {"epochs": 1},
    "distill": {},
}
WEIGHTS = {"park": 5.0, "tram": 0.25}


def tinyasc(*args: object, code: int = 0):
    result = CliRunner().invoke(cli, [str(a) for a in args])
    print(result.output)
    assert result.exit_code == code, result.exception
    return result


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with the same training without decision weights, runs/plain, and with them, runs/weighted."""
    folder = tmp_path_factory.mktemp("weights")
    write_scenes(folder / "scenes", clips_per_scene=12, seconds=0.5)
    (folder / "teacher.yaml").write_text(yaml.safe_dump(TEACHER))
    (folder / "student.yaml").write_text(yaml.safe_dump(STUDENT))
    options = [word for label, weight in WEIGHTS.items() for word in ("--set", f"decision_weights.{label}={weight}")]
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        tinyasc("train", "teacher.yaml", "--run", "runs/plain")
        tinyasc("train", "teacher.yaml", "--run", "runs/weighted", *options)
        tinyasc("compress", "--teacher", "runs/weighted", "--run", "runs/small")
    return folder


@pytest.fixture(autouse=True)
def folder(place, monkeypatch) -> Path:
    monkeypatch.chdir(place)
    return place


def weighted(probabilities: np.ndarray, labels: tuple[str, ...]) -> np.ndarray:
    p = probabilities * [WEIGHTS.get(label, 1) for label in labels]
    return p / p.sum(axis=-1, keepdims=True)


def test_training_is_the_same_and_answers_are_weighted():
    plain, heavy = Run(Path("runs/plain")).load(), Run(Path("runs/weighted")).load()
    assert plain.validation["val_log_loss"] == heavy.validation["val_log_loss"]
    for name, value in plain.module.state_dict().items():
        assert value.equal(heavy.module.state_dict()[name]), name
    samples = np.random.default_rng(0).normal(0, 0.1, 8000).astype(np.float32)
    answers = [torch_model(run).predict(samples).probabilities for run in (plain, heavy)]
    np.testing.assert_allclose(answers[1], weighted(answers[0], plain.labels), rtol=1e-9)
    assert plain.recipe.fingerprint() != heavy.recipe.fingerprint()


def test_evaluate_takes_them():
    lines = [json.loads(tinyasc("evaluate", "--json", f"runs/{run}").stdout) for run in ("plain", "weighted")]
    recall = [line["per_class"] for line in lines]
    assert recall[1]["park"]["accuracy"] >= recall[0]["park"]["accuracy"]
    assert recall[1]["tram"]["accuracy"] <= recall[0]["tram"]["accuracy"]
    assert lines[0]["log_loss"] != lines[1]["log_loss"]


@pytest.mark.parametrize("name", ["model-int8.tflite", "model-fp32.tflite", "model-fp32.onnx"])
def test_a_students_files_carry_those_of_its_teacher(name):
    model = load(f"runs/small/{name}")
    assert model.card["decision_weights"] == WEIGHTS
    clip = min(Path("scenes").rglob("*.wav"))
    samples = np.random.default_rng(1).standard_normal(model.backend.input_shape).astype(np.float32)
    expected = weighted(softmax(model.backend.logits(samples)), model.labels)
    np.testing.assert_allclose(model.classify(samples), expected, rtol=1e-9)
    (record,) = map(json.loads, tinyasc("infer", "--json", "--model", f"runs/small/{name}", clip).stdout.splitlines())
    assert sum(record["probabilities"].values()) == pytest.approx(1)


def test_what_the_card_says_of_validation_clips_is_measured_with_them():
    """The same student without weights answers other clips right, or as sure of others."""
    tinyasc("compress", "--teacher", "runs/plain", "--run", "runs/other")
    with_them, without = (load(f"runs/{run}/model-fp32.tflite").card for run in ("small", "other"))
    assert "decision_weights" not in without
    assert with_them["validation"]["log_loss"] != without["validation"]["log_loss"]
    assert with_them["validation"]["top1_agreement"] == without["validation"]["top1_agreement"]


def test_a_students_own_weights_win(tmp_path):
    tinyasc("compress", "--teacher", "runs/weighted", "--run", tmp_path, "--set", "decision_weights.bus=2")
    assert load(tmp_path / "model-int8.tflite").card["decision_weights"] == {"bus": 2.0}


def test_a_teachers_file_carries_them(tmp_path):
    file = tmp_path / "teacher.onnx"
    tinyasc("export", "runs/weighted", "--to", "onnx", "--precision", "fp32", "-o", file)
    assert load(file).card["decision_weights"] == WEIGHTS


def test_a_class_that_the_data_lacks_is_refused(tmp_path):
    options = ("--set", "decision_weights.unknown=5", "--run", tmp_path / "run")
    line = tinyasc("train", "teacher.yaml", *options, code=2).stderr.splitlines()[-1]
    assert "decision_weights: 'unknown' is none of the data's labels (airport, bus" in line
    assert not (tmp_path / "run" / "recipe.yaml").exists()


@pytest.mark.parametrize("value", ["0", "-1", ".inf", "much"])
def test_other_weights_than_positive_numbers_are_refused(value):
    line = tinyasc("train", "teacher.yaml", "--set", f"decision_weights.park={value}", code=2).stderr
    assert "decision_weights.park" in line


def test_files_say_what_a_recipe_says_about_them(tmp_path):
    """Lines about a model are no part of its training: the run is resumed with others, and the files say those."""
    for line in ("first", "second"):
        tinyasc("compress", "--teacher", "runs/plain", "--run", tmp_path, "--set", f"about.licence={line}")
        for name in ("model-int8.tflite", "model-fp32.onnx"):
            assert load(tmp_path / name).card["about"] == {"licence": line}
    assert "about" not in load("runs/small/model-int8.tflite").card


def test_a_recipe_without_them_keeps_its_fingerprint():
    recipe = load_recipe("teachers/demo")
    assert recipe.decision_weights == {} and recipe.card() == {}
    assert "decision_weights" not in recipe.model_dump(exclude_defaults=True)
