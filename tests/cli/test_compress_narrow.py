"""`tinyasc compress --narrow` on tiny scenes: what is kept goes through every later command; a kill costs nothing."""

import json
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner

from tinyasc.cli.main import cli
from tinyasc.compress import narrow
from tinyasc.data.scenes import write_scenes
from tinyasc.infer.runner import load
from tinyasc.models.widths import layer_widths
from tinyasc.training.run import Run

TEACHER = {
    "name": "tiny",
    "data": {"name": "demo", "root": "scenes"},
    "front_end": {"sample_rate": 16000, "clip_seconds": 0.5, "n_fft": 512, "hop_length": 320, "n_mels": 32},
    "model": {"family": "atrous_cnn", "head": "average", "base_channels": 4},
    "training": {"epochs": 2, "batch_size": 16, "lr": 0.003},
    "student": "student.yaml",
}
STUDENT = {
    "name": "tiny-student",
    "model": {"family": "amfm", "channels_multiplier": 0.25, "hidden": 12},
    "training": {"epochs": 2, "batch_size": 16, "lr": 0.01},
    "distill": {},
    "narrow": {"steps": 1, "final_epochs": 2, "seeds": 2, "from_width": 0.25},
}
BUDGET = "6kB"
FILES = ("model.safetensors", "model.json", "report.json", "model-int8.tflite", "model-fp32.tflite")


def tinyasc(*args, code=0):
    result = CliRunner().invoke(cli, [str(a) for a in args])
    print(result.output)
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    assert result.exit_code == code
    return result


def compressed(run, *options, code=0):
    return tinyasc("compress", "--budget", BUDGET, "--run", run, *options, code=code)


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with a teacher and two compressions: one that had to keep the pruned net, one the dense."""
    folder = tmp_path_factory.mktemp("place")
    write_scenes(folder / "scenes", clips_per_scene=12, seconds=0.5)
    (folder / "teacher.yaml").write_text(yaml.safe_dump(TEACHER))
    (folder / "student.yaml").write_text(yaml.safe_dump(STUDENT))
    shown = {}
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        tinyasc("train", "teacher.yaml", "--run", "runs/teacher")
        for kept in ("pruned", "dense"):
            if kept == "dense":
                shutil.copytree("runs/pruned/narrow", "runs/dense/narrow")
                shutil.copy("runs/pruned/plan.json", "runs/dense")
            patch.setattr(narrow, "is_better", lambda *_, wanted=kept: wanted == "pruned")
            shown[kept] = compressed(f"runs/{kept}", "--narrow", "taylor").stdout
    return folder, shown


@pytest.fixture
def folder(place, monkeypatch):
    monkeypatch.chdir(place[0])
    return place[0]


@pytest.mark.parametrize("kept", ["pruned", "dense"])
def test_the_command_says_what_it_kept_and_why(folder, place, kept):
    shown = place[1][kept].splitlines()
    report = json.loads((folder / "runs" / kept / "report.json").read_text())
    about = report["narrow"]
    assert about["kept"] == kept and about["settings"]["importance"] == "taylor" and about["epochs"] == 4
    for side in ("pruned", "dense"):
        values = about[side]
        assert len(values["scores"]) == len(values["parameter_bytes"]) == 2
        assert max(values["parameter_bytes"]) <= 6000
        (line,) = [line for line in shown if line.startswith(f"{side} ")]
        assert f"{values['mean']:.4f} +- {values['sd']:.4f}" in line and line.endswith("yes") == (side == kept)
    assert any(line.startswith(f"kept: {kept}, since val_log_loss") and "4 epochs each" in line for line in shown)
    assert report["budget"]["parameter_bytes"] == about[kept]["parameter_bytes"][0]
    card = load(folder / "runs" / kept / "model-int8.tflite").card
    assert card["narrow"]["kept"] == kept and card["narrow"]["dense"]["mean"] == about["dense"]["mean"]
    assert card["budget"]["parameter_bytes_int8"] == report["budget"]["parameter_bytes"]
    width = {"pruned": 0.25, "dense": about["dense"]["width"]}[kept]
    assert card["model"]["channels_multiplier"] == width


def test_a_pruned_net_goes_through_every_later_command(folder, tmp_path):
    run = Path("runs/pruned")
    trained = Run(run).load()
    widths = layer_widths(trained.module)
    assert widths["trunk.5.mfm.layer"][1] < 2 * 16, "AMFM's own channels went too"
    for line in tinyasc("evaluate", run, "--split", "validation", "--json").stdout.splitlines():
        record = json.loads(line)
        if record["model"] == "model-fp32.tflite":
            files = json.loads((run / "report.json").read_text())["files"]
            assert record["log_loss"] == pytest.approx(files[0]["validation"]["log_loss"], abs=1e-4)
    assert "arena" in tinyasc("profile", run).stdout
    assert tinyasc("explain", "clip.wav", "--run", run, "--out", tmp_path / "seen").exit_code == 0
    inner = run / "narrow/pruned-seed0/step-1"
    for precision in ("fp32", "int16x8"):
        file = tmp_path / f"m-{precision}.tflite"
        tinyasc("export", run, "--to", "tflite", "--precision", precision, "-o", file)
        assert file.stat().st_size > 1000
    tinyasc("export", inner, "--to", "onnx", "--precision", "fp32", "-o", tmp_path / "inner.onnx")
    assert tinyasc("infer", "clip.wav", "--model", run / "model-int8.tflite").stdout.startswith("clip.wav")


@pytest.mark.slow
def test_quantisation_aware_training_goes_on_from_the_pruned_net(folder, tmp_path, monkeypatch):
    monkeypatch.setattr(narrow, "is_better", lambda *_: True)
    run = shutil.copytree("runs/pruned", tmp_path / "qat")
    compressed(run, "--narrow", "taylor", "--set", "qat={epochs: 1, freeze_epochs: 0}")
    assert load(run / "model-int8.tflite").card["quantization"]["qat_epochs"] == 1
    same, other = "model-fp32.tflite", "model-int8.tflite"
    assert (run / same).read_bytes() == Path("runs/pruned", same).read_bytes()
    assert (run / other).read_bytes() != Path("runs/pruned", other).read_bytes()


def test_the_dense_net_is_what_compress_makes_without_narrowing(folder, tmp_path):
    """As long a training, the same seed: the same weights."""
    compressed(tmp_path / "plain", "--set", "narrow=null", "--set", "training.epochs=4")
    assert (tmp_path / "plain/model.safetensors").read_bytes() == Path("runs/dense/model.safetensors").read_bytes()


@pytest.mark.slow
def test_a_killed_narrowing_resumes_to_the_same_bytes(folder, tmp_path, monkeypatch):
    monkeypatch.setattr(narrow, "is_better", lambda first, second, monitor: first.mean > second.mean)
    options = ["--narrow", "magnitude", "--set", "narrow.seeds=1", "--set", "narrow.final_epochs=12"]
    killed, whole = tmp_path / "killed", tmp_path / "whole"
    command = [sys.executable, "-m", "tinyasc.cli.main", "compress", "--budget", BUDGET, "--run", str(killed), *options]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 200
    try:
        file = killed / "narrow/pruned-seed0/step-1/metrics.jsonl"
        while not (file.is_file() and file.read_text().count("\n") >= 2):
            assert process.poll() is None, process.communicate()
            assert time.monotonic() < deadline
            time.sleep(0.005)
    finally:
        process.send_signal(signal.SIGKILL)
        process.communicate()
    assert not (killed / "model.json").exists()
    for run in (whole, killed):
        compressed(run, *options)
    for name in FILES[:1] + FILES[2:]:
        assert (killed / name).read_bytes() == (whole / name).read_bytes(), name
    assert not [p for p in killed.rglob(".*") if p.name != ".lock"]


def test_what_is_refused_says_why_and_leaves_nothing(folder, tmp_path):
    run = tmp_path / "no"
    for options, words in (
        (["--set", "training.final=true", "--set", "training.select=last"], "training.final trains on"),
        # The option stands, whatever the part is set to.
        (["--set", "training.final=true", "--set", "training.select=last", "--set", "narrow=null"], "final trains on"),
        (["--set", "narrow.from_width=0.125"], "holds the limits as it is"),
        (["--set", "narrow.step=2"], "did you mean 'steps'"),
    ):
        result = compressed(run, "--narrow", "magnitude", *options, code=2)
        assert words in result.stderr.splitlines()[-1] and not run.exists()
    other = compressed("runs/pruned", "--narrow", "magnitude", code=2)
    assert "holds another compression" in other.stderr.splitlines()[-1]


def test_auto_leaves_out_families_that_cannot_be_pruned(folder):
    shown = tinyasc("compress", "--family", "auto", "--budget", "128KB", "--narrow", "magnitude", "--dry-run").stderr
    assert "students: amfm, bc_resnet, cp_mobile, pooled_cnn, sepconv_ca (--family auto)" in shown
