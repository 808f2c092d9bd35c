"""BC-ResNet-ASC: broadcasted residual learning (Kim et al., DCASE 2021 technical report; Interspeech 2021)."""

from __future__ import annotations

from torch import Tensor, nn

from tinyasc.errors import InputError
from tinyasc.models.norms import ResidualNorm, SubSpectralNorm

# Blocks of each stage, their width in halves of base_channels, and whether the map is halved after them.
STAGES = ((2, 2, True), (2, 3, True), (2, 4, False), (3, 5, False))


class Swish(nn.Module):
    """x * sigmoid(x), of operators that the deployed graph has."""

    def forward(self, x: Tensor) -> Tensor:
        """The activated map."""
        return x * x.sigmoid()


class BroadcastedBlock(nn.Module):
    """A frequency-wise part over the map, a time-wise part over its mean, broadcast back.

    f2 = [1x1, batch norm, ReLU where the width changes,] depthwise 3x1, SubSpectralNorm; f1 = mean of f2 over
    frequency, depthwise 1x3, batch norm, swish, 1x1, channel dropout. The block is ReLU(f1 + f2 + x), without x where
    the width changes.

    Shape: (batch, in_channels, F, T) -> (batch, channels, F, T).
    """

    def __init__(self, in_channels: int, channels: int, *, sub_bands: int, dropout: float) -> None:
        super().__init__()
        self.keeps_width = in_channels == channels
        widen = [nn.Conv2d(in_channels, channels, 1, bias=False), nn.BatchNorm2d(channels), nn.ReLU()]
        self.frequency = nn.Sequential(
            *([] if self.keeps_width else widen),
            nn.Conv2d(channels, channels, (3, 1), padding=(1, 0), groups=channels, bias=False),
            SubSpectralNorm(channels, sub_bands),
        )
        self.time = nn.Sequential(
            nn.Conv2d(channels, channels, (1, 3), padding=(0, 1), groups=channels, bias=False),
            nn.BatchNorm2d(channels),
            Swish(),
            nn.Conv2d(channels, channels, 1, bias=False),
            nn.Dropout2d(dropout),
        )
        self.relu = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        """The block's map."""
        y = self.frequency(x)
        y = y + self.time(y.mean(dim=2, keepdim=True))
        return self.relu(y + x if self.keeps_width else y)


class BCResNet(nn.Module):
    """A 5x5 convolution, nine broadcasted blocks in four stages, each followed by ResNorm; 1x1 to classes, global mean.

    Args:
        n_classes: K.
        n_mels: bands of the input.
        base_channels: c, even; the stem has 2c channels, the stages c, 1.5c, 2c and 2.5c. 80 in the report's widest.
        sub_bands: S of SubSpectralNorm; must divide the maps' rows, n_mels / 2, / 4 and / 8.
        dropout: of whole channels, in every block.
        in_channels: of the features.

    Shape: (batch, in_channels, n_mels, time) -> (batch, n_classes). Needs 7 bands and 7 frames.
    """

    def __init__(
        self,
        *,
        n_classes: int,
        n_mels: int,
        base_channels: int = 80,
        sub_bands: int = 4,
        dropout: float = 0.1,
        in_channels: int = 1,
    ) -> None:
        super().__init__()
        if base_channels % 2:
            raise InputError(f"bc_resnet: base_channels must be even, got {base_channels!r}")
        if type(sub_bands) is not int or sub_bands < 1:
            raise InputError(f"bc_resnet: sub_bands must be a whole number from 1 up, got {sub_bands!r}")
        channels, rows = 2 * base_channels, (n_mels + 1) // 2
        self.stem = nn.Conv2d(in_channels, channels, 5, stride=2, padding=2, bias=False)
        layers: list[nn.Module] = []
        for blocks, halves, pooled in STAGES:
            width = base_channels * halves // 2
            if rows % sub_bands:
                raise InputError(
                    f"bc_resnet: sub_bands {sub_bands} does not divide a map of {rows} rows; with it n_mels must be a "
                    f"multiple of {8 * sub_bands}, got {n_mels}"
                )
            for _ in range(blocks):
                layers.append(BroadcastedBlock(channels, width, sub_bands=sub_bands, dropout=dropout))
                channels = width
            layers.append(ResidualNorm())
            if pooled:
                layers.append(nn.MaxPool2d(2))
                rows //= 2
        self.blocks = nn.Sequential(*layers)
        self.classifier = nn.Conv2d(channels, n_classes, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Logits of log-mel maps."""
        return self.classifier(self.blocks(self.stem(x))).mean(dim=(2, 3))
