"""The front end in torch, for batches and on a GPU; held to the numpy definition in tests."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from tinyasc.errors import InputError
from tinyasc.frontend import FrontEnd, mel_filterbank, window


class LogMel(nn.Module):
    """Normalised features of a batch of clips, as `tinyasc.frontend.features` defines them.

    Args:
        front_end: the record. Computes in the type of its buffers: float32, or float64 after `.double()`.

    Shape: (batch, samples) -> (batch, n_mels, frames).
    """

    window: Tensor
    filters: Tensor
    scale: Tensor
    offset: Tensor

    def __init__(self, front_end: FrontEnd) -> None:
        super().__init__()
        self.front_end = front_end
        ones, zeros = [1.0] * front_end.n_mels, [0.0] * front_end.n_mels
        buffers = {
            "window": torch.from_numpy(window(front_end)),
            "filters": torch.from_numpy(mel_filterbank(front_end)),
            "scale": torch.tensor(front_end.band_scale or ones, dtype=torch.float64),
            "offset": torch.tensor(front_end.band_offset or zeros, dtype=torch.float64),
        }
        for name, values in buffers.items():
            self.register_buffer(name, values.float(), persistent=False)

    def forward(self, samples: Tensor) -> Tensor:
        """Features of (batch, samples) clips at the front end's rate.

        Raises:
            InputError: another number of dimensions, or fewer samples than one frame needs.
        """
        record = self.front_end
        if samples.ndim != 2 or record.n_frames(samples.shape[1]) < 1:
            raise InputError(f"LogMel wants (batch, samples) of at least one frame, got {tuple(samples.shape)}")
        if record.center:
            samples = nn.functional.pad(samples, (record.n_fft // 2, record.n_fft // 2))
        frames = samples.to(self.window.dtype).unfold(1, record.n_fft, record.hop_length)
        power = torch.fft.rfft(frames * self.window).abs().square()
        mel = (power @ self.filters.T).transpose(1, 2)
        decibel = 10 * mel.clamp_min(record.amin).log10()
        return decibel * self.scale[:, None] + self.offset[:, None]
