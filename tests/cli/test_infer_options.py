"""`tinyasc infer`: backends, test-time copies and windows as options."""

import json

import pytest
import soundfile
import tiny_models as tiny
from click.testing import CliRunner

from tinyasc.cli.main import cli
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
        (("--backend", "c"), "'c' is not one of 'auto', 'litert', 'onnx', 'reference'"),
        (("--backend", "onnx"), "is a .tflite file, and backend onnx takes .onnx"),
        (("--backend", "litert", "--model", "runs/first/graph-int8.npz"), "backend litert takes .tflite"),
    ):
        result = infer(*args, "low.wav", code=2)
        line = result.stderr.splitlines()[-1]
        assert line.startswith("error: ") and says in line and result.stdout == ""
