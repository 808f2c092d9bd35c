"""Measures a model on clips, through the same runner that `tinyasc infer` uses."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import groupby

import numpy as np

from tinyasc.audio import read_segments
from tinyasc.data.table import Clip
from tinyasc.infer.runner import Model


def probabilities(
    model: Model,
    clips: Sequence[Clip],
    *,
    tta: int = 1,
    seed: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> np.ndarray:
    """Class probabilities of clips, (clips, K) float64.

    Args:
        model: from `tinyasc.infer.runner.load`.
        clips: whole files, or parts of them.
        tta: test-time copies of each clip whose probabilities are averaged.
        seed: of the copies.
        progress: called with clips done and clips in all.

    Raises:
        InputError: a clip that cannot be read.
    """
    answers = []
    # Parts of one recording stand together in the lists: it is decoded once for them.
    for path, parts in groupby(clips, key=lambda clip: clip.path):
        for samples in read_segments(path, model.front_end.sample_rate, [clip.segment for clip in parts]):
            answers.append(model.predict(samples, tta=tta, seed=seed).probabilities)
            if progress:
                progress(len(answers), len(clips))
    return np.stack(answers)
