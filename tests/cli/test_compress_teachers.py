"""`tinyasc compress` with several teachers: of other families and front ends, refused, resumed, in any order."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import yaml
from click.testing import CliRunner

from tinyasc.cli.main import cli
from tinyasc.compress import teachers as compress_teachers
from tinyasc.data.scenes import write_scenes
from tinyasc.infer.runner import load
from tinyasc.training.heard import Heard

FRONT_END = {"sample_rate": 16000, "clip_seconds": 0.75, "n_fft": 512, "hop_length": 320, "n_mels": 32}
OTHER = {"sample_rate": 8000, "clip_seconds": 0.75, "n_fft": 256, "hop_length": 160, "n_mels": 32, "deltas": 2}
TEACHERS = {
    "cnn": {"front_end": FRONT_END, "model": {"family": "atrous_cnn", "head": "average", "base_channels": 4}},
    "resnet": {"front_end": OTHER, "model": {"family": "split_resnet", "base_channels": 4}},
}
STUDENT = {
    "name": "student",
    "model": {"family": "cp_mobile", "base_channels": 8, "channels_multiplier": 1.2, "expansion_rate": 1.2},
    "training": {"epochs": 2, "batch_size": 32, "lr": 0.003},
    "augment": {"wave_roll_seconds": 0.2, "wave_gain_db": 3, "mixup_alpha": 0.3},
    "distill": {},
}
BUDGET = ("--budget", "16KB", "--student", "student.yaml")
BOTH = ("--teacher", "cnn", "--teacher", "resnet")
FILES = ("model-int8.tflite", "model-fp32.tflite", "model-fp32.onnx", "model.safetensors", "report.json")


def tinyasc(*args, code=0):
    result = CliRunner().invoke(cli, [str(a) for a in args])
    print(result.output)
    assert result.exit_code == code, result.exception
    if code:
        result.line = result.stderr.splitlines()[-1].removeprefix("error: ")
    return result


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """Scenes, two trained teachers and a student's recipe."""
    folder = tmp_path_factory.mktemp("place")
    write_scenes(folder / "scenes", clips_per_scene=12, seconds=0.75)
    (folder / "student.yaml").write_text(yaml.safe_dump(STUDENT))
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        for name, parts in TEACHERS.items():
            train(name, **parts)
    return folder


def train(name, *options, **parts):
    recipe = {"name": name, "data": {"name": "demo", "root": "scenes"}, "training": {"epochs": 1}, "student": "none"}
    Path(f"{name}.yaml").write_text(yaml.safe_dump(recipe | parts))
    tinyasc("train", f"{name}.yaml", "--run", name, *options)


@pytest.fixture(autouse=True)
def folder(place, monkeypatch):
    monkeypatch.chdir(place)
    return place


@pytest.fixture(scope="module")
def compressed(place):
    """A student of both teachers, from their cached answers, and what the command said."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(place)
        return place / "both", tinyasc("compress", *BUDGET, *BOTH, "--run", "both")


def test_two_teachers_of_other_front_ends_and_families(compressed):
    run, said = compressed
    assert "front end: cnn's, since the teachers' differ" in said.stderr
    card = load(run / "model-int8.tflite").card
    assert sorted(t["model"]["family"] for t in card["teachers"]) == ["atrous_cnn", "split_resnet"]
    assert sorted(t["recipe"] for t in card["teachers"]) == ["cnn", "resnet"]
    assert card["distill"]["ensemble"] == "logits" and card["distill"]["reduction"] == "batchmean"
    assert load(run / "model-int8.tflite").front_end.sample_rate == 16000
    assert json.loads((run / "report.json").read_text())["budget"]["met"]
    answers = [np.load(file)["logits"] for file in sorted((run / "teachers").iterdir())]
    assert len(answers) == 2 and answers[0].shape == answers[1].shape and np.abs(answers[0] - answers[1]).max() > 0.1
    measured = tinyasc("evaluate", run, "--split", "validation", "--json").stdout.splitlines()
    names = [json.loads(line)["model"] for line in measured]
    assert sorted(names[:2]) == ["teacher cnn", "teacher resnet"] and len(names) == 4


def test_the_order_of_teachers_does_not_matter(compressed, tmp_path):
    run, _ = compressed
    told = [f"front_end={json.dumps(FRONT_END)}".replace('"', "")]
    options = [*BUDGET, *[part for one in told for part in ("--set", one)], "--run", tmp_path / "swapped"]
    said = tinyasc("compress", "--teacher", "resnet", "--teacher", "cnn", *options)
    assert "front end:" not in said.stderr
    for name in FILES:
        assert (tmp_path / "swapped" / name).read_bytes() == (run / name).read_bytes(), name
    plans = [json.loads((folder / "plan.json").read_text()) for folder in (run, tmp_path / "swapped")]
    assert plans[0] == plans[1]
    # Without the student's own front end the first teacher's is taken, which makes another student.
    line = tinyasc("compress", "--teacher", "resnet", "--teacher", "cnn", *BUDGET, "--run", run, code=2).line
    assert "another compression" in line


def test_answers_are_kept_by_teacher(compressed, tmp_path, monkeypatch):
    """Those of one that is finished are not computed again; other weights' and damaged ones are."""
    run = shutil.copytree(compressed[0], tmp_path / "run")
    asked, real = [], compress_teachers.logits

    def watched(teacher, *rest):
        asked.append(teacher.path.name)
        return real(teacher, *rest)

    monkeypatch.setattr(compress_teachers, "logits", watched)
    again = ("compress", *BUDGET, *BOTH, "--run", run)
    tinyasc(*again)
    assert asked == []
    of = {file: file.read_bytes() for file in (run / "teachers").iterdir()}
    first, second = of
    first.unlink()
    tinyasc(*again)
    assert len(asked) == 1 and first.read_bytes() == of[first]
    asked.clear()
    middle = len(of[second]) // 2
    second.write_bytes(of[second][:middle] + bytes([of[second][middle] ^ 1]) + of[second][middle + 1 :])
    tinyasc(*again)
    assert len(asked) == 1 and second.read_bytes() == of[second]
    asked.clear()
    second.write_bytes(of[first])  # whole, but another teacher's
    tinyasc(*again)
    assert len(asked) == 1 and second.read_bytes() == of[second]


def test_live_teachers_hear_the_augmented_waveforms(compressed, tmp_path):
    live = (
        "--set",
        "distill.teacher_on=augmented",
        "--set",
        "distill.reduction=mean",
        "--set",
        "distill.kd_lambda=0.98",
    )
    tinyasc("compress", *BUDGET, *BOTH, *live, "--run", tmp_path / "live")
    assert not (tmp_path / "live/teachers").exists()
    assert (tmp_path / "live/model.safetensors").read_bytes() != (compressed[0] / "model.safetensors").read_bytes()
    card = load(tmp_path / "live/model-int8.tflite").card
    assert card["distill"]["teacher_on"] == "augmented" and len(card["teachers"]) == 2


@pytest.mark.slow
@pytest.mark.parametrize("kill", ["epoch", "answers"])
def test_a_killed_compress_ends_with_the_same_bytes(compressed, tmp_path, kill):
    """Killed in training with live teachers, and after the first teacher's answers."""
    options = ["--set", "distill.teacher_on=augmented", "--set", "training.epochs=3"] if kill == "epoch" else []
    whole = compressed[0]
    if kill == "epoch":
        whole = tmp_path / "whole"
        tinyasc("compress", *BUDGET, *BOTH, *options, "--run", whole)
    run = tmp_path / "killed"
    command = [sys.executable, "-m", "tinyasc.cli.main", "compress", *BUDGET, *BOTH, *options, "--run", str(run)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=os.environ, text=True)
    deadline = time.monotonic() + 120
    there = (lambda: (run / "metrics.jsonl").exists()) if kill == "epoch" else (lambda: any(run.glob("teachers/*.npz")))
    try:
        while not there():
            assert process.poll() is None, process.communicate()
            assert time.monotonic() < deadline
            time.sleep(0.005)
    finally:
        process.send_signal(signal.SIGKILL)
        process.communicate()
    assert not (run / "report.json").exists()
    tinyasc("compress", *BUDGET, *BOTH, *options, "--run", run)
    for name in FILES:
        assert (run / name).read_bytes() == (whole / name).read_bytes(), name


# --- what is refused ---


def refused(*args):
    line = tinyasc("compress", *BUDGET, *args, "--run", "never", code=2).line
    assert not Path("never").exists(), "nothing is left"
    return line


def test_a_teacher_named_twice(folder):
    shutil.copytree("cnn", "copy", dirs_exist_ok=True)
    for same in ("cnn", "./cnn", "copy"):
        line = refused("--teacher", "cnn", "--teacher", same)
        assert "the same model as --teacher cnn" in line and "once" in line


def test_teachers_of_other_folds_labels_and_clips(folder):
    parts = TEACHERS["cnn"]
    train("fold", **parts | {"data": {"name": "demo", "root": "scenes", "devices": ["a", "b"]}})
    line = refused("--teacher", "cnn", "--teacher", "fold")
    assert line.startswith("--teacher fold: its data part has devices ('a', 'b'), and that of --teacher cnn devices ()")
    groups = {
        "one": ["bus", "tram"],
        "rest": sorted(set(json.loads(Path("cnn/model.json").read_text())["labels"]) - {"bus", "tram"}),
    }
    train("groups", **parts | {"data": {"name": "demo", "root": "scenes", "groups": groups, "target": "group"}})
    line = refused("--teacher", "cnn", "--teacher", "groups")
    assert "--teacher groups: knows 2 labels (one, rest, ...), and --teacher cnn 10 labels" in line
    shutil.copytree("cnn", "moved", dirs_exist_ok=True)
    heard = Heard.load(Path("moved"))
    assert heard is not None
    Heard(heard.train[1:], (heard.train[0], *heard.validation)).save(Path("moved"))
    weights = Path("moved/model.safetensors")
    weights.write_bytes(weights.read_bytes()[:-1] + b"\x01")  # another model
    line = refused("--teacher", "cnn", "--teacher", "moved")
    assert line.startswith("--teacher moved: was trained on other clips than --teacher cnn")


@pytest.mark.parametrize(
    ("option", "words"),
    [
        ("augment.roll=true", "augment.roll changes the student's features alone; leave it out (wave_roll_seconds"),
        ("augment.mixstyle_p=0.5", "augment.mixstyle_p changes"),
        ("augment.freq_mask=4", "augment.freq_mask changes"),
        ("front_end.clip_seconds=0.5", "hears clips of 0.75 s and the student of 0.5 s"),
    ],
)
def test_live_teachers_with_another_front_end_refuse_what_they_cannot_hear(option, words):
    told = f"front_end={json.dumps(FRONT_END)}".replace('"', "")
    options = ("--set", "augment.wave_roll_seconds=0", "--set", "augment.wave_gain_db=0", "--set", told)
    line = refused("--teacher", "resnet", *options, "--set", option, "--set", "distill.teacher_on=augmented")
    assert words in line


def test_layers_of_features_are_one_teachers(folder):
    layers = "distill={teacher_on: augmented, features: attention, feature_layers: [[stem.0, LAYER]]}"
    plain = ("--set", "augment.wave_roll_seconds=0", "--set", "augment.wave_gain_db=0")
    assert "those of one teacher, and 2 are named" in refused(*BOTH, *plain, "--set", layers)
    line = refused("--teacher", "cnn", *plain, "--set", layers)
    assert "distill.feature_layers: the teacher has no layer 'LAYER'" in line


def test_focal_loss_without_labels(folder):
    line = refused("--teacher", "cnn", "--set", "distill.kd_lambda=1", "--set", "training.focal_gamma=2")
    assert line.startswith("student.yaml: distill.kd_lambda 1 leaves no loss on the labels")
