"""Features of waveforms that are held at another rate than the front end's."""

from __future__ import annotations

import numpy as np
import soxr
import torch
from torch import Tensor, nn

from tinyasc.frontend import FrontEnd, fit_length
from tinyasc.frontend_torch import LogMel


class LogMelFrom(nn.Module):
    """`LogMel` of waveforms at any rate, which are resampled first, as `tinyasc.audio` does it, on the CPU.

    Args:
        front_end: mono, with its normalisation.
        sample_rate: of the waveforms, Hz.

    Shape: (batch, samples) -> (batch, channels, n_mels, frames); resampled waveforms are cut or padded to the clip.
    """

    def __init__(self, front_end: FrontEnd, sample_rate: int) -> None:
        super().__init__()
        self.sample_rate, self.log_mel = sample_rate, LogMel(front_end)

    def forward(self, samples: Tensor) -> Tensor:
        """Features; in float32 also under mixed precision, as those of validation are."""
        with torch.autocast(samples.device.type, enabled=False):
            record = self.log_mel.front_end
            if record.sample_rate != self.sample_rate:
                rows = np.ascontiguousarray(samples.cpu().numpy().T)
                resampled = soxr.resample(rows, self.sample_rate, record.sample_rate, quality="HQ").T
                fitting = np.ascontiguousarray(fit_length(resampled, record.clip_samples))
                samples = torch.from_numpy(fitting).to(samples.device)
            return self.log_mel(samples)
