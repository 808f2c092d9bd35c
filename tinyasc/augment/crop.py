"""Random crops in time."""

from __future__ import annotations

import torch
from torch import Generator, Tensor

from tinyasc.augment.draws import uniform
from tinyasc.errors import InputError


def crop_time(x: Tensor, generator: Generator, *, frames: int) -> Tensor:
    """A window of `frames` frames of every clip, each at its own uniform place.

    Source: McDonnell and Gao, DCASE 2019 technical report, sections 3.3 and 3.5 (400 random frames in
    training, whole clips in test).

    Shape: (batch, channels, bands, n) -> (batch, channels, bands, frames).

    Raises:
        InputError: the clips have fewer frames.
    """
    batch, channels, bands, n = x.shape
    if not 0 < frames <= n:
        raise InputError(
            f"augment.crop_frames: cannot crop {frames} frames out of {n}; set it to 1..{n}, or 0 for none"
        )
    start = torch.randint(n - frames + 1, (batch,), generator=generator)
    index = start[:, None] + torch.arange(frames)
    return x.gather(3, index.view(batch, 1, 1, frames).to(x.device).expand(batch, channels, bands, frames))


def crop_samples(x: Tensor, lengths: Tensor, generator: Generator, *, samples: int, padding: float = 0.0) -> Tensor:
    """A window of every waveform, each at its own uniform place; zeros where it reaches beyond the clip.

    Source: Tokozume et al., "Learning from between-class examples for deep sound recognition", ICLR 2018, and ACDNet
    after it: T/2 of zeros on both sides, then a random window of T, which is a padding of 0.5.

    Args:
        x: (batch, n) waveforms, zeros after each one's length.
        lengths: (batch,) samples that are sound.
        generator: the only source of randomness.
        samples: T, the window.
        padding: zeros on both sides, as a share of the window.

    Shape: (batch, n) -> (batch, samples). A clip that fits into the window with its zeros lies at a random place in it.
    """
    pad = round(padding * samples)
    slack = lengths.to(torch.int64).cpu() + 2 * pad - samples
    start = (uniform(len(x), 0, 1, generator) * (slack.abs() + 1)).long()
    start = torch.where(slack >= 0, start, -start) - pad
    y = x.new_zeros(len(x), samples)
    for row, clip, begin, length in zip(y, x, start.tolist(), lengths.tolist(), strict=True):
        first, last = max(begin, 0), min(begin + samples, length)
        if first < last:
            row[first - begin : last - begin] = clip[first:last]
    return y
