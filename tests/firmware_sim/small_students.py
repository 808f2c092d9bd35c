"""A narrow net of every student family behind a front end of short frames; and a clip that it hears."""

from __future__ import annotations

import sys
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import soundfile

pytest.importorskip("torch", reason="torch is not installed: pip install 'tinyasc[train]'")
sys.path.append(str(Path(__file__).parents[1] / "export"))

from students import AT_INT16, INT8_ALONE, OPTIONS, Exported, narrow

from tinyasc.audio import read_audio
from tinyasc.frontend import FrontEnd
from tinyasc.frontend_device import int16_samples
from tinyasc_export.api import quantize_int16x8
from tinyasc_export.graph import Graph
from tinyasc_export.quantize import calibrate

MELS = 32
FRONT_END = FrontEnd(
    sample_rate=8000, clip_samples=512 + 29 * 256, n_fft=512, win_length=512, hop_length=256, n_mels=MELS, fmax=4000
).with_normalization(np.full(MELS, 0.05), np.full(MELS, 2.0))
# Every student at int8; at int16x8 those whose operators have such kernels.
STUDENTS = [
    (name, precision)
    for name, (family, _) in OPTIONS.items()
    for precision in ("int8", "int16x8")
    if precision == "int8" or family not in INT8_ALONE
]


@cache
def student(name: str, precision: str) -> Graph:
    """A student of random weights as an integer graph, (1, 32, 30, 1) to 10 scores."""
    family, full = OPTIONS[name]
    options = narrow(family, full) | (AT_INT16.get(family, {}) if precision == "int16x8" else {})
    exported = Exported(family, options, (MELS, FRONT_END.n_frames()))
    if precision == "int8":
        return exported.int8
    return quantize_int16x8(exported.graph, calibrate(exported.graph, exported.features.astype(np.float32)))


def heard(folder: Path) -> tuple[np.ndarray, ...]:
    """Two clips as WAV files, read again: noise whose loudness steps, (clip_samples,) int16 each."""
    clips, rate = [], FRONT_END.sample_rate
    for seed in range(2):
        rng = np.random.default_rng(seed)
        n = FRONT_END.clip_samples
        loudness = np.repeat(10 ** rng.uniform(-4, 0, n // 400 + 1), 400)[:n]
        file = folder / f"{seed}.wav"
        soundfile.write(file, np.clip(loudness * rng.standard_normal(n), -1, 1), rate, subtype="PCM_16")
        clips.append(int16_samples(read_audio(file, rate)))
    return tuple(clips)
