"""Transforms of normalised log-mel features."""

from __future__ import annotations

import torch
from torch import Generator, Tensor


def roll_time(x: Tensor, generator: Generator) -> Tensor:
    """Rolls every clip along time by its own uniform shift, wrapping around.

    Shape: (batch, channels, bands, frames) -> the same.
    """
    batch, _, _, frames = x.shape
    shift = torch.randint(frames, (batch, 1, 1, 1), generator=generator)
    index = (torch.arange(frames) - shift) % frames
    return x.gather(3, index.to(x.device).expand_as(x))


def gain(x: Tensor, generator: Generator, *, max_db: float, band_scale: Tensor) -> Tensor:
    """Adds a gain of U(-max_db, max_db) dB to every clip, in normalised units.

    Args:
        x: (batch, channels, bands, frames) features, normalised per band.
        generator: the only source of randomness.
        max_db: largest gain either way.
        band_scale: (bands,) or (channels, bands) factor by which dB were normalised.
    """
    db = (2 * torch.rand(len(x), 1, 1, 1, generator=generator) - 1) * max_db
    return x + db.to(x.device) * band_scale[..., None]


def mask_time(x: Tensor, generator: Generator, *, width: int) -> Tensor:
    """Sets one stripe of U{0..width} frames per clip to zero, the mean of normalised features (SpecAugment)."""
    return _mask(x, generator, width, axis=3)


def mask_frequency(x: Tensor, generator: Generator, *, width: int) -> Tensor:
    """Sets one stripe of U{0..width} bands per clip to zero (SpecAugment)."""
    return _mask(x, generator, width, axis=2)


def _mask(x: Tensor, generator: Generator, width: int, axis: int) -> Tensor:
    size = x.shape[axis]
    length = torch.randint(min(width, size) + 1, (len(x),), generator=generator)
    start = (torch.rand(len(x), generator=generator) * (size - length + 1)).long()
    position = torch.arange(size)
    inside = (position >= start[:, None]) & (position < (start + length)[:, None])
    shape = [len(x), 1, 1, 1]
    shape[axis] = size
    return x.masked_fill(inside.view(shape).to(x.device), 0.0)


def mixup_weights(batch: int, generator: Generator, *, alpha: float) -> tuple[Tensor, Tensor]:
    """Partners and weights of mixup (Zhang et al., ICLR 2018), one weight per clip.

    Returns:
        A permutation (batch,), and the clip's own weight (batch,) in [0.5, 1]; its partner has the rest.
    """
    # Beta(alpha, alpha) from two Gamma draws; torch's Beta takes no generator.
    gammas = torch._standard_gamma(torch.full((2, batch), alpha), generator=generator)  # pyright: ignore[reportPrivateImportUsage]
    weight = gammas[0] / gammas.sum(dim=0).clamp_min(1e-12)
    return torch.randperm(batch, generator=generator), torch.maximum(weight, 1 - weight)
