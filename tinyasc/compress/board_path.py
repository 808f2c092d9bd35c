"""The whole path of a stored student on an emulated board: clips to windows of samples, front end, net, duty cycle."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from tinyasc.audio import read_audio
from tinyasc.compress.stored import Stored
from tinyasc.frontend import features
from tinyasc.frontend_device import int16_samples, plan_for
from tinyasc.infer.windows import windows
from tinyasc_export.drift import quantize_input
from tinyasc_firmware_sim.boards import Board
from tinyasc_firmware_sim.net import NetReport, random_input, simulate
from tinyasc_firmware_sim.stream import simulate_stream

NO_FRONT_END = "none"


@dataclass(frozen=True)
class Sound:
    """Windows of clips.

    Args:
        windows: (clip_samples,) float32 each, at the front end's rate, as `tinyasc infer` cuts and pads them.
        left_out: windows of longer clips behind the first, which were not taken.
    """

    windows: tuple[np.ndarray, ...]
    left_out: int


def read_sound(stored: Stored, clips: Sequence[Path], *, every_window: bool = False) -> Sound:
    """The windows that a student hears of clips.

    Args:
        stored: whose front end says their length and rate.
        clips: audio files of any rate; they are resampled as `tinyasc infer` does.
        every_window: of a clip that is longer than one; else the first alone.

    Raises:
        InputError: a clip that cannot be read.
    """
    front_end = stored.front_end
    taken, left_out = [], 0
    for clip in clips:
        parts = list(windows(read_audio(clip, front_end.sample_rate, stereo=front_end.stereo), front_end.clip_samples))
        taken += parts if every_window else parts[:1]
        left_out += 0 if every_window else len(parts) - 1
    return Sound(tuple(taken), left_out)


def simulate_path(stored: Stored, board: Board, sound: Sound, front_end: str | None, **options: Any) -> NetReport:
    """Runs a student on an emulated board.

    Args:
        stored: int8 or int16x8.
        board: to run on.
        sound: what it hears; without a window the net alone runs, on random features.
        front_end: "device" or "fixed" on the board, "none" for features of the numpy front end; by default what suits
            the core.
        options: of `tinyasc_firmware_sim.net.simulate`.

    Raises:
        InputError: a front end that C cannot take, or what `simulate` raises.
        TinyascError: what `simulate` raises.
    """
    graph = stored.graph
    if not sound.windows:
        return simulate(graph, board, [random_input(graph)], **options)
    if front_end == NO_FRONT_END:
        # The graph has the channels last, the front end first.
        mels = [features(part, stored.front_end).transpose(1, 2, 0)[None] for part in sound.windows]
        return simulate(graph, board, [quantize_input(graph, mel) for mel in mels], **options)
    samples = [int16_samples(part) for part in sound.windows]
    return simulate_stream(graph, plan_for(stored.front_end, graph), board, samples, arithmetic=front_end, **options)


def duty(report: NetReport, clip_seconds: float, copies: int = 1) -> float:
    """The share of time that the processor is busy where every clip is heard once, by an estimate of cycles.

    A test-time copy is another sound (rolled, cropped, louder), so each takes the whole path: front end and net.

    Args:
        report: with the front end where that is to count.
        clip_seconds: of sound per answer.
        copies: that are averaged; 1 is the clip alone.
    """
    return copies * report.path_seconds / clip_seconds


def real_time(report: NetReport, share: float) -> str:
    """Whether an answer is there before the next clip has been heard, over the whole band of the estimate."""
    if share * (1 + report.band) <= 1:
        return "yes"
    return "no" if share * (1 - report.band) > 1 else "within the band of the estimate"
