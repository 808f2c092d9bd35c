"""The wheel in an environment of its bare dependencies names a clip, and its workshop half says what it lacks."""

import json
import subprocess
import sys
import venv
from pathlib import Path

import pytest
import soundfile

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(Path(__file__).parent / "infer"))
HEAVY = {
    "torch",
    "lightning",
    "librosa",
    "scipy",
    "matplotlib",
    "rich",
    "pydantic",
    "onnx",
    "onnxruntime",
    "scikit-learn",
}


def run(*command: str | Path, cwd: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([str(c) for c in command], cwd=cwd, capture_output=True, text=True, timeout=600)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_wheel_answers_in_a_bare_environment(tmp_path: Path) -> None:
    from tiny_models import RATE, tflite_int8, tone

    built = run(sys.executable, "-m", "pip", "wheel", "--no-deps", "-w", tmp_path / "dist", ROOT, cwd=tmp_path)
    assert built.returncode == 0, built.stderr
    (wheel,) = (tmp_path / "dist").glob("tinyasc-*.whl")
    venv.create(tmp_path / "bare", with_pip=True)
    python = tmp_path / "bare" / "bin" / "python"
    installed = run(python, "-m", "pip", "install", "-q", "-c", ROOT / "constraints.txt", wheel, cwd=tmp_path)
    assert installed.returncode == 0, installed.stderr
    listed = json.loads(run(python, "-m", "pip", "list", "--format", "json", cwd=tmp_path).stdout)
    assert not HEAVY & {p["name"].lower() for p in listed}

    (tmp_path / "m.tflite").write_bytes(tflite_int8())
    soundfile.write(tmp_path / "clip.wav", tone("high"), RATE)
    tinyasc = tmp_path / "bare" / "bin" / "tinyasc"
    answer = run(tinyasc, "infer", "clip.wav", "--model", "m.tflite", "--json", cwd=tmp_path)
    assert answer.returncode == 0, answer.stderr
    record = json.loads(answer.stdout)
    assert record["label"] == "high"

    bundled = run(tinyasc, "infer", "clip.wav", "--json", cwd=tmp_path)
    assert bundled.returncode == 0, bundled.stderr
    assert "esc10-int8.tflite (comes with tinyasc" in bundled.stderr
    assert len(json.loads(bundled.stdout)["probabilities"]) == 10
    file = next((tmp_path / "bare").rglob("esc10-int8.tflite"))
    assert file.with_name("ATTRIBUTION.md").is_file()  # to which the card points
    card = run(tinyasc, "show", file, cwd=tmp_path)
    assert card.returncode == 0, card.stderr
    shown = " ".join(card.stdout.split())
    assert "five official folds" in shown and "Piczak" in shown and "CC BY 3.0" in shown

    refused = run(tinyasc, "train", cwd=tmp_path)
    assert refused.returncode == 1
    assert refused.stderr.startswith("error:") and "tinyasc[train]" in refused.stderr
    assert "Traceback" not in refused.stderr
