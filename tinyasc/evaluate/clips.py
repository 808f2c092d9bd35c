"""Measures a model on clips, through the same runner that `tinyasc infer` uses."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from tinyasc.audio import read_audio
from tinyasc.infer.runner import Model


def probabilities(
    model: Model,
    paths: Sequence[Path],
    *,
    tta: int = 1,
    seed: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> np.ndarray:
    """Class probabilities of clips, (clips, K) float64.

    Args:
        model: from `tinyasc.infer.runner.load`.
        paths: audio files.
        tta: test-time copies of each clip whose probabilities are averaged.
        seed: of the copies.
        progress: called with clips done and clips in all.

    Raises:
        InputError: a clip that cannot be read.
    """
    answers = []
    for done, path in enumerate(paths, start=1):
        samples = read_audio(path, model.front_end.sample_rate, stereo=model.front_end.stereo)
        answers.append(model.predict(samples, tta=tta, seed=seed).probabilities)
        if progress:
            progress(done, len(paths))
    return np.stack(answers)
