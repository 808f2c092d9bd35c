"""Attentive max feature maps (Shim et al., 2022) and the student that is made of them."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from tinyasc.errors import InputError

WIDTHS = (32, 48, 64, 32, 16)


def round_to_four(width: float) -> int:
    """The nearest multiple of 4, halves up, at least 4."""
    return max(4, int(width + 2) // 4 * 4)


class MFM(nn.Module):
    """Max feature map: a convolution to twice the channels, and the element-wise maximum of both halves.

    Shape: (batch, in_channels, F, T) -> (batch, channels, F', T'), as the convolution's.
    """

    def __init__(
        self,
        in_channels: int,
        channels: int,
        kernel_size: int | tuple[int, int] = 1,
        *,
        padding: int | tuple[int, int] = 0,
    ) -> None:
        super().__init__()
        self.layer = nn.Conv2d(in_channels, 2 * channels, kernel_size, padding=padding)

    def forward(self, x: Tensor) -> Tensor:
        """The larger half, value by value."""
        first, second = self.layer(x).chunk(2, dim=1)
        return torch.maximum(first, second)


class MFMLinear(nn.Module):
    """Max feature map of a linear layer. (batch, in_features) -> (batch, features)."""

    def __init__(self, in_features: int, features: int) -> None:
        super().__init__()
        self.layer = nn.Linear(in_features, 2 * features)

    def forward(self, x: Tensor) -> Tensor:
        """The larger half, value by value."""
        first, second = self.layer(x).chunk(2, dim=1)
        return torch.maximum(first, second)


class CBAM(nn.Module):
    """Convolutional block attention (Woo et al., ECCV 2018, section 3): a gate per channel, then one per position.

    The channel gate is sigmoid(mlp(mean) + mlp(max)) over the map, one MLP for both. Its second layer is linear, so
    that it runs once, on the mean of both hidden vectors, and is doubled: the same function with half the work. The
    spatial gate is the sigmoid of a 7x7 convolution (no bias, batch norm) over the maximum and the mean over channels.

    Args:
        channels: of the map.
        reduction: the MLP's hidden width is channels // reduction, at least 1.

    Shape: (batch, channels, frequency, time) -> the same.
    """

    def __init__(self, channels: int, *, reduction: int = 16) -> None:
        super().__init__()
        hidden = max(1, channels // reduction)
        self.squeeze = nn.Conv2d(channels, hidden, 1)
        self.relu = nn.ReLU()
        self.excite = nn.Conv2d(hidden, channels, 1)
        self.spatial = nn.Conv2d(2, 1, 7, padding=3, bias=False)
        self.norm = nn.BatchNorm2d(1)

    def channel_gate(self, x: Tensor) -> Tensor:
        """(batch, channels, 1, 1), each in (0, 1)."""
        pooled = torch.cat([x.mean(dim=(2, 3), keepdim=True), x.amax(dim=(2, 3), keepdim=True)], dim=2)
        hidden = self.relu(self.squeeze(pooled))
        return (2 * self.excite(hidden.mean(dim=2, keepdim=True))).sigmoid()

    def spatial_gate(self, x: Tensor) -> Tensor:
        """(batch, 1, frequency, time), each in (0, 1)."""
        pooled = torch.cat([x.amax(dim=1, keepdim=True), x.mean(dim=1, keepdim=True)], dim=1)
        return self.norm(self.spatial(pooled)).sigmoid()

    def forward(self, x: Tensor) -> Tensor:
        """Multiplies both gates onto x, one after the other."""
        x = x * self.channel_gate(x)
        return x * self.spatial_gate(x)


class AMFMBlock(nn.Module):
    """1x1 MFM, batch norm, 3x3 MFM, then y = max(x, CBAM(x)) (Shim et al., 2022, section 3).

    Shape: (batch, in_channels, F, T) -> (batch, channels, F, T).
    """

    def __init__(self, in_channels: int, channels: int) -> None:
        super().__init__()
        self.pointwise = MFM(in_channels, in_channels)
        self.norm = nn.BatchNorm2d(in_channels)
        self.mfm = MFM(in_channels, channels, 3, padding=1)
        self.attention = CBAM(channels)

    def forward(self, x: Tensor) -> Tensor:
        """The block's map."""
        x = self.mfm(self.norm(self.pointwise(x)))
        return torch.maximum(x, self.attention(x))


class AMFMStudent(nn.Module):
    """AMFM blocks under one scene head, small enough for 128 KB at int8 and 30 MMAC per second. [ours]

    The paper's trunk with pooling that rounds down and its two batch norms behind the pools, where they fold into the
    next block; its head without the last pool, and in place of flatten and linears of 230,000 parameters: mean over
    frequency, mean + max over time, batch norm, MFM linear, linear.

    Args:
        n_classes: K.
        n_mels: not used: the net takes any number of bands.
        channels_multiplier: of the paper's widths 32/48/64/32/16, rounded to multiples of 4.
        hidden: width of the linear MFM; 100 in the paper.
        dropout: before the linear MFM.
        in_channels: of the features.

    Shape: (batch, in_channels, frequency, time) -> (batch, n_classes). Needs 16 bands and 16 frames.
    """

    def __init__(
        self,
        *,
        n_classes: int,
        n_mels: int,
        channels_multiplier: float = 0.875,
        hidden: int = 100,
        dropout: float = 0.5,
        in_channels: int = 1,
    ) -> None:
        super().__init__()
        del n_mels
        if channels_multiplier <= 0:
            raise InputError(f"amfm: channels_multiplier must be above 0, got {channels_multiplier!r}")
        a, b, c, d, e = (round_to_four(width * channels_multiplier) for width in WIDTHS)
        # The released code pads 7x3 by (1, 7), a slip that grows the time axis; here the map keeps its size.
        self.trunk = nn.Sequential(
            MFM(in_channels, a, (7, 3), padding=(3, 1)),
            nn.MaxPool2d(2),
            AMFMBlock(a, b),
            nn.MaxPool2d(2),
            nn.BatchNorm2d(b),
            AMFMBlock(b, c),
            nn.MaxPool2d(2),
            AMFMBlock(c, d),
            nn.MaxPool2d(2),
            nn.BatchNorm2d(d),
            AMFMBlock(d, e),
        )
        self.head = nn.Sequential(
            nn.BatchNorm1d(e), nn.Dropout(dropout), MFMLinear(e, hidden), nn.Linear(hidden, n_classes)
        )

    def forward(self, x: Tensor) -> Tensor:
        """Logits of log-mel maps."""
        x = self.trunk(x).mean(dim=2)
        return self.head(x.mean(dim=2) + x.amax(dim=2))
