"""Playing a clip faster or slower at the same pitch: a phase vocoder."""

from __future__ import annotations

import math

import torch
from torch import Generator, Tensor

from tinyasc.augment.draws import uniform


def time_stretch(x: Tensor, lengths: Tensor, generator: Generator, *, max_stretch: float) -> tuple[Tensor, Tensor]:
    """Makes every waveform max_stretch^U(-1, 1) times as long at its own pitch.

    Args and returns as `tinyasc.augment.time_scale.time_scale`.
    """
    factor = max_stretch ** uniform(len(x), -1, 1, generator)
    return stretch_time(x, lengths, factor, math.ceil(x.shape[1] * max_stretch))


def stretch_time(
    x: Tensor, lengths: Tensor, factor: Tensor, samples: int, *, n_fft: int = 2048
) -> tuple[Tensor, Tensor]:
    """`time_stretch` by given factors (batch,), into (batch, samples).

    Magnitudes are interpolated between frames, and phases advance by what they advanced between the two frames there.

    Source: Flanagan and Golden, "Phase vocoder", Bell System Technical Journal 45, 1966; the frame arithmetic is
    librosa's (hop n_fft / 4, Hann window, zeros beyond the ends).
    """
    hop = n_fft // 4
    window = torch.hann_window(n_fft, device=x.device, dtype=x.dtype)
    # Silence beyond the end, so that the last samples lie in as many frames as all others.
    x = torch.nn.functional.pad(x, (0, n_fft))
    spectrum = torch.stft(x, n_fft, hop, window=window, pad_mode="constant", return_complex=True)
    n = spectrum.shape[2]
    position = torch.arange(1 + math.ceil(samples / hop), dtype=torch.float64) / factor.double()[:, None]
    left = position.long().clamp_max(n)
    share = (position - left).clamp(0, 1).to(x.device, x.dtype)[:, None, :]
    # Two frames of silence beyond the end, to interpolate with and to play out on.
    padded = torch.nn.functional.pad(spectrum, (0, 2))
    index = left[:, None, :].to(x.device).expand(-1, spectrum.shape[1], -1)
    before, after = padded.gather(2, index), padded.gather(2, index + 1)
    magnitude = (1 - share) * before.abs() + share * after.abs()
    # The expected advance of a bin need not be taken out and put back: phases matter modulo a turn alone.
    advance = after.angle() - before.angle()
    phase = spectrum[:, :, :1].angle() + torch.nn.functional.pad(advance.cumsum(dim=2)[:, :, :-1], (1, 0))
    y = torch.istft(torch.polar(magnitude, phase), n_fft, hop, window=window, length=samples)
    longer = (lengths.cpu() * factor.double()).round().long().clamp_max(samples)
    outside = torch.arange(samples) >= longer[:, None]
    return y.masked_fill(outside.to(x.device), 0.0), longer
