"""SpecAugment and SpecAugment++: stripes of time or of frequency that are taken away from the model.

Sources: Park et al., "SpecAugment", Interspeech 2019, section 2 (stripes of U{0..width} at a uniform place); Wang et
al., "SpecAugment++", 2021 (arXiv:2103.16858), section 2 (what a stripe becomes, on the input and on hidden maps).
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Generator, Tensor

from tinyasc.augment.draws import others

MaskMode = Literal["zero", "cut", "mixture"]


def mask_time(x: Tensor, generator: Generator, *, width: int, stripes: int = 1, mode: MaskMode = "zero") -> Tensor:
    """Masks stripes of U{0..width} frames, each clip its own.

    Args:
        x: (batch, channels, bands, frames) features or hidden maps.
        generator: the only source of randomness.
        width: widest stripe in frames.
        stripes: how many; they may overlap.
        mode: what a stripe becomes: "zero", the mean of normalised features; "cut", the same place of another clip of
            the batch; "mixture", the mean of both. Labels stay. A batch of one is its own other clip.

    Shape: (batch, channels, bands, frames) -> the same.
    """
    return _mask(x, generator, 3, width, stripes, mode)


def mask_frequency(x: Tensor, generator: Generator, *, width: int, stripes: int = 1, mode: MaskMode = "zero") -> Tensor:
    """Masks stripes of U{0..width} bands; all else as `mask_time`."""
    return _mask(x, generator, 2, width, stripes, mode)


def _mask(x: Tensor, generator: Generator, axis: int, width: int, stripes: int, mode: MaskMode) -> Tensor:
    size = x.shape[axis]
    inside = torch.zeros(len(x), size, dtype=torch.bool)
    position = torch.arange(size)
    for _ in range(stripes):
        length = torch.randint(min(width, size) + 1, (len(x),), generator=generator)
        start = (torch.rand(len(x), generator=generator) * (size - length + 1)).long()
        inside |= (position >= start[:, None]) & (position < (start + length)[:, None])
    shape = [len(x), 1, 1, 1]
    shape[axis] = size
    where = inside.view(shape).to(x.device)
    if mode == "zero":
        return x.masked_fill(where, 0.0)
    other = x[others(len(x), generator).to(x.device)]
    return torch.where(where, other if mode == "cut" else 0.5 * (x + other), x)
