"""The three commands as a new user types them, in an empty folder, on the full synthetic demo."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest


def tinyasc(*arguments: str, cwd: Path) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "tinyasc.cli.main", *arguments],
        cwd=cwd,
        env={k: v for k, v in os.environ.items() if not k.startswith("TINYASC_")},
        capture_output=True,
        text=True,
        timeout=900,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_train_compress_infer_in_an_empty_folder(tmp_path: Path) -> None:
    tinyasc("train", cwd=tmp_path)
    assert (tmp_path / "clip.wav").is_file()
    tinyasc("compress", "--budget", "128KB", cwd=tmp_path)
    answer = json.loads(tinyasc("infer", "clip.wav", "--json", cwd=tmp_path))
    assert answer["label"] == max(answer["probabilities"], key=answer["probabilities"].get)

    scores = {r["model"]: r for r in map(json.loads, tinyasc("evaluate", "--json", cwd=tmp_path).splitlines())}
    assert scores["teacher"]["clips"] == 360
    assert scores["teacher"]["accuracy"] >= 0.90
    fp32, int8 = scores["model-fp32.tflite"], scores["model-int8.tflite"]
    assert int8["accuracy"] >= 0.90
    assert abs(int8["log_loss"] - fp32["log_loss"]) <= 0.03
    (file,) = tmp_path.glob("runs/*/model-int8.tflite")
    assert int8["file_bytes"] == file.stat().st_size

    report = json.loads((file.parent / "report.json").read_text())
    assert report["budget"]["met"] and report["budget"]["parameter_bytes"] <= 131072
    assert report["budget"]["parameter_bytes"] == constant_bytes(file.read_bytes())


def constant_bytes(data: bytes) -> int:
    """Bytes of every constant of a .tflite file, read with TensorFlow's own schema, shape operands left out."""
    from ai_edge_litert import schema_py_generated as schema

    model = schema.ModelT.InitFromObj(schema.Model.GetRootAs(data))
    (graph,) = model.subgraphs
    total = 0
    for tensor in graph.tensors:
        content = model.buffers[tensor.buffer].data
        shape_operand = tensor.type == schema.TensorType.INT32 and not tensor.quantization
        if content is not None and len(content) and not shape_operand:
            total += int(np.asarray(content).nbytes)
    return total
