"""`tinyasc infer`: backends, test-time copies and windows as options."""

import json
from pathlib import Path

import c_folders
import numpy as np
import pytest
import soundfile
import tiny_models as tiny
from click.testing import CliRunner

from tinyasc.cli.infer import as_text
from tinyasc.cli.main import cli
from tinyasc.errors import TinyascError
from tinyasc.infer.c_library import find_compiler
from tinyasc.infer.runner import Prediction
from tinyasc_export.graphfile import save_graph


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A working folder with a compressed model, its graph, and a clip of each tone."""
    run = tmp_path / "runs" / "first"
    run.mkdir(parents=True)
    about = {"precision": "int8", "counts": {"macs": 36}}
    (run / "model-int8.tflite").write_bytes(tiny.tflite_int8(**about))
    (run / "graph-int8.npz").write_bytes(save_graph(tiny.int8_graph(), tiny.bundle(**about)))
    (run / "model-fp32.onnx").write_bytes(tiny.onnx())
    for label in tiny.LABELS:
        soundfile.write(tmp_path / f"{label}.wav", tiny.tone(label), tiny.RATE, "FLOAT")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def infer(*args, code=0):
    result = CliRunner().invoke(cli, ["infer", *map(str, args)])
    print(result.output)
    assert result.exit_code == code
    assert result.exception is None or isinstance(result.exception, SystemExit)
    return result


def record(*args):
    (line,) = infer("--json", *args).stdout.splitlines()
    return json.loads(line)


def test_the_reference_answers_for_the_newest_model(folder):
    quick, exact = record("low.wav"), record("--backend", "reference", "low.wav")
    assert quick["label"] == exact["label"] == "low"
    assert exact["model"] == quick["model"] == "runs/first/model-int8.tflite"
    assert exact["probabilities"] == pytest.approx(quick["probabilities"], abs=0.02)
    graph = record("--model", "runs/first/graph-int8.npz", "low.wav")
    assert graph["probabilities"] == exact["probabilities"]


def test_backends_that_cannot_be_are_one_line(folder):
    for args, says in (
        (("--backend", "cc"), "'cc' is not one of 'auto', 'litert', 'onnx', 'reference', 'c'"),
        (("--backend", "c"), "is a .tflite file, and backend c takes a folder of C"),
        (("--arithmetic", "device", "--model", "runs/first/model-fp32.onnx"), "and this model takes float32"),
        (("--backend", "onnx"), "is a .tflite file, and backend onnx takes .onnx"),
        (("--backend", "litert", "--model", "runs/first/graph-int8.npz"), "backend litert takes .tflite"),
    ):
        result = infer(*args, "low.wav", code=2)
        line = result.stderr.splitlines()[-1]
        assert line.startswith("error: ") and says in line and result.stdout == ""


def test_exact_is_refused_where_it_would_change_nothing(folder):
    (folder / "fp32.tflite").write_bytes(tiny.tflite())
    for name in ("runs/first/model-fp32.onnx", "fp32.tflite"):
        result = infer("--exact", "--model", name, "low.wav", code=2)
        assert result.stderr == f"error: {name}: --exact is for .tflite models of integers, and this one takes floats\n"
    quick, exact = record("low.wav"), record("--exact", "low.wav")
    assert exact["probabilities"] == pytest.approx(quick["probabilities"], abs=0.02)


def test_copies_and_their_cost_are_told(folder):
    head = infer("--tta", 5, "--all-copies", "low.wav").stdout.splitlines()[0]
    assert head.startswith("low.wav  (5 copies, mean of 5 windows, 180 MAC, ") and head.endswith(" ms)")
    early = record("--tta", 5, "low.wav")
    assert early["tta"] < early["tta_planned"] == 5 and early["macs"] == 36 * early["windows"] == 36 * early["tta"]
    head = infer("--tta", 5, "low.wav").stdout.splitlines()[0]
    assert head.startswith(f"low.wav  ({early['tta']} of 5 copies, mean of {early['windows']} windows, ")
    assert infer("low.wav").stdout.splitlines()[0] == "low.wav"


def test_presets_and_changes_of_copies(folder):
    thirty = record("--tta", "s4-30", "--all-copies", "high.wav")
    assert (thirty["tta"], thirty["label"]) == (30, "high")
    soundfile.write("long.wav", tiny.tone("middle", 20000), tiny.RATE)
    three = record("--tta", "s2-3crop", "--all-copies", "long.wav")
    assert (three["tta"], three["windows"], three["label"]) == (3, 3, "middle")
    masked = record("--tta", "4:mean-mask,gain+roll", "--all-copies", "high.wav")
    rolled = record("--tta", 4, "--all-copies", "high.wav")
    assert masked["tta"] == rolled["tta"] == 4 and masked["probabilities"] != rolled["probabilities"]


def test_windows_are_hopped_and_joined_as_asked(folder):
    soundfile.write("long.wav", tiny.tone("low", 5 * 4096), tiny.RATE)
    assert record("long.wav")["windows"] == 9
    assert record("--window-hop", 0.512, "long.wav")["windows"] == 5
    voted = record("--window-hop", 0.1, "--aggregate", "vote", "long.wav")
    assert voted["probabilities"] == {"low": 1, "middle": 0, "high": 0}
    head = infer("--aggregate", "max", "long.wav").stdout.splitlines()[0]
    assert head.startswith("long.wav  (max of 9 windows, 324 MAC, ")


@pytest.mark.parametrize(
    "args",
    [
        ("--tta", "s5"),
        ("--tta", "s4-30:roll"),
        ("--tta", "3:twist"),
        ("--window-hop", 0),
        ("--window-hop", "nan"),
        ("--window-hop", "1e308"),
        ("--window-hop", "soon"),
        ("--aggregate", "median"),
    ],
)
def test_nonsense_is_one_line(folder, args):
    (line,) = infer(*args, "low.wav", code=2).stderr.splitlines()
    assert line.startswith("error: ") and "tinyasc infer --help" in line


@pytest.mark.parametrize(
    ("macs", "text"),
    [(180, "180 MAC"), (99_999, "99,999 MAC"), (32_474_896, "32.5 MMAC"), (23_480_000_000, "23.5 GMAC")],
)
def test_costs_are_told_in_readable_units(macs, text):
    answer = Prediction(("a", "b"), np.array([0.75, 0.25]), 2, 2, 2, macs)
    assert (
        as_text(Path("x.wav"), answer, 1, 7.4).splitlines()[0] == f"x.wav  (2 copies, mean of 2 windows, {text}, 7 ms)"
    )


def test_a_folder_of_c_answers_with_the_reference_s_bits(folder, monkeypatch):
    try:
        find_compiler()
    except TinyascError as error:
        pytest.skip(str(error))
    monkeypatch.setenv("TINYASC_CACHE", str(folder / "cache"))
    c_folders.write(folder / "scenes")
    before = sorted(path.name for path in (folder / "scenes").iterdir())
    for arithmetic in ("reference", "device"):
        here = record("--backend", "c", "--arithmetic", arithmetic, "--model", "scenes", "middle.wav")
        there = record("--backend", "reference", "--arithmetic", arithmetic, "middle.wav")
        assert here["probabilities"] == there["probabilities"] and here["label"] == "middle"
    assert record("--model", "scenes", "middle.wav")["label"] == "middle"  # auto
    assert sorted(path.name for path in (folder / "scenes").iterdir()) == before
    # Rows say which arithmetic gave them, and nothing where it is the record's.
    infer("--model", "scenes", "--out", "a.csv", "low.wav", "high.wav")
    assert "arithmetic" not in (folder / "a.csv").read_text()
    assert "2 of them from before" in infer("--model", "scenes", "--out", "a.csv", "low.wav", "high.wav").stdout
    infer("--model", "scenes", "--out", "b.csv", "--arithmetic", "fixed", "low.wav")
    assert "arithmetic=fixed" in (folder / "b.csv").read_text()
    assert "give the same options" in infer("--model", "scenes", "--out", "b.csv", "low.wav", code=2).stderr


def test_listen_takes_a_folder_of_c(folder, monkeypatch):
    try:
        find_compiler()
    except TinyascError as error:
        pytest.skip(str(error))
    monkeypatch.setenv("TINYASC_CACHE", str(folder / "cache"))
    c_folders.write(folder / "scenes")
    pcm = np.round(32767 * tiny.tone("high", 3 * 4096)).astype("<i2").tobytes()
    args = ["listen", "-", "--json", "--hop", "0.512", "--smooth", "1"]
    how = {"--model": "scenes", "--backend": "c", "--arithmetic": "device"}
    result = CliRunner().invoke(cli, [*args, *(word for pair in how.items() for word in pair)], input=pcm)
    assert result.exit_code == 0, result.output
    rows = [json.loads(line) for line in result.stdout.splitlines()]
    windows = [row for row in rows if "probabilities" in row]
    assert len(windows) == 3 and {row["label"] for row in windows} == {"high"}
