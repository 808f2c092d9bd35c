"""Rolling a clip along time, wrapping around."""

from __future__ import annotations

import torch
from torch import Generator, Tensor

from tinyasc.augment.draws import uniform


def roll_time(x: Tensor, generator: Generator, *, sigma: float | None = None) -> Tensor:
    """Rolls every clip by its own number of frames: uniform over the clip, or round(N(0, sigma)).

    Source of the normal draw: Xin et al., DCASE 2022 technical report, section 3.2 (eta ~ N(0, 10)); it is read as the
    standard deviation in frames.

    Shape: (batch, channels, bands, frames) -> the same.
    """
    batch, frames = len(x), x.shape[3]
    if sigma is None:
        shift = torch.randint(frames, (batch,), generator=generator)
    else:
        shift = (sigma * torch.randn(batch, generator=generator)).round().long()
    return _rolled(x, shift)


def roll_samples(x: Tensor, generator: Generator, *, max_samples: int) -> Tensor:
    """Rolls every waveform by its own U(-max_samples, max_samples).

    Shape: (batch, samples) -> the same.
    """
    return _rolled(x, uniform(len(x), -max_samples, max_samples, generator).round().long())


def _rolled(x: Tensor, shift: Tensor) -> Tensor:
    size = x.shape[-1]
    index = (torch.arange(size) - shift[:, None]) % size
    return x.gather(-1, index.view(len(x), *[1] * (x.ndim - 2), size).to(x.device).expand_as(x))
