"""The front end in torch, for batches and on a GPU; held to the numpy definition in tests."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from tinyasc.errors import InputError
from tinyasc.frontend import FrontEnd, mel_filterbank, window, with_deltas


class LogMel(nn.Module):
    """Normalised features of a batch of clips, as `tinyasc.frontend.features` defines them.

    Args:
        front_end: the record. Computes in the type of its buffers: float32, or float64 after `.double()`.

    Shape: (batch, samples), or (batch, 2, samples) in stereo -> (batch, channels, n_mels, frames).
    """

    window: Tensor
    filters: Tensor
    scale: Tensor
    offset: Tensor

    def __init__(self, front_end: FrontEnd) -> None:
        super().__init__()
        self.front_end = front_end
        for name, values in self._exact().items():
            self.register_buffer(name, values.float(), persistent=False)

    def _exact(self) -> dict[str, Tensor]:
        """The buffers in float64."""
        record = self.front_end
        shape = (record.channels, record.n_mels, 1)
        scale = torch.tensor(record.band_scale or [1.0], dtype=torch.float64)
        offset = torch.tensor(record.band_offset or [0.0], dtype=torch.float64)
        return {
            "window": torch.from_numpy(window(record)),
            "filters": torch.from_numpy(mel_filterbank(record)),
            "scale": scale.expand(shape) if len(scale) == 1 else scale.reshape(shape),
            "offset": offset.expand(shape) if len(offset) == 1 else offset.reshape(shape),
        }

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> LogMel:
        # `.double()` alone would widen numbers that were already rounded to float32.
        super()._apply(fn, recurse)
        for name, values in self._exact().items():
            setattr(self, name, values.to(getattr(self, name)))
        return self

    def forward(self, samples: Tensor) -> Tensor:
        """Features of clips at the front end's rate.

        Raises:
            InputError: another shape, or fewer samples than one frame needs.
        """
        record = self.front_end
        sides = samples.shape[1:-1] == ((2,) if record.stereo else ())
        if samples.ndim < 2 or not sides or record.n_frames(samples.shape[-1]) < 1:
            wanted = "(batch, 2, samples)" if record.stereo else "(batch, samples)"
            raise InputError(f"LogMel wants {wanted} of at least one frame, got {tuple(samples.shape)}")
        x = samples.to(self.window.dtype)
        x = x if record.stereo else x[:, None]
        # On a CPU clip by clip: the spectra of one stay in its cache, those of a batch do not.
        parts = x.split(1) if x.device.type == "cpu" else (x,)
        maps = torch.cat([self._maps(part) for part in parts])
        return maps * self.scale + self.offset

    def _maps(self, x: Tensor) -> Tensor:
        """Features before normalisation of (clips, sides, samples)."""
        record = self.front_end
        if record.pre_emphasis:
            x = torch.cat([x[..., :1], x[..., 1:] - record.pre_emphasis * x[..., :-1]], dim=-1)
        if record.center:
            x = nn.functional.pad(x, (record.n_fft // 2, record.n_fft // 2))
        frames = x.unfold(-1, record.n_fft, record.hop_length)
        spectrum = torch.fft.rfft(frames * self.window)
        power = spectrum.real.square() + spectrum.imag.square()
        maps = (power @ self.filters.T).transpose(-1, -2)
        if record.log:
            maps = 10 * maps.clamp_min(record.amin).log10()
        return torch.cat(with_deltas(maps, record.deltas), dim=1)
