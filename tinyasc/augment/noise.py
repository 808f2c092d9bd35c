"""White or pink noise at a signal-to-noise ratio."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Generator, Tensor

from tinyasc.augment.draws import chosen, uniform

NoiseColor = Literal["white", "pink"]


def add_noise(
    x: Tensor,
    generator: Generator,
    *,
    snr_db: tuple[float, float],
    color: NoiseColor = "white",
    prob: float = 1.0,
) -> Tensor:
    """Adds Gaussian noise to waveforms, each at its own ratio of U(snr_db) dB of mean powers.

    Pink noise has a power spectral density of 1 / f, 3 dB less per octave, and no mean. The noise of each clip is
    scaled by its own power, so the ratio is met exactly; silence stays silent.

    Args:
        x: (batch, samples).
        generator: the only source of randomness.
        snr_db: lowest and highest ratio in dB.
        color: "white" or "pink".
        prob: share of clips that get noise.
    """
    batch, samples = x.shape
    use = chosen(batch, prob, generator)
    ratio = uniform(batch, *snr_db, generator)
    noise = torch.randn(batch, samples, generator=generator)
    if color == "pink":
        spectrum = torch.fft.rfft(noise)
        bins = torch.arange(spectrum.shape[1])
        noise = torch.fft.irfft(spectrum * torch.where(bins > 0, bins.clamp_min(1).rsqrt(), 0.0), samples)
    noise = noise.to(x.device, x.dtype)
    power = x.square().mean(dim=1, keepdim=True)
    # One sample of pink noise is 0, and stays so.
    level = noise.square().mean(dim=1, keepdim=True).sqrt().clamp_min(torch.finfo(x.dtype).tiny)
    factor = (10 ** (-ratio / 10) * use).to(x.device, x.dtype)[:, None]
    return x + noise / level * (power * factor).sqrt()
