"""TF-SepNet (Cai et al., DCASE 2023 technical report and ICASSP 2024): separate paths along frequency and time."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from tinyasc.errors import InputError
from tinyasc.models.norms import ResidualNorm

# Blocks of each stage and their width in halves of base_channels; between stages the map is halved.
STAGES = ((2, 2), (2, 3), (2, 4), (3, 5))


class ChannelShuffle(nn.Module):
    """Channel shuffle of two groups (Zhang et al., CVPR 2018), in runs of an eighth of all channels.

    The published shuffle alternates single channels of both halves, this one runs of them, 0 4 1 5 2 6 3 7: slices and
    a concatenation, which the deployed graph has. In up to three blocks of one width the halves that they see hold the
    published channels in another order, and nothing in a half hangs on that order. [ours]

    Shape: (batch, channels, frequency, time) -> the same. Channels a multiple of 8.
    """

    def forward(self, x: Tensor) -> Tensor:
        """The map with its channels in another order."""
        runs = x.chunk(8, dim=1)
        return torch.cat([runs[i] for i in (0, 4, 1, 5, 2, 6, 3, 7)], dim=1)


class WideningDepthwise(nn.Module):
    """A 3x3 depthwise convolution of stride 2 with several filters per channel, batch norm, ReLU.

    The published one is a single convolution with as many groups as channels. Here each filter of a channel belongs to
    a depthwise convolution of its own, and their maps stand one after the other: the same outputs in another order, of
    layers that the deployed graph has. [ours]

    Shape: (batch, channels, F, T) -> (batch, filters * channels, ceil(F / 2), ceil(T / 2)).
    """

    def __init__(self, channels: int, filters: int) -> None:
        super().__init__()
        self.filters = nn.ModuleList(
            nn.Sequential(
                nn.Conv2d(channels, channels, 3, stride=2, padding=1, groups=channels, bias=False),
                nn.BatchNorm2d(channels),
                nn.ReLU(),
            )
            for _ in range(filters)
        )

    def forward(self, x: Tensor) -> Tensor:
        """The widened map."""
        return torch.cat([part(x) for part in self.filters], dim=1)


class SeparatePath(nn.Module):
    """Depthwise convolution along one axis, mean over that axis, 1x1; broadcast back onto the input.

    Args:
        channels: of the map.
        axis: 2 for frequency, 3 for time.
        dropout: of what is added.

    Shape: (batch, channels, F, T) -> the same.
    """

    def __init__(self, channels: int, *, axis: int, dropout: float) -> None:
        super().__init__()
        self.axis = axis
        kernel, padding = ((3, 1), (1, 0)) if axis == 2 else ((1, 3), (0, 1))
        self.depthwise = nn.Sequential(
            nn.Conv2d(channels, channels, kernel, padding=padding, groups=channels, bias=False),
            nn.BatchNorm2d(channels),
            nn.ReLU(),
        )
        self.pointwise = nn.Sequential(
            nn.Conv2d(channels, channels, 1, bias=False), nn.BatchNorm2d(channels), nn.ReLU(), nn.Dropout(dropout)
        )

    def forward(self, x: Tensor) -> Tensor:
        """The path's map."""
        return x + self.pointwise(self.depthwise(x).mean(dim=self.axis, keepdim=True))


class SepBlock(nn.Module):
    """1x1, batch norm and ReLU where the width changes, else a channel shuffle; then each half takes a path of its own.

    The published block shuffles in both cases. Behind a 1x1 convolution that only numbers its outputs otherwise, so
    there it is left out. [ours]

    Shape: (batch, in_channels, F, T) -> (batch, channels, F, T).
    """

    def __init__(self, in_channels: int, channels: int, *, dropout: float) -> None:
        super().__init__()
        widen = nn.Sequential(nn.Conv2d(in_channels, channels, 1, bias=False), nn.BatchNorm2d(channels), nn.ReLU())
        self.mix = ChannelShuffle() if in_channels == channels else widen
        self.frequency = SeparatePath(channels // 2, axis=2, dropout=dropout)
        self.time = SeparatePath(channels // 2, axis=3, dropout=dropout)

    def forward(self, x: Tensor) -> Tensor:
        """The block's map."""
        first, second = self.mix(x).chunk(2, dim=1)
        return torch.cat([self.frequency(first), self.time(second)], dim=1)


class TFSepNet(nn.Module):
    """Two strided 3x3 convolutions and nine blocks in four stages with ResNorm between them; 1x1, global mean.

    Args:
        n_classes: K.
        n_mels: not used: the net takes any number of bands.
        base_channels: c, a multiple of 16; the stem has c/2 and 2c channels, the stages c, 1.5c, 2c and 2.5c. 64 in the
            reports.
        dropout: of every path.
        in_channels: of the features.

    Shape: (batch, in_channels, frequency, time) -> (batch, n_classes). Needs 29 bands and 29 frames.
    """

    def __init__(
        self,
        *,
        n_classes: int,
        n_mels: int,
        base_channels: int = 64,
        dropout: float = 0.1,
        in_channels: int = 1,
    ) -> None:
        super().__init__()
        del n_mels
        if base_channels % 16:
            raise InputError(f"tf_sepnet: base_channels must be a multiple of 16, got {base_channels!r}")
        narrow, channels = base_channels // 2, 2 * base_channels
        self.stem = nn.Sequential(
            nn.Conv2d(in_channels, narrow, 3, stride=2, padding=1, bias=False),
            nn.BatchNorm2d(narrow),
            nn.ReLU(),
            WideningDepthwise(narrow, 4),
        )
        layers: list[nn.Module] = [ResidualNorm()]
        for blocks, halves in STAGES:
            if len(layers) > 1:
                layers.append(nn.MaxPool2d(2))
            width = base_channels * halves // 2
            for _ in range(blocks):
                layers.append(SepBlock(channels, width, dropout=dropout))
                channels = width
            layers.append(ResidualNorm())
        self.blocks = nn.Sequential(*layers)
        self.classifier = nn.Conv2d(channels, n_classes, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Logits of log-mel maps."""
        return self.classifier(self.blocks(self.stem(x))).mean(dim=(2, 3))
