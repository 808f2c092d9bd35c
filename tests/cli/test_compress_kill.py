"""`tinyasc compress` killed at ten moments of its work, and run again: the same bytes as when it is left alone."""

from __future__ import annotations

import hashlib
import json
import os
import random
import re
import signal
import subprocess
import sys
import time
from bisect import bisect
from itertools import accumulate

import pytest
import yaml

from tinyasc.data.scenes import write_scenes

KILLS = 10
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
    "training": {"epochs": 12, "batch_size": 16, "lr": 0.01},
    "augment": {"roll": True, "freq_mask": 8, "mixup_alpha": 0.3},
    "distill": {},
    "qat": {"epochs": 5, "freeze_epochs": 1},
}
# Times, and what the run folder is called, are all that may differ.
TIMED = {".lock", "stages.jsonl", "metrics.jsonl"}


def start(folder, run):
    command = [sys.executable, "-m", "tinyasc.cli.main", "compress", "--budget", "16KB", "--teacher", "runs/teacher"]
    return subprocess.Popen(
        [*command, "--also", "int16x8", "--run", run],
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )


def finish(folder, run):
    """Runs the command to its end; what it said."""
    process = start(folder, run)
    said, _ = process.communicate(timeout=200)
    assert process.returncode == 0, said
    return said


def left(run):
    """Every file but times, by its name inside the run: hashes; checkpoints and the journal hold times."""
    files = [p for p in sorted(run.rglob("*")) if p.is_file() and p.name not in TIMED and p.suffix != ".ckpt"]
    return {str(p.relative_to(run)): hashlib.sha256(p.read_bytes()).hexdigest() for p in files}


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_ten_kills_leave_the_same_bytes(tmp_path):
    write_scenes(tmp_path / "scenes", clips_per_scene=12, seconds=0.5)
    (tmp_path / "teacher.yaml").write_text(yaml.safe_dump(TEACHER))
    (tmp_path / "student.yaml").write_text(yaml.safe_dump(STUDENT))
    train = [sys.executable, "-m", "tinyasc.cli.main", "train", "teacher.yaml", "--run", "runs/teacher"]
    subprocess.run(train, cwd=tmp_path, check=True, capture_output=True, timeout=200)
    finish(tmp_path, "runs/whole")
    whole = left(tmp_path / "runs/whole")
    assert {"report.json", "model-int8.tflite", "model-int16x8.tflite", "model-fp32.onnx"} <= set(whole)
    assert {"graph-fp32.npz", "graph-int8.npz", "graph-int16x8.npz", "model.json"} <= set(whole)
    stages = [json.loads(s) for s in (tmp_path / "runs/whole/stages.jsonl").read_text().splitlines()]
    assert "qat int8" in [stage["stage"] for stage in stages]
    # Before its second stage the command has written nothing.
    names, seconds = [stage["stage"] for stage in stages], [stage["seconds"] for stage in stages]
    ends = list(accumulate(seconds[1:]))
    rng, outcomes = random.Random(0), []
    for i in range(KILLS):
        run = tmp_path / f"runs/killed-{i}"
        process = start(tmp_path, str(run.relative_to(tmp_path)))
        assert process.stdout is not None
        # A moment of the whole run's work, from the start of its stage on: other work may slow this run down.
        moment = ends[-1] * rng.uniform(i, i + 1) / KILLS
        stage = bisect(ends, moment)
        next(line for line in process.stdout if re.fullmatch(rf"{names[stage]}: [\d.]+ s\n", line))
        time.sleep(moment - (ends[stage - 1] if stage else 0))
        ended = process.poll() is not None
        process.send_signal(signal.SIGKILL)
        process.communicate()
        found = sorted({p.name for p in run.glob("*") if p.is_file()}) if run.exists() else []
        said = finish(tmp_path, str(run.relative_to(tmp_path)))
        outcomes.append((ended, found, said.count(": kept")))
        assert left(run) == whole, outcomes[-1]
    print(*outcomes, sep="\n")
    # On a machine that other work slows down and lets go, the last moments may come too late.
    assert sum(ended for ended, _, _ in outcomes) <= KILLS // 2, "moments lie within the work"
    # Kills fell into several stages: some runs kept nothing, some their student, some more.
    assert len({kept for _, _, kept in outcomes}) >= 3, outcomes
