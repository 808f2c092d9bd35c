"""Split-frequency ResNet (McDonnell & Gao, DCASE 2019 technical report)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tinyasc.errors import InputError
from tinyasc.models.first import first_convolution, halved

STACKS = 4
BLOCKS_PER_STACK = 2


def plain_norm(channels: int) -> nn.BatchNorm2d:
    """A batch norm without scale and offset (section 3.5 of the report)."""
    return nn.BatchNorm2d(channels, affine=False)


class PreActivationBlock(nn.Module):
    """Twice (batch norm, ReLU, 3x3 convolution without bias), and the shortcut added (section 3.4).

    Where the block changes the map's size, the shortcut is a 3x3 average pool of the same stride, whose mean leaves
    padding out as TensorFlow's does, and new channels are zeros.

    Shape: (batch, in_channels, F, T) -> (batch, channels, F, ceil(T / stride)).
    """

    def __init__(self, in_channels: int, channels: int, *, stride: int = 1) -> None:
        super().__init__()
        self.added_channels = channels - in_channels
        steps = (1, stride)
        self.layers = nn.Sequential(
            plain_norm(in_channels),
            nn.ReLU(),
            nn.Conv2d(in_channels, channels, 3, stride=steps, padding=1, bias=False),
            plain_norm(channels),
            nn.ReLU(),
            nn.Conv2d(channels, channels, 3, padding=1, bias=False),
        )
        pool = nn.AvgPool2d(3, steps, padding=1, count_include_pad=False)
        self.pool = nn.Identity() if stride == 1 else pool

    def forward(self, x: Tensor) -> Tensor:
        """The block's map."""
        shortcut = self.pool(x)
        if self.added_channels:
            shortcut = F.pad(shortcut, (0, 0, 0, 0, 0, self.added_channels))
        return self.layers(x) + shortcut


class ResidualPath(nn.Sequential):
    """17 3x3 convolutions: the first behind a learned batch norm, then 4 stacks of 2 blocks, which stride time alone.

    Shape: (batch, in_channels, F, T) -> (batch, 8 * base_channels, F, ceil(T / 16)) with a first stride of (1, 2).
    """

    def __init__(self, in_channels: int, base_channels: int, first_stride: Sequence[int]) -> None:
        kernel, stride = first_convolution("split_resnet", (3, 3), first_stride)
        layers: list[nn.Module] = [
            nn.BatchNorm2d(in_channels),
            nn.Conv2d(in_channels, base_channels, kernel, stride, halved(kernel), bias=False),
        ]
        channels = base_channels
        for stack in range(STACKS):
            width = base_channels * 2**stack
            for block in range(BLOCKS_PER_STACK):
                stride = 2 if stack and not block else 1
                layers.append(PreActivationBlock(channels, width, stride=stride))
                channels = width
        super().__init__(*layers)


class SplitResNet(nn.Module):
    """A residual path for low and one for high frequencies, joined by two 1x1 convolutions.

    The head is batch norm, ReLU, 1x1 to 32 * base_channels, batch norm, 1x1 to K, batch norm, global mean. Nothing
    non-linear lies between its convolutions, so lowering makes one of 8 * base_channels -> K out of them.

    Args:
        n_classes: K.
        n_mels: bands of the input; the lower n_mels // 2 take the first path.
        base_channels: 24 in the report; the stacks have 1/2/4/8 times as many.
        split: false sends all bands through one path; [ours] of the same widths, so with the same MACs and about half
            of the parameters. With base_channels 34 it has about as many parameters as the split net.
        first_stride: of each path's first convolution, in frequency and time.
        in_channels: of the features: 3 with deltas and delta-deltas, 6 in stereo.

    Shape: (batch, in_channels, n_mels, time) -> (batch, n_classes). Any number of frames.
    """

    def __init__(
        self,
        *,
        n_classes: int,
        n_mels: int,
        base_channels: int = 24,
        split: bool = True,
        first_stride: Sequence[int] = (1, 2),
        in_channels: int = 1,
    ) -> None:
        super().__init__()
        if not isinstance(split, bool):
            raise InputError(f"split_resnet: split must be true or false, got {split!r}")
        if split and n_mels < 2:
            raise InputError(f"split_resnet: n_mels must be at least 2 to be split, got {n_mels}")
        self.heights = [n_mels // 2, n_mels - n_mels // 2] if split else [n_mels]
        self.paths = nn.ModuleList(ResidualPath(in_channels, base_channels, first_stride) for _ in self.heights)
        channels, hidden = 8 * base_channels, 32 * base_channels
        self.head = nn.Sequential(
            plain_norm(channels),
            nn.ReLU(),
            nn.Conv2d(channels, hidden, 1, bias=False),
            plain_norm(hidden),
            nn.Conv2d(hidden, n_classes, 1, bias=False),
            plain_norm(n_classes),
        )

    def forward(self, x: Tensor) -> Tensor:
        """Logits of log-mel maps."""
        parts = x.split(self.heights, dim=2)
        joined = torch.cat([path(part) for path, part in zip(self.paths, parts, strict=True)], dim=2)
        return self.head(joined).mean(dim=(2, 3))
