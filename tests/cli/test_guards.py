"""What the commands refuse so that nothing is lost, and nothing is measured on what it was trained on."""

import json
from pathlib import Path

import numpy as np
import pytest
import soundfile
import yaml
from click.testing import CliRunner

from tinyasc.cli.main import cli
from tinyasc.data.scenes import write_scenes

TEACHER = {
    "name": "guarded",
    "data": {"name": "demo", "root": "scenes"},
    "front_end": {"sample_rate": 16000, "clip_seconds": 0.5, "n_fft": 512, "hop_length": 256, "n_mels": 32},
    "model": {"family": "atrous_cnn", "trunk": "baseline", "head": "average", "base_channels": 4},
    "training": {"epochs": 1, "batch_size": 32},
}


ESC10 = (
    (0, "dog"), (1, "rooster"), (10, "rain"), (11, "sea_waves"), (12, "crackling_fire"), (20, "crying_baby"),
    (21, "sneezing"), (38, "clock_tick"), (40, "helicopter"), (41, "chainsaw"),
)  # fmt: skip


def invoke(*args, code: int = 0) -> str:
    result = CliRunner().invoke(cli, [str(a) for a in args])
    print(result.output)
    assert result.exit_code == code
    return result.stderr.splitlines()[-1] if code else result.stdout


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "teacher.yaml").write_text(yaml.safe_dump(TEACHER))
    write_scenes(tmp_path / "scenes", clips_per_scene=12, seconds=0.5)
    return tmp_path


def test_a_folder_of_something_else_is_left_alone(folder):
    mine = folder / "mine"
    mine.mkdir()
    (mine / "metrics.jsonl").write_text("mine\n")
    assert "no run" in invoke("train", "teacher.yaml", "--run", mine, code=2)
    invoke("train", "teacher.yaml", "--run", "teacher")
    assert "no run" in invoke("compress", "--teacher", "teacher", "--run", mine, "--student", "students/demo", code=2)
    assert [p.name for p in mine.iterdir()] == ["metrics.jsonl"]
    assert (mine / "metrics.jsonl").read_text() == "mine\n"


def test_a_run_keeps_to_its_clips(folder):
    invoke("train", "teacher.yaml", "--run", "run")
    before = {p: p.read_bytes() for p in Path("run").rglob("*") if p.is_file()}
    write_scenes(folder / "other", clips_per_scene=12, seconds=0.5, seed=5)
    assert "other clips" in invoke("train", "teacher.yaml", "--root", "other", "--run", "run", code=2)
    assert {p: p.read_bytes() for p in Path("run").rglob("*") if p.is_file()} == before
    # The same clips elsewhere are the same data.
    (folder / "scenes").rename(folder / "moved")
    assert "trained: run" in invoke("train", "teacher.yaml", "--root", "moved", "--run", "run")


def esc(root: Path) -> None:
    """Noise in ESC-50's layout: five folds of its ten classes. Not real recordings."""
    (root / "audio").mkdir(parents=True)
    (root / "meta").mkdir()
    rows = ["filename,fold,target,category,esc10,src_file,take"]
    rng = np.random.default_rng(0)
    for fold in range(1, 6):
        for target, category in ESC10:
            for take in range(2):
                name = f"{fold}-{1000 * fold + 10 * target + take}-A-{target}.wav"
                soundfile.write(root / "audio" / name, 0.1 * rng.standard_normal(8000), 16000)
                rows.append(f"{name},{fold},{target},{category},True,{1000 * fold + 10 * target + take},A")
    (root / "meta" / "esc50.csv").write_text("\n".join(rows) + "\n")


def test_no_fold_is_measured_that_was_trained_on(folder):
    esc(folder / "esc")
    run = ("--data", "esc10", "--root", "esc", "--set", "training.batch_size=4")
    invoke("train", "teacher.yaml", *run, "--run", "fold1")
    invoke("train", "teacher.yaml", *run, "--set", "data.name=esc10", "--set", "data.test_fold=2", "--run", "fold2")
    assert json.loads(invoke("evaluate", "fold1", "--json"))["test_fold"] == 1
    assert "fold 3 is no test for it" in invoke("evaluate", "fold1", "--test-fold", "3", code=2)
    # Each is tested on its own fold; a fold that is named is a test for one of them alone.
    both = [json.loads(line) for line in invoke("evaluate", "fold1", "fold2", "--json").splitlines()]
    assert [r.get("test_fold") for r in both] == [1, 2, None] and both[2]["folds"] == [1, 2]
    assert "fold 1 is no test for it" in invoke("evaluate", "fold1", "fold2", "--test-fold", "1", code=2)
    # What was exported remembers it too.
    invoke("export", "fold1", "--to", "onnx", "--precision", "fp32", "-o", "fold1.onnx")
    lone = ("evaluate", "fold1.onnx", "--data", "esc10", "--root", "esc")
    assert json.loads(invoke(*lone, "--json"))["parameters"] > 0
    assert "fold 3 is no test for it" in invoke(*lone, "--test-fold", "3", code=2)
