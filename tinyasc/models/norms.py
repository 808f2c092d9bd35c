"""Normalisations that treat frequency apart from time."""

from __future__ import annotations

import torch
from torch import Tensor, nn

EPSILON = 1e-5


class SubSpectralNorm(nn.Module):
    """Batch norm of each channel within each of several equal sub-bands (Chang et al., ICASSP 2021).

    Args:
        channels: of the map.
        sub_bands: S; each has its own statistics, scale and offset, so 2 * channels * S parameters. 1 is a batch norm.

    Shape: (batch, channels, frequency, time) -> the same. S must divide the frequency axis.
    """

    def __init__(self, channels: int, sub_bands: int) -> None:
        super().__init__()
        self.norms = nn.ModuleList(nn.BatchNorm2d(channels) for _ in range(sub_bands))

    def forward(self, x: Tensor) -> Tensor:
        """The normalised map."""
        if len(self.norms) == 1:
            return self.norms[0](x)
        # Slices, where a view with more channels would do, since the deployed graph has no such view.
        parts = x.chunk(len(self.norms), dim=2)
        return torch.cat([norm(part) for norm, part in zip(self.norms, parts, strict=True)], dim=2)


class ResidualNorm(nn.Module):
    """ResNorm: shortcut * x + x normalised per frequency row (Kim et al., DCASE 2021).

    Each clip's row is normalised to mean 0 and variance 1 over its channels and frames, which takes off what a
    recording device adds there. No parameters. The variance is the biased one. [ours]

    Args:
        shortcut: the share of x that is kept.

    Shape: (batch, channels, frequency, time) -> the same.
    """

    def __init__(self, *, shortcut: float = 0.1) -> None:
        super().__init__()
        self.shortcut = shortcut

    def forward(self, x: Tensor) -> Tensor:
        """The normalised map."""
        # Of operators that the deployed graph has: no subtraction, no division, no variance.
        centred = x + x.mean(dim=(1, 3), keepdim=True) * -1
        variance = (centred * centred).mean(dim=(1, 3), keepdim=True)
        return x * self.shortcut + centred * torch.rsqrt(variance + EPSILON)
