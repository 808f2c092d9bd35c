"""From the start of a process to a clip's answer, beside the least that the runtime takes and the usual way; and the
bytes of a bare install.

    python tests/bench/startup.py time MODEL.tflite CLIP [--rounds N]
    python tests/bench/startup.py size

`time` runs three commands in turn, N rounds (21 unless said otherwise), after one round that is not counted, and prints
medians with quartiles of wall time and of processor time. Bytecode is cached, as after any installation, also where
PYTHONDONTWRITEBYTECODE is set, which would have a checkout compiled anew by every process:

* `tinyasc infer`, as a user types it, with the model's front end;
* a script that imports numpy and LiteRT and does nothing;
* a script that does the same work with librosa and torch: reads the clip, log-mel of the same front end, one pass of a
  small separable CNN of random weights in torch, softmax. Every process imports anew; librosa's compiled code stays
  cached on disk.

`size` builds the wheel, installs it with its bare dependencies into a fresh environment, and prints the bytes of every
distribution by its own list of files, without compiled bytecode. Needs a package index.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
import venv
from pathlib import Path

from tinyasc.infer.about import read_about

ROOT = Path(__file__).parents[2]
LEAST = "import numpy\nfrom ai_edge_litert.interpreter import Interpreter\n"
USUAL = """
import json, sys
import librosa, numpy, torch
f, clip = json.loads(sys.argv[1]), sys.argv[2]
samples, _ = librosa.load(clip, sr=f["sample_rate"], mono=True)
samples = librosa.util.fix_length(samples, size=f["clip_samples"])
power = librosa.feature.melspectrogram(
    y=samples, sr=f["sample_rate"], n_fft=f["n_fft"], win_length=f["win_length"], hop_length=f["hop_length"],
    center=f["center"], n_mels=f["n_mels"], fmin=f["fmin"], fmax=f["fmax"])
mel = torch.from_numpy(librosa.power_to_db(power, top_db=None)).float()[None, None]
def block(a, b):
    return [torch.nn.Conv2d(a, a, 3, padding=1, groups=a), torch.nn.Conv2d(a, b, 1), torch.nn.BatchNorm2d(b),
            torch.nn.ReLU()]
net = torch.nn.Sequential(
    torch.nn.Conv2d(1, 32, 3, stride=2, padding=1), *block(32, 64), *block(64, 64), *block(64, 64),
    torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten(), torch.nn.Linear(64, 10)).eval()
with torch.inference_mode():
    print(json.dumps(torch.softmax(net(mel), 1)[0].tolist()))
"""
INFER = "from tinyasc.cli.main import main\nmain()\n"  # what the console script holds
# numpy is there on every board that runs Python on sound; pip comes with the environment.
BESIDE = ("numpy", "pip", "setuptools")


def measure(model: Path, clip: Path, rounds: int) -> None:
    """Prints the three times and their ratios."""
    about = read_about(model)
    assert about.bundle is not None, f"{model} has no card"
    front_end = {k: v for k, v in about.bundle.front_end.items() if not isinstance(v, list)}
    commands = {
        "tinyasc infer": [sys.executable, "-c", INFER, "infer", "--model", str(model), str(clip)],
        "numpy and LiteRT imported": [sys.executable, "-c", LEAST],
        "librosa and torch": [sys.executable, "-c", USUAL, json.dumps(front_end), str(clip)],
    }
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in commands}
    for turn in range(rounds + 1):
        for name, command in commands.items():
            wall, processor = timed(command)
            if turn:
                times[name].append((wall, processor))
    print(f"{rounds} rounds, load of the machine {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores at the end")
    for name, found in times.items():
        for kind, values in zip(("wall", "processor"), zip(*found, strict=True), strict=True):
            low, middle, high = statistics.quantiles(values, n=4)
            print(f"{name}: {kind} {middle:.3f} s (quartiles {low:.3f} to {high:.3f})")
    ours, least, usual = times.values()
    for i, kind in enumerate(("wall", "processor")):
        medians = [statistics.median(t[i] for t in found) for found in (ours, least, usual)]
        print(
            f"{kind}: infer takes {medians[0] / medians[1]:.2f} times the imports (mark: at most 2); librosa and "
            f"torch take {medians[2] / medians[0]:.1f} times as long as infer (mark: at least 15)"
        )


def timed(command: list[str]) -> tuple[float, float]:
    """Wall and processor seconds of one process, its children included."""
    before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    done = subprocess.run(command, capture_output=True, text=True, env=CACHING)
    wall, after = time.perf_counter() - start, resource.getrusage(resource.RUSAGE_CHILDREN)
    if done.returncode:
        sys.exit(f"{command[2][:40]!r} failed: {done.stderr.strip()}")
    return wall, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def size() -> None:
    """Prints the bytes of a bare install."""
    with tempfile.TemporaryDirectory() as folder:
        run(sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "-w", folder, ROOT)
        (wheel,) = Path(folder).glob("tinyasc-*.whl")
        venv.create(Path(folder) / "bare", with_pip=True)
        python = Path(folder) / "bare/bin/python"
        run(python, "-m", "pip", "install", "-q", "--no-compile", "-c", ROOT / "constraints.txt", wheel)
        sizes = json.loads(run(python, "-c", LISTED))
    for name, count in sorted(sizes.items(), key=lambda item: -item[1]):
        print(f"{name}: {count:,} bytes{' (not counted)' if name in BESIDE else ''}")
    total = sum(count for name, count in sizes.items() if name not in BESIDE)
    print(f"beside numpy: {total:,} bytes (mark: at most 100,000,000)")


LISTED = """
import importlib.metadata, json
print(json.dumps({d.metadata["Name"]: sum(f.locate().stat().st_size for f in d.files or [] if f.locate().is_file()
                                          and f.suffix != ".pyc") for d in importlib.metadata.distributions()}))
"""


def run(*command: str | Path) -> str:
    """What a command prints; ends with its error where it fails."""
    done = subprocess.run([str(word) for word in command], capture_output=True, text=True, env=ENVIRONMENT)
    if done.returncode:
        sys.exit(done.stderr.strip())
    return done.stdout


CACHING = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
# A checkout on the path would be counted, or hide what the wheel lacks.
ENVIRONMENT = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}

if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    what = parser.add_subparsers(dest="what", required=True)
    what.add_parser("size")
    times = what.add_parser("time")
    times.add_argument("model", type=Path)
    times.add_argument("clip", type=Path)
    times.add_argument("--rounds", type=int, default=21)
    given = parser.parse_args()
    size() if given.what == "size" else measure(given.model, given.clip, given.rounds)
