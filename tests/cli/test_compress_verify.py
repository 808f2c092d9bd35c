"""What `tinyasc compress` says and leaves of quantisation, temperature, verification, stages and full disks."""

from __future__ import annotations

import errno
import json
import os
import resource
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner

from tinyasc.cli.main import cli
from tinyasc.compress import deploy as deploy_module
from tinyasc.compress import micro, temperature
from tinyasc.data.scenes import write_scenes
from tinyasc.files import file_hash
from tinyasc.infer.runner import load
from tinyasc_export.seal import MARKER, UNSEALED, seal
from tinyasc_export.tflite import constant_bytes, to_tflite

FRONT_END = {"sample_rate": 16000, "clip_seconds": 0.5, "n_fft": 512, "hop_length": 320, "n_mels": 32}
TEACHER = {
    "name": "tiny",
    "data": {"name": "demo", "root": "scenes"},
    "front_end": FRONT_END,
    "model": {"family": "atrous_cnn", "head": "average", "base_channels": 4},
    "training": {"epochs": 2, "batch_size": 16, "lr": 0.003},
    "student": "student.yaml",
}
STUDENT = {
    "name": "tiny-student",
    "model": {"family": "sepconv_ca", "base_channels": 8, "attention_activation": "relu"},
    "training": {"epochs": 4, "batch_size": 16, "lr": 0.01},
    "distill": {},
}


def tinyasc(*args, code=0):
    result = CliRunner().invoke(cli, [str(a) for a in args])
    print(result.output)
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    assert result.exit_code == code
    errors = [line for line in result.stderr.splitlines() if line.startswith("error: ")]
    assert len(errors) == (code != 0)
    result.line = errors[0].removeprefix("error: ") if errors else ""
    return result


@pytest.fixture(scope="module", autouse=True)
def temperatures_are_taken():
    """As fitted: these few clips, half of them answered wrongly, would not let any through."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(temperature, "_holds_on_others", lambda *_: True)
        yield


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    folder = tmp_path_factory.mktemp("place")
    write_scenes(folder / "scenes", clips_per_scene=12, seconds=0.5)
    (folder / "teacher.yaml").write_text(yaml.safe_dump(TEACHER))
    (folder / "student.yaml").write_text(yaml.safe_dump(STUDENT))
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        tinyasc("train", "teacher.yaml", "--run", "runs/teacher")
        # Whatever quantisation loses is within this bound.
        options = ("--also", "fp16", "--also", "int16x8", "--max-drop", "1000")
        done = tinyasc("compress", "--run", "runs/student", *options)
    return folder, done


@pytest.fixture
def folder(place, monkeypatch):
    monkeypatch.chdir(place[0])
    return place[0]


def report(run):
    return json.loads((Path(run) / "report.json").read_text())


def test_stages_are_said_and_kept_in_a_file(place, folder):
    names = ["features", "teacher answers", "distil", "quantise", "write", "verify"]
    said = [line.partition(":")[0] for line in place[1].stderr.splitlines()]
    assert [name for name in said if name in names] == names
    lines = [json.loads(line) for line in Path("runs/student/stages.jsonl").read_text().splitlines()]
    assert [line["stage"] for line in lines[:6]] == names and not any(line["kept"] for line in lines[:6])


def test_a_second_command_keeps_what_is_there(folder):
    before = (Path("runs/student") / "report.json").read_bytes()
    options = ("--also", "fp16", "--also", "int16x8", "--max-drop", "1000")
    again = tinyasc("compress", "--teacher", "runs/teacher", "--run", "runs/student", *options)
    assert "teacher answers: kept" in again.stderr and "distil: kept" in again.stderr
    assert (Path("runs/student") / "report.json").read_bytes() == before
    assert not Path("runs/student/unverified").exists()


def test_the_report_says_how_the_files_came_about(place, folder):
    found = report("runs/student")
    files = {f["file"]: f for f in found["files"]}
    assert set(files) == {
        "model-fp32.tflite", "model-fp32.onnx", "model-int8.tflite", "model-int16x8.tflite", "model-fp16.tflite",
    }  # fmt: skip
    clips = found["files"][0]["validation"]["clips"]
    assert found["quantization"]["measured_on"] == f"the {clips:.0f} validation clips"
    assert found["quantization"]["max_drop"] == 1000
    for precision in ("int8", "int16x8"):
        ptq = found["quantization"][precision]["ptq"]
        exact, rounded = (files[f"model-{p}.tflite"]["validation"] for p in ("fp32", precision))
        assert ptq["accuracy_points"] == pytest.approx(100 * (exact["accuracy"] - rounded["accuracy"]))
        assert found["quantization"][precision]["qat"] is None and found["quantization"][precision]["kept"] == "ptq"
    widths = {"fp32": 4, "fp16": 2, "int8": 1, "int16x8": 1}
    for f in files.values():
        assert f["parameters_x_width"] == f["parameters"] * widths[f["precision"]]
        assert f["arena"]["planned"] <= f["arena"]["planned_pools_apart"]
        for entry in f["runtimes"].values():
            assert isinstance(entry, str) or entry["largest_difference"] <= entry["allowed"]
    fp16 = Path("runs/student/model-fp16.tflite")
    assert (
        constant_bytes(fp16.read_bytes()) == files[fp16.name]["parameter_bytes"] == 2 * files[fp16.name]["parameters"]
    )
    assert found["seed"] == 0 and found["runtimes"]["ai-edge-litert"]
    assert {"weights_blake2b", "data_blake2b", "split_blake2b"} <= set(found)
    card = load(fp16).card
    assert card["weights_blake2b"] == found["weights_blake2b"] and card["runtimes"] == found["runtimes"]
    if micro.absent() is None:
        assert "verified in LiteRT, onnxruntime and TensorFlow Lite Micro" in place[1].stdout
        assert files["model-int8.tflite"]["runtimes"][micro.NAME]["largest_difference"] == 0


def test_the_temperature_is_in_the_card_and_is_used(folder):
    found = report("runs/student")
    for precision in ("fp32", "int8", "int16x8"):
        model = load(Path(f"runs/student/model-{precision}.tflite"), exact=True)
        fitted = found["temperatures"][precision]
        assert model.temperature == fitted["temperature"] != 1
        assert model.card["temperature_fit"] == fitted["temperature_fit"]
        after, before = fitted["temperature_fit"]["after"], fitted["temperature_fit"]["before"]
        assert after["log_loss"] < before["log_loss"] and "expected_calibration_error" in after
        (entry,) = (f for f in found["files"] if f["file"] == f"model-{precision}.tflite")
        assert entry["validation"]["log_loss"] == pytest.approx(after["log_loss"], abs=1e-9)
    tinyasc("export", "runs/student", "--to", "onnx", "--precision", "int8", "-o", "again.onnx")
    assert load(Path("again.onnx")).temperature == load(Path("runs/student/model-int8.tflite")).temperature
    # Through the command: the answers are the logits divided by it.
    lines = tinyasc("evaluate", "runs/student", "--json", "--split", "validation").stdout.splitlines()
    (int8,) = (r for r in map(json.loads, lines) if r["model"] == "model-int8.tflite")
    fitted = found["temperatures"]["int8"]["temperature_fit"]
    assert int8["log_loss"] == pytest.approx(fitted["after"]["log_loss"], abs=0.02)


def test_final_runs_say_what_drift_is_measured_on(folder, tmp_path):
    final = [part for one in ("final=true", "select=last", "epochs=1") for part in ("--set", f"training.{one}")]
    tinyasc("train", "teacher.yaml", "--run", tmp_path / "teacher", *final)
    done = tinyasc("compress", "--teacher", tmp_path / "teacher", "--run", tmp_path / "s", "--max-drop", 1000, *final)
    found = report(tmp_path / "s")
    assert "which were trained on" in found["quantization"]["measured_on"]
    assert load(tmp_path / "s/model-int8.tflite").card["temperature"] == 1
    assert "none was held out" in found["temperatures"]["int8"]["temperature_fit"]["about"]
    assert "int8: temperature 1: validation clips were trained on" in done.stdout


def resealed(data: bytes) -> bytes:
    """A changed file with a hash that is right again, so that only its answers give it away."""
    at = data.index(MARKER)
    return seal(data[:at] + UNSEALED.encode() + data[at + len(UNSEALED) :])


def spoiling(graph, bundle=None):
    data = to_tflite(graph, bundle)
    if bundle is None or bundle.card.get("precision") != "int8":
        return data
    part = max((t.data for t in graph.constants()), key=lambda a: a.nbytes).tobytes()
    assert data.count(part) == 1
    return resealed(data.replace(part, bytes(b ^ 0x7F for b in part)))


def test_a_writer_that_is_wrong_fails_the_command(folder, tmp_path, monkeypatch):
    run = tmp_path / "wrong"
    command = ("compress", "--teacher", "runs/teacher", "--run", run, "--max-drop", "1000")
    with monkeypatch.context() as patch:
        patch.setattr(deploy_module, "to_tflite", spoiling)
        line = tinyasc(*command, code=1).line
    assert f"{run}/unverified/model-int8.tflite: " in line and "differs from the numpy reference by" in line
    assert (run / "unverified/model-int8.tflite").is_file()
    assert not (run / "report.json").exists() and not list(run.glob("model-*.tflite"))
    assert "not finished" in tinyasc("evaluate", run, code=2).line
    # With the writer mended, the same command goes on from the trained student.
    assert "distil: kept" in tinyasc(*command).stderr
    assert not (run / "unverified").exists() and (run / "model-int8.tflite").is_file()
    # Nor does a good report outlive a bad file.
    assert (run / "report.json").is_file()
    monkeypatch.setattr(deploy_module, "to_tflite", spoiling)
    tinyasc(*command, code=1)
    assert not (run / "report.json").exists()


def test_nonsense_options(folder, tmp_path):
    assert "fp8" in tinyasc("compress", "--also", "fp8", code=2).line
    for value in ("-1", "nan", "inf", "x"):
        assert "max-drop" in tinyasc("compress", "--max-drop", value, "--run", tmp_path / "r", code=2).line
    swish = ("--set", "model.attention_activation=hardswish")
    line = tinyasc("compress", "--also", "int16x8", "--run", tmp_path / "r", *swish, code=2).line
    assert "hardswish" in line and not (tmp_path / "r").exists()


def test_too_few_training_clips_are_refused_before_training(folder, tmp_path, monkeypatch):
    from tinyasc.compress import lessons

    real = lessons.prepare

    def few(*args):
        data = real(*args)
        part = data.train.__class__(data.train.features[:4], data.train.labels[:4])
        return data.__class__(**{**vars(data), "train": part})

    monkeypatch.setattr(lessons, "prepare", few)
    line = tinyasc("compress", "--teacher", "runs/teacher", "--run", tmp_path / "r", code=2).line
    assert "at least one per class: 10 are needed, the data has 4" in line and not (tmp_path / "r").exists()


def test_a_disk_that_fills_up(folder, tmp_path, monkeypatch):
    """At every kind of file: one line that names it, nothing half written, and the same command goes on."""
    run, real = tmp_path / "full", os.replace
    command = ["compress", "--teacher", "runs/teacher", "--run", run, "--max-drop", "1000"]
    command += ["--set", "training.epochs=1"]
    answers = f"{file_hash(Path('runs/teacher/model.safetensors'))[:16]}.npz"
    for name in (
        "plan.json", answers, "last.ckpt", "model.safetensors", "model-int8.tflite", "graph-int8.npz",
        "report.json",
    ):  # fmt: skip

        def full(source, target, name=name):
            if Path(target).name == name:
                raise OSError(errno.ENOSPC, "No space left on device", str(source), None, str(target))
            real(source, target)

        with monkeypatch.context() as patch:
            patch.setattr("tinyasc.files.os.replace", full)
            line = tinyasc(*command, code=1).line
        assert name in line and "No space left on device; free some space and run the same command again" in line
        assert "->" not in line and not list(run.rglob(f".{name}*")) and not list(run.rglob(name))
    tinyasc(*command)
    assert report(run)["budget"]["met"]


@pytest.mark.slow
def test_a_limit_on_the_size_of_files(folder, tmp_path):
    """The system's own refusal, as a full disk gives it in the midst of a write."""
    code = "import tinyasc.cli.main as m; m.main()"
    limit = 20_000
    done = subprocess.run(
        [sys.executable, "-c", code, "compress", "--teacher", "runs/teacher", "--run", str(tmp_path / "r")],
        capture_output=True,
        text=True,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit)),
        timeout=200,
    )
    line = done.stderr.splitlines()[-1]
    assert done.returncode == 1, done.stderr
    assert line.startswith(f"error: {tmp_path / 'r'}/") and "File too large; free some space" in line
    assert "Traceback" not in done.stderr
