"""Students on emulated boards, from samples to scores: what is counted, and what is estimated from it.

    PYTHONPATH=.:export:firmware_sim python tests/bench/firmware.py NET... [--board KEY]... [--clip FILE]

A NET is `s4` or `cp_mobile` (default widths at 64 x 44 and at 256 x 64, random weights: counts hardly depend on them,
answers mean nothing), or a compressed run's folder. Boards are one for each core by default. The sound is a clip, or
else noise under a climbing tone. Features, every operator and the scores are compared with numpy bit for bit; what
does not fit or cannot be run stands below the tables with its reason.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np
import torch

from tinyasc.audio import read_audio
from tinyasc.compress.stored import open_stored
from tinyasc.frontend import FrontEnd, fit_length
from tinyasc.frontend_device import int16_samples, plan_for
from tinyasc.models import build
from tinyasc_export.capture import capture
from tinyasc_export.errors import TinyascError
from tinyasc_export.graph import Graph
from tinyasc_export.lower import cast, lower
from tinyasc_export.quantize import calibrate, quantize_int8
from tinyasc_firmware_sim import load_board
from tinyasc_firmware_sim.net import NetReport
from tinyasc_firmware_sim.stream import simulate_stream

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "export"))
from modules import randomize
from students import mel_like, settle

BOARDS = (
    "raspberry-pi-pico",
    "nucleo-f207zg",
    "nucleo-l4r5zi",
    "nucleo-h743zi2",
    "nucleo-u575zi-q",
    "mps3-an547",
    "esp32-c3-devkitm-1",
)
TIMEOUT = 3000.0
# Family and its options; the front end of the papers, without padding at a clip's ends.
UNTRAINED = {
    "s4": (
        "sepconv_ca",
        {},
        FrontEnd(sample_rate=44100, clip_samples=46080, n_fft=2048, win_length=2048, hop_length=1024, n_mels=64),
    ),
    "cp_mobile": (
        "cp_mobile",
        {},
        FrontEnd(sample_rate=32000, clip_samples=35596, n_fft=4096, win_length=3072, hop_length=500, n_mels=256),
    ),
}
COUNTED = (
    "net",
    "board, core",
    "front end",
    "instructions of the net",
    "per MAC",
    "front end, instructions per frame",
    "per window",
    "flash: code",
    "weights and tables",
    "RAM: arena",
    "front end and frames",
    "stack",
)
ESTIMATED = ("net", "board, core", "cycles of the net", "of the front end", "band", "net, ms", "all, ms", "duty")


def untrained(name: str) -> tuple[Graph, FrontEnd]:
    """An int8 student of random weights with settled batch norms, and its front end."""
    family, options, front_end = UNTRAINED[name]
    mels, frames = front_end.n_mels, front_end.n_frames()
    torch.manual_seed(0)
    module = randomize(build(family, n_classes=10, n_mels=mels, **options), 1)
    settle(module, mel_like(16, mels, frames, 3))
    lowered, scale, offset = lower(capture(module.double(), (1, 1, mels, frames)))
    graph = cast(lowered, "float32")
    x = mel_like(16, mels, frames, 1) * scale[:, None, None] + offset[:, None, None]
    # Decibels to about the mean 0 and the deviation 1 that the student's features have.
    normalized = front_end.with_normalization(np.full(mels, 0.05), np.full(mels, 2.0))
    return quantize_int8(graph, calibrate(graph, x.astype(np.float32))), normalized


def opened(net: str) -> tuple[str, Graph, FrontEnd]:
    """Name, graph and front end of an untrained student or of a run."""
    if net in UNTRAINED:
        return net, *untrained(net)
    stored = open_stored(Path(net))
    return "/".join(Path(net).parts[-2:]), stored.graph, stored.front_end


def sound(front_end: FrontEnd, clip: Path | None) -> np.ndarray:
    """One window, (clip_samples,) int16."""
    n = front_end.clip_samples
    if clip is not None:
        return int16_samples(fit_length(read_audio(clip, front_end.sample_rate), n))
    t = np.arange(n) / front_end.sample_rate
    noise = np.random.default_rng(0).standard_normal(n)
    return int16_samples(0.3 * np.sin(2 * np.pi * (200 + 2000 * t) * t) + 0.03 * noise)


def counted(name: str, report: NetReport) -> list[str]:
    """A row of the first table."""
    front_end, sizes = report.front_end, report.sizes
    assert front_end is not None
    return [
        name,
        f"{report.board.key}, {report.board.core}",
        f"`{front_end.arithmetic}`",
        f"{report.instructions:,}",
        f"{report.instructions / report.macs:.2f}",
        f"{front_end.instructions / front_end.frames:,.0f}",
        f"{front_end.instructions:,}",
        f"{sizes.code:,}",
        f"{sizes.constants + sizes.data:,}",
        f"{sizes.arena:,}",
        f"{front_end.state_bytes:,}",
        f"{report.stack_bytes:,}",
    ]


def estimated(name: str, report: NetReport, clip_seconds: float) -> list[str]:
    """A row of the second table."""
    front_end = report.front_end
    assert front_end is not None
    return [
        name,
        f"{report.board.key}, {report.board.core}",
        f"{report.cycles:,.0f}",
        f"{front_end.cycles:,.0f}",
        f"+-{report.band:.0%}",
        f"{report.seconds * 1e3:,.0f}",
        f"{report.path_seconds * 1e3:,.0f}",
        f"{report.path_seconds / clip_seconds:.1%}",
    ]


def table(title: str, heading: tuple[str, ...], rows: list[list[str]]) -> None:
    print(f"\n{title}\n\n| {' | '.join(heading)} |\n|{'---|' * len(heading)}")
    for row in rows:
        print(f"| {' | '.join(row)} |")


def main() -> None:
    parser = argparse.ArgumentParser(description="Students on emulated boards.")
    parser.add_argument("nets", nargs="+", metavar="NET")
    parser.add_argument("--board", action="append", dest="boards")
    parser.add_argument("--clip", type=Path)
    given = parser.parse_args()
    counts, estimates, refused, wrong = [], [], [], []
    for net in given.nets:
        name, graph, front_end = opened(net)
        samples = sound(front_end, given.clip)
        for key in given.boards or BOARDS:
            board = load_board(key)
            try:
                report = simulate_stream(graph, plan_for(front_end, graph), board, [samples], timeout=TIMEOUT)
            except TinyascError as error:
                refused.append(f"{name}, {key}: {error}")
                continue
            counts.append(counted(name, report))
            estimates.append(estimated(name, report, front_end.clip_samples / front_end.sample_rate))
            wrong += [] if report.equal else [f"{name}, {key}"]
            where = f"{report.compiler}, {report.emulator}, {report.emulation_seconds:.0f} s"
            print(f"{name}, {key}: {'equal' if report.equal else 'DIFFERS'} ({where})", file=sys.stderr, flush=True)
    table("Counted:", COUNTED, counts)
    table("Estimated from the counts, at the board's highest clock:", ESTIMATED, estimates)
    for line in refused:
        print(f"\nnot run: {line}")
    if wrong:
        sys.exit(f"bits differ from numpy's: {'; '.join(wrong)}")


if __name__ == "__main__":
    main()
