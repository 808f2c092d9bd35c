"""`tinyasc compress` takes a model of any family as its teacher, and its student learns from that one's answers."""

import json
from pathlib import Path

import numpy as np
import pytest
import yaml
from click.testing import CliRunner

from tinyasc.cli.main import cli
from tinyasc.data.scenes import SCENES, write_scenes
from tinyasc.models import FAMILIES
from tinyasc.training.run import Run

NAMES = sorted(SCENES)
GROUPS = {"one": NAMES[:1], "rest": NAMES[1:]}
TINY = {
    "amfm": {"channels_multiplier": 0.125},
    "amfm_net": {"channels_multiplier": 0.25, "scheme": "extended"},
    "tf_sepnet": {"base_channels": 16},
}
STUDENT = {
    "name": "student",
    "model": {"family": "sepconv_ca", "base_channels": 8},
    "training": {"epochs": 1},
    "distill": {"kd_lambda": 1.0},
}


def tinyasc(*args):
    result = CliRunner().invoke(cli, [str(a) for a in args])
    print(result.output)
    assert result.exit_code == 0, result.exception
    return result


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    folder = tmp_path_factory.mktemp("place")
    write_scenes(folder / "scenes", clips_per_scene=12, seconds=0.75)
    (folder / "student.yaml").write_text(yaml.safe_dump(STUDENT))
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES)
def test_a_teacher_of_any_family(place, monkeypatch, family):
    monkeypatch.chdir(place)
    recipe = {
        "name": family,
        "data": {"name": "demo", "root": "scenes", "groups": GROUPS},
        "front_end": {"sample_rate": 16000, "clip_seconds": 0.75, "n_fft": 512, "hop_length": 320, "n_mels": 32},
        "model": {"family": family} | TINY.get(family, {"base_channels": 8}),
        "training": {"epochs": 1, "batch_size": 16},
    }
    Path(f"{family}.yaml").write_text(yaml.safe_dump(recipe))
    run, student = Path(f"teacher-{family}"), Path(f"student-{family}")
    tinyasc("train", f"{family}.yaml", "--run", run)
    told = ("--teacher", run, "--student", "student.yaml", "--budget", "16KB", "--run", student)
    tinyasc("compress", *told)
    answers = np.load(next((student / "teachers").iterdir()))["logits"]
    assert answers.shape[1] == len(SCENES) and np.isfinite(answers).all() and answers.std(axis=0).max() > 0
    assert json.loads((student / "report.json").read_text())["budget"]["met"]
    assert Run(run).load().recipe.family == family
    clip = next(Path("scenes").rglob("*.wav"))
    assert any(scene in tinyasc("infer", clip, "--model", student / "model-int8.tflite").output for scene in NAMES)
