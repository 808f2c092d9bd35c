"""The three commands as a new user types them, in an empty folder, on the full synthetic demo."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

README = Path(__file__).parents[1] / "README.md"
# What training decides, and the length of the card that says so: everything else is the same on every machine.
MEASURED = re.compile(r"(?<![\w.])[+-]?\d+\.\d+|(?<=file )[\d,]+|[█▏▎▍▌▋▊▉]+|(?<=: temperature ).*")
OTHER_CLASSES = re.compile(r"^  \w+ +# % *#?$")


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
    printed = "$ tinyasc train\n" + tinyasc("train", cwd=tmp_path)
    assert (tmp_path / "clip.wav").is_file()
    printed += "$ tinyasc compress --budget 128KB\n" + tinyasc("compress", "--budget", "128KB", cwd=tmp_path)
    printed += "$ tinyasc infer clip.wav\n" + tinyasc("infer", "clip.wav", cwd=tmp_path)
    assert without_scores(printed) == without_scores(first_screen())
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


def first_screen() -> str:
    """What the README's first screen says that the commands print."""
    shown = re.search(r"^```console\n(.*?)^```$", README.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
    assert shown is not None
    return shown[1]


def without_scores(text: str) -> list[str]:
    """The lines with # for all that was measured; of the classes of a clip the likeliest alone keeps its name."""
    lines = [MEASURED.sub("#", line).rstrip() for line in text.splitlines()]
    clip = lines.index("clip.wav")
    assert all(OTHER_CLASSES.match(line) for line in lines[clip + 1 :]), lines
    assert len(lines) == clip + 4
    return lines[: clip + 2]


def test_what_the_first_screen_may_differ_in() -> None:
    lines = first_screen().splitlines()
    masked = without_scores(first_screen())
    assert len(masked) == len(lines) - 2
    assert [line for line in masked if line.startswith("$")] == [
        "$ tinyasc train",
        "$ tinyasc compress --budget 128KB",
        "$ tinyasc infer clip.wav",
    ]
    (budget,) = [line for line in masked if "bytes of parameters" in line]
    assert re.fullmatch(r"int8: [\d,]+ of 131,072 bytes of parameters: met; file # bytes, # MMAC per clip", budget)
    assert masked[-1].split() == ["airport", "#", "%", "#"]


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
