"""Filters that a room or a microphone might be: gains along frequency.

Source: Nam, Kim & Park, "FilterAugment: An Acoustic Environmental Data Augmentation Method", ICASSP 2022
(arXiv:2110.03282), section 3, the linear kind.
"""

from __future__ import annotations

import torch
from torch import Generator, Tensor

FEWEST, MOST = 3, 6  # stretches between two corners; the paper's
NARROWEST = 6  # bands of a stretch; the paper's


def filter_bands(x: Tensor, generator: Generator, *, max_db: float, band_scale: Tensor) -> Tensor:
    """Adds to every clip a gain of its own along frequency: straight in dB between corners of U(-max_db, max_db).

    The lowest and the highest band are corners; between them lie 2 to 5 more, at least 6 bands apart (as many as fit).
    All frames and channels of a clip have the same gains.

    Args:
        x: (batch, channels, bands, frames) log features, normalised per band.
        generator: the only source of randomness.
        max_db: largest gain either way.
        band_scale: (bands,) or (channels, bands) factor by which dB were normalised.

    Shape: (batch, channels, bands, frames) -> the same.
    """
    bands = x.shape[2]
    # Corners at the lowest and highest band alone where the bands are too few for more.
    most = max(1, min(MOST, (bands - 1) // NARROWEST))
    counts = torch.randint(min(FEWEST, most), most + 1, (len(x),), generator=generator).tolist()
    db = torch.stack([_gains(bands, count, generator) for count in counts]) * max_db
    return x + db[:, None, :, None].to(x.device, x.dtype) * band_scale[..., None]


def _gains(bands: int, stretches: int, generator: Generator) -> Tensor:
    """(bands,) of -1 to 1."""
    # What is left of the bands when every stretch has its least is dealt at random.
    least = NARROWEST if stretches > 1 else 0
    spare = bands - 1 - stretches * least
    cuts = torch.randint(spare + 1, (stretches - 1,), generator=generator).sort().values
    inner = cuts + least * torch.arange(1, stretches)
    corners = torch.cat([torch.tensor([0]), inner, torch.tensor([bands - 1])])
    gains = 2 * torch.rand(stretches + 1, generator=generator) - 1
    position = torch.arange(bands)
    left = (torch.searchsorted(corners, position, right=True) - 1).clamp(max=stretches - 1)
    width = (corners[left + 1] - corners[left]).clamp(min=1)
    return torch.lerp(gains[left], gains[left + 1], (position - corners[left]) / width)
