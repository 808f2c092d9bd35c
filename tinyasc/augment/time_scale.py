"""Playing a clip faster or slower, pitch and all."""

from __future__ import annotations

import math

import torch
from torch import Generator, Tensor

from tinyasc.augment.draws import uniform


def time_scale(x: Tensor, lengths: Tensor, generator: Generator, *, max_scale: float) -> tuple[Tensor, Tensor]:
    """Makes every waveform max_scale^U(-1, 1) times as long, with the pitch that follows.

    Source: ACDNet (Mohaimenuzzaman et al., Pattern Recognition 2023) after Tokozume et al., ICLR 2018: 1.25^U(-1, 1),
    by linear interpolation. That dulls the highest octave, and folds back what a faster clip has beyond half the rate.

    Args:
        x: (batch, samples), zeros after each one's length.
        lengths: (batch,) samples that are sound.
        generator: the only source of randomness.
        max_scale: largest factor, 1 or more.

    Returns:
        (batch, ceil(samples * max_scale)) waveforms, zeros after their new lengths, and these (batch,) lengths.
    """
    return scale_time(x, lengths, max_scale ** uniform(len(x), -1, 1, generator), math.ceil(x.shape[1] * max_scale))


def scale_time(x: Tensor, lengths: Tensor, factor: Tensor, samples: int) -> tuple[Tensor, Tensor]:
    """`time_scale` by given factors (batch,): y[t] = x(t / factor), into (batch, samples)."""
    longer = (lengths.cpu() * factor.double()).floor().long().clamp_max(samples)
    last = (lengths.cpu() - 1).clamp_min(0)
    y = x.new_zeros(len(x), samples)
    # Clip by clip: the positions of one stay in a processor's cache, those of a batch do not.
    for row, clip, scale, end, n in zip(y, x, factor.double().tolist(), last.tolist(), longer.tolist(), strict=True):
        position = torch.arange(n, dtype=torch.float64) / scale
        left = position.long().clamp_max(end)
        share = position.sub_(left).clamp_(0, 1).to(x.device, x.dtype)
        right = (left + 1).clamp_max(end).to(x.device)
        row[:n] = clip[left.to(x.device)] * (1 - share) + clip[right] * share
    return y, longer
