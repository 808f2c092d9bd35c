"""Test-time augmentation: copies of one clip whose mean answer is steadier than that of the clip alone.

All copies are made of samples, not of features, so that their features are as exact as those of the clip.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from tinyasc.frontend import FrontEnd

CROP_SHARE = 0.8


def copies(samples: np.ndarray, front_end: FrontEnd, n: int, seed: int) -> Iterator[np.ndarray]:
    """The plain clip, then rolls and crops of it in turn.

    * Copy 0 is the clip as it is, of whatever length.
    * Odd copies are **rolls**: a random circular shift in time. A clip longer than the model's input gives
      one window of its roll, that is a window from anywhere that may wrap from the end to the beginning.
    * Even copies are **crops**. A clip longer than the model's input gives a random window. Any other gives a
      random part of 80 % to less than 100 %, which then repeats from its own start until it is as long as the
      clip was. Zeros would be the simpler filling, but they are -100 dB in every band: a model that was
      trained on whole clips never heard such a pause, and its means would follow it. Clips that are shorter
      than the input are still padded with zeros by the runner, after this, exactly as in training.

    Copy i depends on (seed, i) alone: more copies begin with the same ones.

    Args:
        samples: (samples,) or (2, samples), at the front end's rate, at least one.
        front_end: gives `clip_samples`, the length of the model's input.
        n: copies, at least 1.
        seed: not negative.

    Yields:
        Copy 0: `samples` itself. Others: (..., min(samples, clip_samples)), of the same type.
    """
    yield samples
    for i in range(1, n):
        random = np.random.default_rng((seed, i))
        change = roll if i % 2 else crop
        yield change(samples, front_end.clip_samples, random)


def roll(samples: np.ndarray, clip_samples: int, random: np.random.Generator) -> np.ndarray:
    """The clip from a random sample on, wrapping round its end, at most `clip_samples` long."""
    total = samples.shape[-1]
    start = int(random.integers(1, max(total, 2)))
    return samples[..., (start + np.arange(min(total, clip_samples))) % total]


def crop(samples: np.ndarray, clip_samples: int, random: np.random.Generator) -> np.ndarray:
    """A random window of a long clip; of any other a random part, repeated up to the clip's length."""
    total = samples.shape[-1]
    if total > clip_samples:
        start = int(random.integers(0, total - clip_samples + 1))
        return samples[..., start : start + clip_samples]
    least = int(np.ceil(CROP_SHARE * total))
    length = int(random.integers(least, max(total, least + 1)))
    start = int(random.integers(0, total - length + 1))
    return samples[..., start + np.arange(total) % length]
