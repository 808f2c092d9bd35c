"""Freq-MixStyle: mixes the device's colour, the statistics of every band, between clips; contents and labels stay."""

from __future__ import annotations

import torch
from torch import Generator, Tensor

from tinyasc.augment.draws import beta

SMALLEST = 1e-6  # of a standard deviation that is divided by: a band of silence has none


def freq_mixstyle(x: Tensor, generator: Generator, *, p: float, alpha: float) -> Tensor:
    """With probability p, gives every clip of the batch band statistics between its own and another clip's.

    Mean and standard deviation are taken per clip and band over channels and time, without gradient; the clip is
    normalised by its own and rescaled by lambda * own + (1 - lambda) * other's, lambda ~ Beta(alpha, alpha) per clip
    and the other from a random permutation.

    Sources: Zhou et al., "Domain generalization with MixStyle", ICLR 2021, section 2.2; Schmid et al., DCASE 2022 and
    2023 technical reports (statistics per frequency, and one draw of p for the whole batch).

    Shape: (batch, channels, bands, frames) -> the same.
    """
    if float(torch.rand(1, generator=generator)) >= p:
        return x
    weight = beta(len(x), alpha, generator).to(x.device, x.dtype).view(-1, 1, 1, 1)
    partner = torch.randperm(len(x), generator=generator).to(x.device)
    with torch.no_grad():
        mean = x.mean(dim=(1, 3), keepdim=True)
        deviation = x.std(dim=(1, 3), keepdim=True, correction=0).clamp_min(SMALLEST)
    new_mean = weight * mean + (1 - weight) * mean[partner]
    new_deviation = weight * deviation + (1 - weight) * deviation[partner]
    return (x - mean) / deviation * new_deviation + new_mean
