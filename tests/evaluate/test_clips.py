from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import soundfile

from tinyasc.data import Clip, ClipTable
from tinyasc.evaluate import clips as measured
from tinyasc.evaluate.clips import clip_names, probabilities


class Loudness:
    """Stands for a model: its "probabilities" are the first sample, the last one, the length and the device."""

    front_end = SimpleNamespace(sample_rate=8000, stereo=False)

    def predict(self, samples: np.ndarray, *, tta: int, seed: int, device: str) -> Any:
        told = [samples[0], samples[-1], len(samples), len(device)]
        return SimpleNamespace(probabilities=np.array(told, np.float64))


def test_parts_of_a_recording_are_measured_as_files_of_their_own(tmp_path, monkeypatch):
    ramp = np.arange(24000) / 32768
    soundfile.write(tmp_path / "whole.wav", ramp, 8000, "PCM_16")
    soundfile.write(tmp_path / "other.wav", -ramp[:8000], 8000, "PCM_16")
    decoded = []
    read = measured.read_segments
    monkeypatch.setattr(measured, "read_segments", lambda path, *a, **o: decoded.append(path) or read(path, *a, **o))
    whole, other = tmp_path / "whole.wav", tmp_path / "other.wav"
    parts = [Clip(whole, "s", "a" * i, "1", 1, (i, i + 1.0)) for i in range(3)]
    calls = []
    model: Any = Loudness()
    found = probabilities(model, [*parts, Clip(other, "s", "phone", "2", 1)], progress=lambda *call: calls.append(call))
    expected = [[8000 * i, 8000 * i + 7999, 8000, i] for i in range(3)] + [[0, -7999, 8000, 5]]
    np.testing.assert_allclose(found * [32768, 32768, 1, 1], expected)
    assert decoded == [whole, other] and calls == [(i, 4) for i in range(1, 5)]


def test_every_part_of_a_recording_has_a_name_of_its_own(tmp_path):
    whole = tmp_path / "audio/day/long.wav"
    parts = [Clip(whole, "s", "", "1", 1, segment) for segment in (None, (0, 1.0), (0.0, 2.5), (1.0, 2.5))]
    clips = (*parts, Clip(tmp_path / "audio/night/a.wav", "s", "", "2", 1))
    names = ["day/long.wav" + part for part in ("", "#t=0.0,1.0", "#t=0.0,2.5", "#t=1.0,2.5")]
    assert clip_names(ClipTable("t", ("s",), clips), clips) == [*names, "night/a.wav"]
