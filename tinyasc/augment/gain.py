"""Random gains in dB."""

from __future__ import annotations

import torch
from torch import Generator, Tensor

from tinyasc.augment.draws import uniform


def gain(x: Tensor, generator: Generator, *, max_db: float, band_scale: Tensor) -> Tensor:
    """Adds a gain of U(-max_db, max_db) dB to every clip, in normalised units.

    Args:
        x: (batch, channels, bands, frames) log features, normalised per band.
        generator: the only source of randomness.
        max_db: largest gain either way.
        band_scale: (bands,) or (channels, bands) factor by which dB were normalised.
    """
    db = (2 * torch.rand(len(x), 1, 1, 1, generator=generator) - 1) * max_db
    return x + db.to(x.device) * band_scale[..., None]


def gain_samples(x: Tensor, generator: Generator, *, max_db: float) -> Tensor:
    """Multiplies every waveform by its own gain of U(-max_db, max_db) dB.

    Unlike `gain` this moves sound across the front end's floor, as a louder scene does. Between-class learning and
    ACDNet take 6 dB.

    Shape: (batch, samples) -> the same.
    """
    db = uniform(len(x), -max_db, max_db, generator)
    return x * (10 ** (db / 20)).to(x.device, x.dtype)[:, None]
