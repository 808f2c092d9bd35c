"""`tinyasc train`, `compress`, `evaluate` and `infer` on tiny scenes: what they write and what they refuse."""

import hashlib
import json
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import onnx
import pytest
import safetensors.numpy
import soundfile
import yaml
from click.testing import CliRunner
from runtimes import run_litert, run_onnx, run_tflm

from tinyasc.audio import read_audio
from tinyasc.cli import measuring
from tinyasc.cli.main import cli
from tinyasc.compress import pipeline
from tinyasc.compress.limits import parse_limits
from tinyasc.data import load_table, split_table
from tinyasc.data.scenes import SCENES, write_scenes
from tinyasc.evaluate.clips import measure
from tinyasc.frontend import features
from tinyasc.infer.backends.litert_backend import quantize
from tinyasc.infer.runner import load
from tinyasc.training.recipe import shipped_recipes
from tinyasc_export.tflite import constant_bytes, read_bundle

FRONT_END = {"sample_rate": 16000, "clip_seconds": 0.5, "n_fft": 512, "hop_length": 320, "n_mels": 32}
TEACHER = {
    "name": "tiny",
    "data": {"name": "demo", "root": "scenes"},
    "front_end": FRONT_END,
    "model": {"family": "atrous_cnn", "head": "average", "base_channels": 8},
    "training": {"epochs": 6, "batch_size": 16, "lr": 0.003},
    "augment": {"roll": True, "gain_db": 3},
    "student": "student.yaml",
}
STUDENT = {
    "name": "tiny-student",
    "model": {"family": "sepconv_ca", "base_channels": 24},
    "training": {"epochs": 8, "batch_size": 16, "lr": 0.01},
    "augment": {"roll": True},
    "distill": {},
}
FILES = ("model-int8.tflite", "model-fp32.tflite", "model-fp32.onnx")
GRAPHS = ("graph-fp32.npz", "graph-int8.npz", "ranges.json")


def tinyasc(*args, code=0):
    """Runs a command in this process; a refusal is one line on standard error and no traceback."""
    result = CliRunner().invoke(cli, [str(a) for a in args])
    print(result.output)
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    assert result.exit_code == code
    errors = [line for line in result.stderr.splitlines() if line.startswith("error: ")]
    assert len(errors) == (code != 0)
    if code:
        assert result.stderr.splitlines()[-1] == errors[0]
        result.line = errors[0].removeprefix("error: ")
    return result


def tree(folder):
    """Every file with its bytes, locks and the seconds of stages left out."""
    files = [p for p in sorted(Path(folder).rglob("*")) if p.is_file() and p.name not in (".lock", "stages.jsonl")]
    return {str(p): hashlib.sha256(p.read_bytes()).hexdigest() for p in files}


def answers(run):
    """The file of the only teacher's answers, in the run."""
    (file,) = (run / "teachers").iterdir()
    return file.relative_to(run)


def blake(file):
    return hashlib.blake2b(file.read_bytes(), digest_size=16).hexdigest()


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder in which `train` and `compress --budget 16KB` have been run as a user would."""
    folder = tmp_path_factory.mktemp("place")
    write_scenes(folder / "scenes", clips_per_scene=12, seconds=0.5)
    (folder / "teacher.yaml").write_text(yaml.safe_dump(TEACHER))
    (folder / "student.yaml").write_text(yaml.safe_dump(STUDENT))
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        trained = tinyasc("train", "teacher.yaml")
        (teacher,) = Path("runs").iterdir()
        compressed = tinyasc("compress", "--budget", "16KB")
    (student,) = (p for p in (folder / "runs").iterdir() if p.name != teacher.name)
    return folder, folder / teacher, student, trained, compressed


@pytest.fixture
def folder(place, monkeypatch):
    monkeypatch.chdir(place[0])
    return place[0]


@pytest.fixture
def teacher(place):
    return place[1]


@pytest.fixture
def student(place):
    return place[2]


@pytest.fixture
def empty(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture(scope="module")
def validation(place):
    """Samples and class indices of the validation clips."""
    table = load_table("demo", place[0] / "scenes")
    clips = split_table(table).validation
    return [read_audio(c.path, 16000) for c in clips], np.array([table.labels.index(c.scene) for c in clips])


def test_what_the_commands_leave_and_say(place):
    folder, teacher, student, trained, compressed = place
    assert {p.name for p in teacher.iterdir()} == {
        ".lock", "data.blake2b", "recipe.yaml", "metrics.jsonl", "checkpoints", "model.safetensors", "model.json",
        "heard.json",
    }  # fmt: skip
    assert {p.name for p in student.iterdir()} == {
        ".lock", "data.blake2b", "recipe.yaml", "metrics.jsonl", "checkpoints", "model.safetensors", "model.json",
        "heard.json", "plan.json", "teachers", "report.json", "stages.jsonl", *FILES, *GRAPHS,
    }  # fmt: skip
    assert f"run: runs/{teacher.name}" in trained.stderr
    assert "validation accuracy" in trained.stdout and "synthetic" in trained.stdout
    assert soundfile.info(folder / "clip.wav").frames == 8000
    assert f"teacher: runs/{teacher.name} (newest in ./runs)" in compressed.stderr
    assert "student: student.yaml (default for this teacher)" in compressed.stderr
    assert f"written: runs/{student.name}" in compressed.stdout and "synthetic scenes" in compressed.stdout
    report = json.loads((student / "report.json").read_text())
    assert f"{report['budget']['parameter_bytes']:,} of 16,384 bytes of parameters: met" in compressed.stdout


def test_a_finished_train_returns_at_once_and_keeps_clip_wav(folder, teacher):
    before = tree(teacher) | {"clip": blake(folder / "clip.wav")}
    result = tinyasc("train", "teacher.yaml")
    assert "finished before" in result.stderr and "left as it is" in result.stderr
    assert tree(teacher) | {"clip": blake(folder / "clip.wav")} == before


def test_the_report_agrees_with_the_files(student):
    report = json.loads((student / "report.json").read_text())
    assert [f["file"] for f in report["files"]] == ["model-fp32.tflite", "model-fp32.onnx", "model-int8.tflite"]
    for entry in report["files"]:
        file = student / entry["file"]
        assert entry["file_bytes"] == file.stat().st_size
        assert entry["blake2b"] == blake(file)
    fp32, _, int8 = report["files"]
    assert fp32["parameter_bytes"] == 4 * fp32["parameters"]
    assert int8["parameters"] <= int8["parameter_bytes"] < 2 * int8["parameters"]
    assert report["precision"] == "int8" and all(check["met"] for check in report["checks"])
    assert report["budget"] == {
        "text": "16KB", "bytes": 16384, "parameter_bytes": int8["parameter_bytes"], "met": True,
    }  # fmt: skip
    assert int8["parameter_bytes"] <= 16384
    # Bytes of the file that no one could have saved on: weights are really int8 on disk.
    assert int8["parameter_bytes"] < int8["file_bytes"] < fp32["file_bytes"]
    plan = json.loads((student / "plan.json").read_text())
    assert plan["plan"]["parameter_bytes"] == int8["parameter_bytes"] and plan["plan"]["macs"] == int8["macs"]
    trained = safetensors.numpy.load_file(student / "model.safetensors")
    assert trained["blocks.0.pointwise.weight"].shape[0] == plan["plan"]["width"]
    assert plan["plan"]["option"] == "base_channels"


def test_the_int8_file_holds_its_card(student):
    bundle = read_bundle((student / "model-int8.tflite").read_bytes(), "model-int8.tflite")
    assert bundle is not None
    card, report = bundle.card, json.loads((student / "report.json").read_text())
    int8 = report["files"][-1]
    assert bundle.labels == tuple(sorted(SCENES))
    assert card["precision"] == "int8" and card["data"]["synthetic"] is True
    assert card["budget"] == {"text": "16KB", "bytes": 16384, "parameter_bytes_int8": int8["parameter_bytes"]}
    assert card["counts"] == {k: int8[k] for k in ("parameters", "parameter_bytes", "quantization_bytes", "macs")}
    assert card["validation"] == int8["validation"]
    assert card["weights_blake2b"] == blake(student / "model.safetensors")
    assert {"accuracy", "log_loss", "clips", "top1_agreement"} <= set(card["validation"])
    assert bundle.front_end["clip_samples"] == 8000 and len(bundle.front_end["band_scale"]) == 32


def test_the_onnx_file_is_valid(student):
    model = onnx.load(student / "model-fp32.onnx")
    onnx.checker.check_model(model, full_check=True)


def test_the_runtimes_agree_on_validation_clips(student, validation):
    data = {name: (student / name).read_bytes() for name in FILES}
    int8, fp32 = load(student / "model-int8.tflite"), load(student / "model-fp32.tflite")
    details = int8.backend._input  # pyright: ignore[reportAttributeAccessIssue]
    for samples in validation[0]:
        mel = features(samples, int8.front_end)
        q = quantize(mel, details).transpose(1, 2, 0)[None]
        micro = run_tflm(data["model-int8.tflite"], q).astype(int)
        assert micro.shape == (1, 10)
        exact = run_litert(data["model-int8.tflite"], q, reference_kernels=True).astype(int)
        assert np.abs(exact - micro).max() <= 1
        # LiteRT's quick kernels (XNNPACK) round otherwise, by up to a step per operator.
        assert np.abs(run_litert(data["model-int8.tflite"], q).astype(int) - micro).max() <= 6
        x = features(samples, fp32.front_end).transpose(1, 2, 0)[None]
        lite = run_litert(data["model-fp32.tflite"], x)
        np.testing.assert_allclose(run_onnx(data["model-fp32.onnx"], x), lite, rtol=1e-3, atol=1e-4)


def evaluated(*args):
    return [json.loads(line) for line in tinyasc("evaluate", "--json", *args).stdout.splitlines()]


def test_evaluate_measures_what_compress_reported(folder, student):
    """From wav files through the runner, against what was measured on cached features while compressing."""
    report = {f["file"]: f for f in json.loads((student / "report.json").read_text())["files"]}
    teacher, fp32, int8 = evaluated("--split", "validation")
    assert [teacher["model"], fp32["model"], int8["model"]] == ["teacher", "model-fp32.tflite", "model-int8.tflite"]
    for record, tolerance in ((fp32, 1e-4), (int8, 1e-2)):
        entry = report[record["model"]]
        assert record["log_loss"] == pytest.approx(entry["validation"]["log_loss"], abs=tolerance)
        assert record["accuracy"] == pytest.approx(entry["validation"]["accuracy"], abs=tolerance + 1 / 30)
        for key in ("parameters", "parameter_bytes", "file_bytes", "macs"):
            assert record[key] == entry[key]
        assert record["synthetic"] is True and record["split"] == "validation"


def test_evaluate_measures_the_teacher_as_training_did(folder, teacher):
    (record,) = evaluated(teacher, "--split", "validation")
    kept = json.loads((teacher / "model.json").read_text())["validation"]
    assert record["accuracy"] == pytest.approx(kept["val_accuracy"])
    assert record["log_loss"] == pytest.approx(kept["val_log_loss"], abs=1e-4)


def test_evaluate_prints_a_table_of_the_test_clips(folder, student):
    result = tinyasc("evaluate")
    assert "Test, 90 clips of demo, synthetic scenes" in result.stdout
    assert "of 16384 bytes: met" in result.stdout
    assert "Accuracy by device" in result.stdout and "s4 (unseen)" in result.stdout and "mean, seen" in result.stdout
    assert "model-int8.tflite agrees with float32 in top-1 on" in result.stdout
    table = [[cell.strip() for cell in re.split("[┃│]", line)[1:-1]] for line in result.stdout.splitlines()]
    (headings,) = [cells for cells in table if "model" in cells]
    (int8,) = [dict(zip(headings, cells, strict=True)) for cells in table if cells[:1] == ["model-int8.tflite"]]
    entry = json.loads((student / "report.json").read_text())["files"][2]
    assert int8["parameters"] == f"{entry['parameters']:,}" and int8["file bytes"] == f"{entry['file_bytes']:,}"
    assert int8["scale bytes"] == f"{entry['quantization_bytes']:,}"
    assert int8["accuracy"].endswith(" %") and 0 < float(int8["log loss"]) < 3


def test_evaluate_of_a_lone_file(folder, student, tmp_path):
    lone = tmp_path / "m.tflite"
    shutil.copy(student / "model-int8.tflite", lone)
    assert "name it with --data and --root" in tinyasc("evaluate", lone, code=2).line
    (record,) = evaluated(lone, "--data", "demo", "--root", "scenes")
    assert record["clips"] == 90


def test_infer_takes_the_compressed_model(folder, student):
    result = tinyasc("infer", "clip.wav")
    assert f"model: runs/{student.name}/model-int8.tflite" in result.stderr
    assert result.stdout.startswith("clip.wav") and "%" in result.stdout
    (record,) = map(json.loads, tinyasc("infer", "--json", "clip.wav").stdout.splitlines())
    assert set(record["probabilities"]) == set(SCENES) and record["label"] in SCENES


def test_quantisation_aware_training_starts_from_the_trained_student(folder, student, tmp_path):
    run = shutil.copytree(student, tmp_path / "qat")
    options = ("--budget", "16KB", "--run", run, "--set", "qat.epochs=2", "--set", "qat.freeze_epochs=1")
    result = tinyasc("compress", *options)
    assert "of 16,384 bytes of parameters: met" in result.stdout
    after = tree(run)
    before = tree(student)
    assert after[str(run / "model.safetensors")] == before[str(student / "model.safetensors")]
    assert after[str(run / "model-int8.tflite")] != before[str(student / "model-int8.tflite")]
    assert after[str(run / "model-fp32.tflite")] == before[str(student / "model-fp32.tflite")]
    how = load(run / "model-int8.tflite").card["quantization"]
    assert how["qat_epochs"] == 2
    expected = {"precision": "int8", "epochs": 2, "lr": 1e-4, "freeze_epochs": 1, "temperature": 2.0}
    assert how["qat"] == expected and "qat" not in load(student / "model-int8.tflite").card["quantization"]
    tinyasc("compress", *options)
    assert tree(run)[str(run / "model-int8.tflite")] == after[str(run / "model-int8.tflite")]


def test_quantisation_aware_training_at_16_bits(folder, teacher, tmp_path):
    run = tmp_path / "qat16"
    options = ["--budget", "16KB", "--run", run, "--set", "qat={precision: int16x8, epochs: 1, freeze_epochs: 0}"]
    options += ["--teacher", teacher, "--set", "training.epochs=1"]
    refused = tinyasc("compress", *options, code=2)
    assert "hardswish" in refused.line and not run.exists()
    tinyasc("compress", *options, "--set", "model.attention_activation=relu")
    entries = {e["file"]: e for e in json.loads((run / "report.json").read_text())["files"]}
    assert entries["model-int16x8.tflite"]["validation"]["top1_agreement"] > 0.9
    assert load(run / "model-int16x8.tflite").card["quantization"]["qat_epochs"] == 1
    assert load(run / "model-int8.tflite").card["quantization"]["qat_epochs"] == 0
    written = (run / "model-int16x8.tflite").read_bytes()
    tinyasc("export", run, "--to", "tflite", "--precision", "int16x8", "-o", tmp_path / "again.tflite")
    assert load(tmp_path / "again.tflite").card["quantization"]["qat_epochs"] == 1
    assert constant_bytes((tmp_path / "again.tflite").read_bytes()) == constant_bytes(written)
    assert "int16x8" in tinyasc("profile", run / "model-int16x8.tflite").stdout


def test_compress_again_gives_the_same_bytes(folder, student):
    before = tree(student)
    tinyasc("compress", "--budget", "16384", "--run", student)  # the same budget in other words
    after = tree(student)
    plan = str(student / "plan.json")
    assert after.pop(plan) and before.pop(plan)
    changed = {Path(k).name for k in before if before[k] != after[k]}
    assert changed <= {"report.json", *FILES, *GRAPHS}, "the trained student is kept"
    tinyasc("compress", "--budget", "16KB", "--run", student)
    again = tree(student)
    again.pop(plan)
    assert again == before


def test_compress_elsewhere_gives_the_same_files(folder, teacher, student, tmp_path):
    tinyasc("compress", "--budget", "16KB", "--teacher", teacher, "--run", tmp_path / "other")
    for name in (*FILES, "model.safetensors", "report.json", answers(student)):
        assert blake(tmp_path / "other" / name) == blake(student / name), name


def killed_compress(folder, run, *options):
    """Starts `tinyasc compress` and kills it once its journal has two lines."""
    command = [sys.executable, "-m", "tinyasc.cli.main", "compress", "--budget", "16KB", "--run", str(run), *options]
    process = subprocess.Popen(command, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 200
    try:
        file = run / "metrics.jsonl"
        while not (file.is_file() and file.read_text().count("\n") >= 2):
            assert process.poll() is None, process.communicate()
            assert time.monotonic() < deadline
            time.sleep(0.005)
    finally:
        process.send_signal(signal.SIGKILL)
        process.communicate()


def test_a_killed_compress_resumes_to_the_same_bytes(folder, tmp_path):
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    options = ["--set", "training.epochs=6"]
    killed_compress(folder, killed, *options)
    assert not (killed / "model.json").exists() and not list(killed.glob("model-*"))
    (killed / answers(killed)).write_bytes(b"PK cut")  # computed again
    tinyasc("compress", "--budget", "16KB", "--run", whole, *options)
    tinyasc("compress", "--budget", "16KB", "--run", killed, *options)
    for name in (*FILES, "model.safetensors", "report.json", answers(whole)):
        assert blake(killed / name) == blake(whole / name), name
    assert not [p for p in killed.rglob(".*") if p.name != ".lock"]


def test_final_runs_say_that_nothing_was_held_out_to_validate(folder, tmp_path, monkeypatch):
    final = [part for one in ("final=true", "select=last", "epochs=2") for part in ("--set", f"training.{one}")]
    teacher, student = tmp_path / "teacher", tmp_path / "student"
    trained = tinyasc("train", "teacher.yaml", "--run", teacher, *final)
    assert "on training and validation clips, so without validation; training loss" in trained.stdout
    assert "val_accuracy" not in json.loads((teacher / "model.json").read_text())["validation"]
    done = tinyasc("compress", "--budget", "16KB", "--teacher", teacher, "--run", student, *final)
    assert "clips, which were trained on (synthetic" in done.stdout
    table = load_table("demo", "scenes")
    split = split_table(table)
    both = len(split.train) + len(split.validation)
    assert np.load(student / answers(student))["logits"].shape == (both, len(table.labels))
    assert load(student / FILES[0]).card["data"]["trained_on_validation_clips"] is True
    for run in (teacher, student):
        line = tinyasc("evaluate", run, "--split", "validation", code=2).line
        assert "was trained on the validation clips too" in line
    heard = []
    monkeypatch.setattr(measuring, "measure", lambda *a, **k: heard.append(k["heard"]) or measure(*a, **k))
    assert "Test, " in tinyasc("evaluate", teacher).stdout
    tinyasc("evaluate", student / FILES[0])
    assert heard == [{clip.device for clip in (*split.train, *split.validation)}] * 2
    # A record that lost its validation metrics is still damaged where there should be some.
    record = json.loads((teacher / "model.json").read_text())
    (teacher / "model.json").write_text(json.dumps(record | {"trained_on": ["train"]}))
    assert "its validation metrics are missing" in tinyasc("evaluate", teacher, code=2).line


def test_a_model_over_its_budget_is_kept_under_a_name_that_says_so(folder, student, tmp_path, monkeypatch):
    report = json.loads((student / "report.json").read_text())
    size = report["budget"]["parameter_bytes"]
    solve, limits = pipeline.solve, parse_limits(budget="16KB")
    monkeypatch.setattr(pipeline, "solve", lambda students, labels, _, *more: solve(students, labels, limits, *more))
    run = tmp_path / "over"
    quick = ("--set", "training.epochs=1")
    line = tinyasc("compress", "--budget", str(size - 1), "--run", run, *quick, code=1).line
    assert str(size) in line and str(size - 1) in line and "model-int8-over-budget.tflite" in line
    assert (run / "model-int8-over-budget.tflite").is_file() and not (run / "model-int8.tflite").exists()
    over = json.loads((run / "report.json").read_text())
    assert over["budget"]["met"] is False
    for entry in over["files"]:
        assert blake(run / entry["file"]) == entry["blake2b"]
    # Again: the same verdict, and exactly its own size is within the budget.
    tinyasc("compress", "--budget", str(size - 1), "--run", run, *quick, code=1)
    assert not (run / "model-int8.tflite").exists()
    tinyasc("compress", "--budget", str(size), "--run", tmp_path / "exact", *quick)


# --- what is refused ---


def test_compress_without_a_teacher(empty):
    assert "tinyasc train" in tinyasc("compress", code=2).line
    assert "no finished training" in tinyasc("compress", "--teacher", "nowhere", code=2).line
    Path("runs/x").mkdir(parents=True)
    Path("runs/x/recipe.yaml").write_text(yaml.safe_dump(TEACHER))
    assert "tinyasc train" in tinyasc("compress", code=2).line
    assert set(tree(empty)) == {str(empty / "runs/x/recipe.yaml")}


@pytest.mark.parametrize("text", ["", "KB", "-1KB", "0", "1e3", "nan", "128 XB", "0.3B", "9" * 400])
def test_nonsense_budgets(folder, text):
    before = tree(folder)
    line = tinyasc("compress", "--budget", text, code=2).line
    assert "budget" in line
    assert tree(folder) == before


@pytest.mark.parametrize("text", ["1KB", "1", "500B"])
def test_an_impossible_budget_trains_and_writes_nothing(folder, text):
    before = tree(folder)
    line = tinyasc("compress", "--budget", text, code=2).line
    assert "cannot be met" in line
    assert tree(folder) == before
    assert not [p for p in (folder / "runs").iterdir() if f"-{text}-" in p.name]


def test_a_run_folder_is_not_used_twice(folder, teacher, student):
    before = tree(folder)
    assert "another compression" in tinyasc("compress", "--budget", "12KB", "--run", student, code=2).line
    assert "holds a training run" in tinyasc("compress", "--budget", "16KB", "--run", teacher, code=2).line
    line = tinyasc("train", "teacher.yaml", "--set", "training.seed=1", "--run", teacher, code=2).line
    assert "another recipe" in line
    assert tree(folder) == before


def test_a_damaged_plan(folder, student, tmp_path):
    run = shutil.copytree(student, tmp_path / "copy")
    (run / "plan.json").write_text("{")
    assert "plan.json: damaged" in tinyasc("compress", "--budget", "16KB", "--run", run, code=2).line


@pytest.mark.parametrize("name", ["plan.json", "model-int8.tflite", "model-fp32.tflite", "model.json"])
@pytest.mark.parametrize("content", [None, b"", b"{}", b"\x00\xff" * 50], ids=["gone", "empty", "object", "noise"])
def test_evaluate_of_a_damaged_run(folder, student, tmp_path, name, content):
    run = shutil.copytree(student, tmp_path / "copy")
    (run / name).unlink() if content is None else (run / name).write_bytes(content)
    tinyasc("evaluate", run, code=2)


def test_a_teacher_is_no_student(folder):
    before = tree(folder)
    assert "cannot be a student" in tinyasc("compress", "--student", "teacher.yaml", code=2).line
    assert "no such recipe" in tinyasc("compress", "--student", "nobody.yaml", code=2).line
    assert tree(folder) == before


@pytest.mark.parametrize("recipe", ["students/demo", "student.yaml"])
def test_train_refuses_a_students_recipe(folder, recipe):
    assert "compress --student" in tinyasc("train", recipe, code=2).line
    assert "compress --student" in tinyasc("train", recipe, "--data", "demo", "--root", "scenes", code=2).line


def test_train_of_a_student_with_all_parts_asks_for_a_teacher(folder):
    options = ["--data", "demo", "--root", "scenes"]
    options += [o for key, value in FRONT_END.items() for o in ("--set", f"front_end.{key}={value}")]
    assert "distils from a teacher" in tinyasc("train", "student.yaml", *options, code=2).line


@pytest.mark.parametrize("name", ["esc10", "esc50", "tau2020"])
def test_a_missing_data_set(empty, name):
    assert "name its folder with --root" in tinyasc("train", "--data", name, code=2).line
    assert "is not there" in tinyasc("train", "--data", name, "--root", "nowhere", code=2).line
    Path("void").mkdir()
    assert "void/meta" in tinyasc("train", "--data", name, "--root", "void", code=2).line


def test_two_data_sets(folder):
    line = tinyasc("train", "teacher.yaml", "--data", "esc10", "--set", "data.name=tau2020", code=2).line
    assert line == "--data esc10: --set data.name=tau2020 names another; leave one of them out"


def test_an_unknown_data_set(empty):
    assert "did you mean 'esc10'" in tinyasc("train", "--data", "esc11", "--root", ".", code=2).line


@pytest.mark.parametrize("command", ["train", "compress", "evaluate"])
def test_a_root_that_is_a_file(folder, command):
    line = tinyasc(command, "--root", "clip.wav", code=2).line
    assert "clip.wav" in line and "is a file" in line


def test_a_root_that_holds_something_else(folder):
    before = tree("runs")
    line = tinyasc("train", "teacher.yaml", "--root", "runs", "--run", "elsewhere", code=2).line
    assert "not synthetic scenes" in line
    assert tree("runs") == before


@pytest.fixture
def scenes(place, tmp_path):
    return Path(shutil.copytree(place[0] / "scenes", tmp_path / "scenes"))


def damage(file, kind):
    if kind == "cut":
        file.write_bytes(file.read_bytes()[:1000])
    elif kind == "text":
        file.write_text("this is no sound")
    elif kind == "empty":
        file.write_bytes(b"")
    elif kind == "missing":
        file.unlink()
    else:
        samples = np.zeros(8000, np.float32)
        samples[100] = {"nan": np.nan, "infinite": np.inf}[kind]
        soundfile.write(file, samples, 16000, "FLOAT")


@pytest.mark.parametrize("kind", ["cut", "text", "empty", "missing", "nan", "infinite"])
def test_a_bad_clip_in_the_data_set(folder, scenes, tmp_path, student, kind):
    split = split_table(load_table("demo", scenes))
    for clips in (split.train, split.validation):
        damage(clips[1].path, kind)
    line = tinyasc("train", "teacher.yaml", "--root", scenes, "--run", tmp_path / "run", code=2).line
    for clips in (split.train, split.validation):
        assert clips[1].path.name in line
    assert not (tmp_path / "run/metrics.jsonl").exists()
    if kind != "missing":
        line = tinyasc("evaluate", student, "--root", scenes, "--split", "validation", code=2).line
        assert split.validation[1].path.name in line
        # Test clips are not read by training.
        assert tinyasc("evaluate", student, "--root", scenes)


def test_mended_clips_are_read_again(folder, scenes, tmp_path):
    clip = split_table(load_table("demo", scenes)).train[0].path
    good = clip.read_bytes()
    damage(clip, "cut")
    command = ("train", "teacher.yaml", "--root", scenes, "--run", tmp_path / "run")
    tinyasc(*command, code=2)
    clip.write_bytes(good)
    tinyasc(*command)


def test_evaluate_refuses_other_labels(folder, scenes, student):
    for file in (scenes / "meta.csv", *(scenes / "evaluation_setup").glob("*.csv")):
        file.write_text(file.read_text().replace("\tbus", "\tboat"))
    line = tinyasc("evaluate", student, "--root", scenes, code=2).line
    assert "labels are not those of data set demo" in line


def test_compress_refuses_other_labels(folder, scenes, tmp_path):
    for file in (scenes / "meta.csv", *(scenes / "evaluation_setup").glob("*.csv")):
        file.write_text(file.read_text().replace("\tbus", "\tboat"))
    line = tinyasc("compress", "--budget", "16KB", "--root", scenes, "--run", tmp_path / "r", code=2).line
    assert "the teacher knows 10 labels" in line


def test_data_that_moved_needs_no_new_run(folder, scenes, teacher):
    result = tinyasc("train", "teacher.yaml", "--root", scenes)
    assert f"run: runs/{teacher.name} (finished before)" in result.stderr


@pytest.mark.parametrize(
    ("text", "words"),
    [("", "YAML mapping"), ("a: [", "not YAML"), ("name: x\nmodel: {family: nope}", "front end")],
)
def test_bad_recipes(empty, text, words):
    Path("r.yaml").write_text(text)
    assert words in tinyasc("train", "r.yaml", code=2).line
    assert not Path("runs").exists()


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("training.epoch=3", "did you mean 'epochs'"),
        ("model.base_chanels=3", "base_chanels"),
        ("model.base_channels=0", "base_channels"),
        ("model.base_channels=-4", "base_channels"),
        ("model.base_channels=x", "base_channels"),
        ("model.trunk=tree", "tree"),
        ("model.family=cnn", "'cnn' is unknown"),
        ("front_end.n_fft=16000", "clip_samples must hold one FFT"),
        ("front_end.fmax=9000", "fmax"),
        ("front_end.n_mels=8", "8 mels"),
        ("data.test_fold=2", "no test fold 2"),
        ("data.validation_fold=1", "validation"),
    ],
)
def test_bad_values(folder, tmp_path, override, words):
    assert words in tinyasc("train", "teacher.yaml", "--set", override, "--run", tmp_path / "r", code=2).line


@pytest.mark.parametrize("override", ["qat.epochs=3", "calibration=minmax", "qat={epochs: 3}"])
def test_train_refuses_settings_of_compress(folder, override):
    before = tree(folder)
    line = tinyasc("train", "teacher.yaml", "--set", override, code=2).line
    assert f"--set {override}" in line and "tinyasc compress" in line
    assert tree(folder) == before


def test_train_takes_a_recipe_that_carries_them(folder, tmp_path):
    """As those of runs do, and a student's that is trained without a teacher."""
    both = TEACHER | {"qat": {"epochs": 3}, "calibration": "minmax"}
    (tmp_path / "both.yaml").write_text(yaml.safe_dump(both))
    result = tinyasc("train", tmp_path / "both.yaml")
    assert "finished before" in result.stderr


def test_train_list(empty):
    """A line for every recipe: family, parameters (a student's at 64 mels), quick variant, published figure."""
    lines = [re.split(r"\s*│\s*", line)[1:-1] for line in tinyasc("train", "--list").stdout.splitlines() if "│" in line]
    rows = {name: cells for name, *cells in lines}
    assert list(rows) == shipped_recipes()
    family, parameters, fast, published = rows["students/sepconv_ca"]
    assert (family, parameters, fast) == ("sepconv_ca", "75,178", "--fast") and published.startswith("60.3 %")
    assert rows["teachers/split_resnet"][:3] == ["split_resnet", "3,247,416", "--fast"]
    assert rows["teachers/demo"][2] == ""
    assert not tree(empty)


def test_train_list_in_a_narrow_terminal_keeps_the_names(empty, monkeypatch):
    monkeypatch.setattr("tinyasc.cli.table.WIDTH", 60)
    shown = tinyasc("train", "--list").stdout
    assert all(name in shown for name in shipped_recipes())


def test_data_check(folder):
    result = tinyasc("data", "check", "demo", "--root", "scenes")
    assert "demo (synthetic): 210 clips, 10 labels" in result.stdout
    assert [line.split()[0] for line in result.stdout.splitlines()[1:4]] == ["train", "validation", "test"]
    assert "devices that only the test clips have: s4, s5, s6" in result.stdout
