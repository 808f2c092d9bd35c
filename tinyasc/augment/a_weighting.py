"""A-weighting: how loud a clip is to an ear."""

from __future__ import annotations

import math

import torch
from torch import Tensor


def a_weighting(hz: Tensor) -> Tensor:
    """A-weighting in dB at frequencies in Hz, 0 dB at 1 kHz; minus infinity at 0 Hz.

    Source: IEC 61672-1:2013, annex E, with its pole frequencies to one decimal.
    """
    f = hz.double().square()
    poles = (f + 20.6**2) * ((f + 107.7**2) * (f + 737.9**2)).sqrt() * (f + 12194.0**2)
    return 20 * (12194.0**2 * f.square() / poles).log10() + 2.0


def loudest_level(x: Tensor, sample_rate: int, *, floor_db: float = -80.0) -> Tensor:
    """The A-weighted level of every waveform's loudest moment, in dB re a constant of our own (levels are compared).

    Frames of about 0.1 s, half overlapped, Hann window; the sum of the weighted power spectrum, at its maximum over
    frames.

    Source: Tokozume et al., "Learning from between-class examples for deep sound recognition", ICLR 2018 (A-weighted
    levels, their maximum over frames); the -80 dB limits are its released code's.

    Args:
        x: (batch, samples).
        sample_rate: Hz.
        floor_db: level of silence.

    Shape: (batch, samples) -> (batch,), in the type of x.
    """
    n_fft = 2 ** round(math.log2(0.1 * sample_rate))
    if x.shape[1] < n_fft:
        x = torch.nn.functional.pad(x, (0, n_fft - x.shape[1]))
    window = torch.hann_window(n_fft, device=x.device, dtype=x.dtype)
    weight = 10 ** (a_weighting(torch.linspace(0, sample_rate / 2, n_fft // 2 + 1)).clamp_min(-80.0) / 10)
    weight = weight.to(x.device, x.dtype)
    loudest = []
    # On a CPU clip by clip: the spectra of one stay in its cache, those of a batch do not.
    for part in x.split(1) if x.device.type == "cpu" else (x,):
        spectrum = torch.fft.rfft(part.unfold(1, n_fft, n_fft // 2) * window)
        power = (spectrum.real.square() + spectrum.imag.square()) @ weight
        loudest.append(power.amax(dim=1))
    return 10 * torch.cat(loudest).clamp_min(10 ** (floor_db / 10)).log10()
