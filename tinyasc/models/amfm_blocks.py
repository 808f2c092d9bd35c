"""Attentive max feature maps and the blocks that they were compared with (Shim et al., 2022)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from tinyasc.errors import InputError

WIDTHS = (32, 48, 64, 32, 16)
BLOCKS = ("relu", "relu_cbam", "leaky_relu", "leaky_relu_cbam", "mfm", "mfm_cbam", "amfm")


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
        stride: int | tuple[int, int] = 1,
    ) -> None:
        super().__init__()
        self.layer = nn.Conv2d(in_channels, 2 * channels, kernel_size, stride, padding)

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


def conv_unit(
    kind: str,
    in_channels: int,
    channels: int,
    kernel_size: int | tuple[int, int] = 1,
    *,
    padding: int | tuple[int, int] = 0,
    stride: int | tuple[int, int] = 1,
) -> nn.Module:
    """What stands where the AMFM system has an MFM: one, or a convolution to `channels` and an activation. [ours]

    The paper prints no sizes of its plain CNNs; with the MFM's outputs, not its twice as many, they have about half the
    parameters. The slope of the leaky ReLU is torch's 0.01.
    """
    if "mfm" in kind:
        return MFM(in_channels, channels, kernel_size, padding=padding, stride=stride)
    return nn.Sequential(nn.Conv2d(in_channels, channels, kernel_size, stride, padding), _activation(kind))


def linear_unit(kind: str, in_features: int, features: int) -> nn.Module:
    """The same for an MFM of a linear layer."""
    if "mfm" in kind:
        return MFMLinear(in_features, features)
    return nn.Sequential(nn.Linear(in_features, features), _activation(kind))


def build_block(kind: str, in_channels: int, channels: int) -> nn.Module:
    """One of the seven blocks of Table 1 in Shim et al., 2022.

    Args:
        kind: one of `BLOCKS`: what follows a convolution, with `_cbam` where the block ends in a CBAM. `amfm` ends in
            the larger of a map and its CBAM.
        in_channels: of the map.
        channels: of the block's.

    Shape: (batch, in_channels, F, T) -> (batch, channels, F, T).

    Raises:
        InputError: an unknown kind.
    """
    if kind not in BLOCKS:
        raise InputError(f"amfm_net: block {kind!r} is unknown; choose one of: {', '.join(BLOCKS)}")
    if kind == "amfm":
        return AMFMBlock(in_channels, channels)
    layers = [
        conv_unit(kind, in_channels, in_channels),
        nn.BatchNorm2d(in_channels),
        conv_unit(kind, in_channels, channels, 3, padding=1),
    ]
    return nn.Sequential(*layers, *([CBAM(channels)] if kind.endswith("_cbam") else []))


def _activation(kind: str) -> nn.Module:
    return nn.LeakyReLU() if kind.startswith("leaky") else nn.ReLU()
