"""What it costs to open TAU 2022 Mobile (230,350 rows), and how fast features are computed, beside librosa.

    python tests/bench/data.py open LISTS           LISTS: meta.csv, fold1_train.csv and fold1_evaluate.csv (or .gz)
    python tests/bench/data.py extract ESC10 [N]    ESC10: meta.csv and the Ogg clips; N workers in the last row

`open` makes a folder in the set's layout whose audio files are empty, and opens it 5 times, each in a process of its
own: seconds of wall clock and of CPU, and the peak of resident memory. `extract` computes log-mels of 400 clips 5 times
in each way, the ways in turn within every round. Medians of the rounds. With OMP_NUM_THREADS=1 and taskset -c 1 the
figures are those of one core; CPU seconds say more than wall clock on a machine that does other work.
"""

from __future__ import annotations

import gzip
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from tinyasc.audio import read_audio
from tinyasc.data import load_table, split_table
from tinyasc.data.cache import load_features
from tinyasc.data.workers import available_cores
from tinyasc.frontend import FrontEnd, features, fit_length

ROUNDS = 5
CLIPS = 400


def open_set(lists: Path) -> None:
    with tempfile.TemporaryDirectory() as folder:
        root = _layout(lists, Path(folder))
        found = [json.loads(subprocess.check_output([sys.executable, __file__, "once", root])) for _ in range(ROUNDS)]
    n = found[0].pop("clips")
    print(f"{n:,} training, validation and test clips of 230,350 rows; medians of {ROUNDS} processes")
    for key in found[0]:
        print(f"  {key}: {statistics.median(run[key] for run in found):.2f}")


def once(root: str) -> None:
    """One opening, in this process alone."""
    before = _peak_mib()
    wall, cpu = time.perf_counter(), time.process_time()
    table = load_table("tau2022", root)
    opened = time.perf_counter(), time.process_time()
    split = split_table(table)
    done = time.perf_counter(), time.process_time()
    print(
        json.dumps(
            {
                "clips": sum(len(clips) for _, clips in split),
                "load_table, s wall": opened[0] - wall,
                "load_table, s CPU": opened[1] - cpu,
                "split_table, s wall": done[0] - opened[0],
                "split_table, s CPU": done[1] - opened[1],
                "resident before, MiB": before,
                "peak resident, MiB": _peak_mib(),
            }
        )
    )


def _peak_mib() -> float:
    """Of this program alone: getrusage also remembers what its parent held."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM:")) / 1024


def _layout(lists: Path, folder: Path) -> Path:
    """The set's folder, with empty audio files."""
    root = folder / "tau2022"
    (root / "audio").mkdir(parents=True)
    (root / "evaluation_setup").mkdir()
    for name in ("meta.csv", "fold1_train.csv", "fold1_evaluate.csv"):
        plain = lists / name
        data = plain.read_bytes() if plain.is_file() else gzip.decompress((lists / f"{name}.gz").read_bytes())
        (root / ("" if name == "meta.csv" else "evaluation_setup") / name).write_bytes(data)
        if name == "meta.csv":
            for line in data.decode().splitlines()[1:]:
                os.close(os.open(root / line.split("\t")[0], os.O_CREAT | os.O_WRONLY))
    return root


def extract(folder: Path, cores: int) -> None:
    import librosa

    clips = load_table("esc10", folder).clips[:CLIPS]
    front_end = FrontEnd()
    options = {"n_fft": front_end.n_fft, "hop_length": front_end.hop_length, "n_mels": front_end.n_mels}

    def with_librosa() -> list[np.ndarray]:
        found = []
        for clip in clips:
            samples, rate = librosa.load(clip.path, sr=None)
            samples = librosa.util.fix_length(samples, size=front_end.clip_samples)
            mel = librosa.feature.melspectrogram(y=samples, sr=rate, center=False, **options)
            found.append(librosa.power_to_db(mel, amin=front_end.amin, top_db=None))
        return found

    def with_tinyasc() -> list[np.ndarray]:
        rate, size = front_end.sample_rate, front_end.clip_samples
        return [features(fit_length(read_audio(clip.path, rate), size), front_end) for clip in clips]

    def cached(workers: int) -> Callable[[], np.ndarray]:
        def run() -> np.ndarray:
            with tempfile.TemporaryDirectory() as cache:
                return load_features(clips, front_end, cache, workers=workers).copy()

        return run

    ways: dict[str, Callable[[], object]] = {
        "librosa, one process": with_librosa,
        "tinyasc, one process": with_tinyasc,
        "tinyasc into an empty cache, one process": cached(1),
    }
    if cores > 1:
        ways[f"tinyasc into an empty cache, {cores} worker processes (their start included)"] = cached(cores)
    # librosa's first call compiles for seconds; nobody is timed on it.
    apart = np.abs(np.stack(with_librosa()) - np.stack(with_tinyasc()).reshape(CLIPS, front_end.n_mels, -1)).max()
    seconds: dict[str, list[tuple[float, ...]]] = {name: [] for name in ways}
    for _ in range(ROUNDS):
        for name, way in ways.items():
            start = _clocks()
            way()
            seconds[name].append(tuple(after - before for before, after in zip(start, _clocks(), strict=True)))
    print(f"{CLIPS} clips of 5 s (Ogg, 32 kHz); largest difference {apart:.1e} dB; load {os.getloadavg()[0]:.1f}")
    print(f"  cores that this process may use: {available_cores()}; medians of {ROUNDS} rounds")
    medians = {
        name: [1000 * statistics.median(column) / CLIPS for column in zip(*found, strict=True)]
        for name, found in seconds.items()
    }
    first = medians["librosa, one process"]
    for name, (wall, cpu) in medians.items():
        print(
            f"  {name}: {wall:.1f} ms wall, {cpu:.1f} ms CPU per clip; "
            f"{first[0] / wall:.2f} and {first[1] / cpu:.2f} x librosa's speed"
        )


def _clocks() -> tuple[float, float]:
    """Wall clock, and CPU seconds of this process and the workers that have ended."""
    times = os.times()
    return time.perf_counter(), times.user + times.system + times.children_user + times.children_system


if __name__ == "__main__":
    if len(sys.argv) == 3 and sys.argv[1] == "open":
        open_set(Path(sys.argv[2]))
    elif len(sys.argv) == 3 and sys.argv[1] == "once":
        once(sys.argv[2])
    elif len(sys.argv) in (3, 4) and sys.argv[1] == "extract":
        extract(Path(sys.argv[2]), int(sys.argv[3]) if len(sys.argv) == 4 else available_cores())
    else:
        sys.exit(__doc__)
