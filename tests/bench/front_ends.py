"""How far the front ends of boards lie from the one that models are trained on, on real clips, and what it costs.

    python tests/bench/front_ends.py ESC10 RUN...

ESC10 is a folder with meta.csv; each RUN is a compressed run (`model-int8.tflite` with its report) whose model never
heard the fold that its folder's name begins with: fold1-seed0 and so on. Every clip is answered by the run of its fold.

Prints the distance of `device` and `fixed` from `reference` in dB of the mel power and in units of the model's int8
input, and how many decisions change: against `reference` on the same int16 samples, which is the arithmetic's own
share, and against `reference` on the float samples of the file, which adds what 16 bits do to them. The net runs
in the numpy reference, so that nothing but its input differs.
"""

from __future__ import annotations

import csv
import sys
from collections import defaultdict
from pathlib import Path

import numpy as np

from tinyasc.audio import read_audio
from tinyasc.frontend import FrontEnd, fit_length, log_mel, normalize
from tinyasc.frontend_device import board_features, int16_samples, plan
from tinyasc_export import frontend_device, frontend_fixed, reference
from tinyasc_export.drift import quantize_input
from tinyasc_export.frontend_plan import DB_PER_OCTAVE, FrontEndPlan
from tinyasc_export.graphfile import load_graph

ROUNDING = "tflite"


def decibels(samples: np.ndarray, of: FrontEndPlan, arithmetic: str) -> np.ndarray:
    """Mel power in dB, (n_mels, frames), before normalisation."""
    if arithmetic == "device":
        return frontend_device.log_power(samples, frontend_device.tables(of)) * DB_PER_OCTAVE
    octaves = frontend_fixed.octaves(samples, frontend_fixed.tables(of)) / 65536
    return octaves * DB_PER_OCTAVE + 10 * np.log10(of.amin)


class Tally:
    """Differences and decisions of one pair of front ends."""

    def __init__(self) -> None:
        self.db: list[np.ndarray] = []
        self.units: list[np.ndarray] = []
        self.changed = 0

    def line(self, name: str, right: int, clips: int) -> str:
        """The pair's figures."""
        db, units = np.concatenate(self.db), np.concatenate(self.units)
        return (
            f"| {name} | {np.sqrt(np.mean(db**2)):.4f} | {np.quantile(db, 0.999):.4f} | {db.max():.2f} | "
            f"{100 * np.mean(units > 0):.3f} % | {100 * np.mean(units > 1):.3f} % | {units.max()} | "
            f"{self.changed} of {clips} | {right} |"
        )


def main(root: Path, runs: list[Path]) -> None:
    """Measures and prints."""
    with (root / "meta.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    models = {}
    for run in runs:
        graph, bundle = load_graph((run / "graph-int8.npz").read_bytes(), str(run))
        models[run.name[: len("fold1")].removeprefix("fold")] = graph, bundle
    tallies: dict[tuple[str, str], Tally] = defaultdict(Tally)
    right: dict[str, int] = defaultdict(int)
    clips = 0
    for row in rows:
        if row["fold"] not in models:
            continue
        clips += 1
        graph, bundle = models[row["fold"]]
        front_end = FrontEnd.from_dict(bundle.front_end)
        t = graph.tensors[graph.input]
        of = plan(front_end, step=float(t.scale.flat[0]), zero_point=int(t.zero_point.flat[0]), dtype=t.dtype)
        floats = fit_length(read_audio(root / row["filename"], front_end.sample_rate), front_end.clip_samples)
        samples = int16_samples(floats)
        db = {"float": log_mel(floats, front_end)[0], "reference": log_mel(samples / 32768, front_end)[0]}
        integers = {k: quantize_input(graph, normalize(v[None], front_end)[0]) for k, v in db.items()}
        for arithmetic in ("device", "fixed"):
            db[arithmetic] = decibels(samples, of, arithmetic)
            integers[arithmetic] = board_features(samples, of, arithmetic)
        batch = np.stack(list(integers.values()))[..., None]
        logits = dict(zip(integers, reference.run(graph, batch, ROUNDING), strict=True))
        for name in integers:
            right[name] += bundle.labels[int(logits[name].argmax())] == row["label"]
        for pair in (
            ("device", "reference"),
            ("fixed", "reference"),
            ("reference", "float"),
            ("device", "float"),
            ("fixed", "float"),
        ):
            tally = tallies[pair]
            tally.db.append(np.abs(db[pair[0]] - db[pair[1]]).ravel())
            tally.units.append(np.abs(integers[pair[0]].astype(int) - integers[pair[1]]).ravel())
            tally.changed += int(logits[pair[0]].argmax() != logits[pair[1]].argmax())
    print(f"{clips} clips; right with float samples and `reference`: {right['float']}\n")
    print("| front end | dB, rms | dB, 99.9 % | dB, max | int8 off | off by > 1 | max | decisions changed | right |")
    print("|---|---|---|---|---|---|---|---|---|")
    for (a, b), tally in tallies.items():
        print(
            tally.line(f"`{a}` on int16 against `reference` on {'float' if b == 'float' else 'int16'}", right[a], clips)
        )


if __name__ == "__main__":
    if len(sys.argv) < 3:
        sys.exit(__doc__)
    main(Path(sys.argv[1]), [Path(run) for run in sys.argv[2:]])
