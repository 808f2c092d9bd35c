"""CP-Mobile (Schmid et al., DCASE 2023 technical report) and the DCASE 2024/25 baseline, its offspring without GRN."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from tinyasc.errors import InputError

BLOCKS = (3, 2, 1)
# Year -> strides (frequency, time) of the blocks that have any, counted from 1.
STRIDES = {2023: {2: (2, 2), 4: (2, 1)}, 2024: {3: (1, 2), 4: (2, 1)}}


def round_to_eight(width: float) -> int:
    """The nearest multiple of 8, at least 8, never under 90 % of `width`."""
    rounded = max(8, int(width + 4) // 8 * 8)
    return rounded + 8 if rounded < 0.9 * width else rounded


class GlobalResponseNorm(nn.Module):
    """Global response normalisation with two scalars: x + gamma * x * n + beta (ConvNeXt V2, section 3.2).

    n is each channel's L2 norm over the map, divided by the mean of these norms over the channels. It is computed from
    mean squares with reciprocal square roots alone, which int8 kernels have where division and square root are lacking:
    the root mean square differs from the L2 norm by one factor, which the quotient cancels.

    Args:
        epsilon: added to squares before their reciprocal square root; [ours], the reports print none.

    Shape: (batch, channels, frequency, time) -> the same.
    """

    def __init__(self, *, epsilon: float = 1e-6) -> None:
        super().__init__()
        self.epsilon = epsilon
        self.gamma = nn.Parameter(torch.zeros(1))
        self.beta = nn.Parameter(torch.zeros(1))

    def forward(self, x: Tensor) -> Tensor:
        """The normalised map."""
        power = (x * x).mean(dim=(2, 3), keepdim=True)
        rms = power * (power + self.epsilon).rsqrt()
        mean = rms.mean(dim=1, keepdim=True)
        n = rms * (mean * mean + self.epsilon).rsqrt()
        return x * (n * self.gamma + 1) + self.beta


class InvertedResidual(nn.Module):
    """1x1 expansion, 3x3 depthwise, 1x1 projection, each with batch norm; shortcut, optional GRN, ReLU.

    The shortcut exists where the channels stay; a strided one is a 3x3 average pool whose padding counts as zeros.

    Shape: (batch, in_channels, F, T) -> (batch, channels, ceil(F / stride[0]), ceil(T / stride[1])).
    """

    def __init__(
        self, in_channels: int, channels: int, *, expansion_rate: float, stride: tuple[int, int], grn: bool
    ) -> None:
        super().__init__()
        hidden = round_to_eight(in_channels * expansion_rate)
        self.layers = nn.Sequential(
            nn.Conv2d(in_channels, hidden, 1, bias=False),
            nn.BatchNorm2d(hidden),
            nn.ReLU(),
            nn.Conv2d(hidden, hidden, 3, stride=stride, padding=1, groups=hidden, bias=False),
            nn.BatchNorm2d(hidden),
            nn.ReLU(),
            nn.Conv2d(hidden, channels, 1, bias=False),
            nn.BatchNorm2d(channels),
        )
        self.shortcut: nn.Module | None = None
        if in_channels == channels:
            self.shortcut = nn.Identity() if stride == (1, 1) else nn.AvgPool2d(3, stride, padding=1)
        self.grn = GlobalResponseNorm() if grn else nn.Identity()
        self.relu = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        """The block's map."""
        y = self.layers(x)
        if self.shortcut is not None:
            y = y + self.shortcut(x)
        return self.relu(self.grn(y))


class CPMobile(nn.Module):
    """Two strided 3x3 convolutions and three stages of 3, 2 and 1 inverted residuals; 1x1 to classes, global mean.

    Args:
        n_classes: K.
        n_mels: not used: the net takes any number of bands.
        base_channels: C, a multiple of 4; the stem has C/4 and C channels, the stages C, C*m and C*m^2.
        channels_multiplier: m; widths are rounded to multiples of 8.
        expansion_rate: of the inverted residuals.
        grn: global response normalisation before the last ReLU of every block.
        strides: 2023 for CP-Mobile's, 2024 for the baseline's, which keep more of the time axis.
        in_channels: of the features.

    Shape: (batch, in_channels, frequency, time) -> (batch, n_classes).
    """

    def __init__(
        self,
        *,
        n_classes: int,
        n_mels: int,
        base_channels: int = 32,
        channels_multiplier: float = 1.7,
        expansion_rate: float = 1.9,
        grn: bool = True,
        strides: int = 2023,
        in_channels: int = 1,
    ) -> None:
        super().__init__()
        del n_mels
        if strides not in STRIDES:
            raise InputError(f"cp_mobile: strides {strides!r} is unknown; choose one of: 2023, 2024")
        if base_channels < 4 or base_channels % 4:
            raise InputError(f"cp_mobile: base_channels must be a multiple of 4, got {base_channels!r}")
        layers: list[nn.Module] = []
        for before, after in ((in_channels, base_channels // 4), (base_channels // 4, base_channels)):
            convolution = nn.Conv2d(before, after, 3, stride=2, padding=1, bias=False)
            layers += [convolution, nn.BatchNorm2d(after), nn.ReLU()]
        self.stem = nn.Sequential(*layers)
        blocks: list[nn.Module] = []
        channels = base_channels
        for stage, count in enumerate(BLOCKS):
            # The first stage keeps C as it is.
            width = round_to_eight(base_channels * channels_multiplier**stage) if stage else base_channels
            for _ in range(count):
                stride = STRIDES[strides].get(len(blocks) + 1, (1, 1))
                blocks.append(InvertedResidual(channels, width, expansion_rate=expansion_rate, stride=stride, grn=grn))
                channels = width
        self.blocks = nn.Sequential(*blocks)
        self.head = nn.Sequential(nn.Conv2d(channels, n_classes, 1, bias=False), nn.BatchNorm2d(n_classes))

    def forward(self, x: Tensor) -> Tensor:
        """Logits of log-mel maps."""
        return self.head(self.blocks(self.stem(x))).mean(dim=(2, 3))
