"""Attention-based atrous CNN (Ren et al., ICASSP 2019): four 5x5 convolutions, with pooling or with dilation."""

from __future__ import annotations

from torch import Tensor, nn

from tinyasc.errors import InputError
from tinyasc.models.attention import AttentionPooling

TRUNKS = ("baseline", "atrous")
HEADS = ("max", "average", "attention")


class GlobalPooling(nn.Module):
    """Global max or average pooling and a linear layer. (batch, channels, F, T) -> (batch, n_classes)."""

    def __init__(self, channels: int, n_classes: int, kind: str) -> None:
        super().__init__()
        self.kind = kind
        self.linear = nn.Linear(channels, n_classes)

    def forward(self, x: Tensor) -> Tensor:
        """Pools and classifies."""
        return self.linear(x.amax(dim=(2, 3)) if self.kind == "max" else x.mean(dim=(2, 3)))


class AtrousCNN(nn.Module):
    """Four 5x5 convolutions (no bias) of 1/2/4/8 x base_channels, each with batch norm and ReLU, and a pooling head.

    Args:
        n_classes: K.
        n_mels: not used: the trunk takes any number of bands.
        trunk: "baseline" (2x2 max pooling after each convolution) or "atrous" (none; dilation 1/2/4/8).
        head: "max", "average" or "attention".
        base_channels: 64 in the paper; 16 for quick teachers.
        in_channels: of the features.

    Shape: (batch, in_channels, frequency, time) -> (batch, n_classes).
    """

    def __init__(
        self,
        *,
        n_classes: int,
        n_mels: int,
        trunk: str = "baseline",
        head: str = "attention",
        base_channels: int = 64,
        in_channels: int = 1,
    ) -> None:
        super().__init__()
        del n_mels
        for value, choices, name in ((trunk, TRUNKS, "trunk"), (head, HEADS, "head")):
            if value not in choices:
                raise InputError(f"atrous_cnn: {name} {value!r} is unknown; choose one of: {', '.join(choices)}")
        layers: list[nn.Module] = []
        channels = in_channels
        for i in range(4):
            dilation = 2**i if trunk == "atrous" else 1
            width = base_channels * 2**i
            layers += [
                nn.Conv2d(channels, width, 5, padding=2 * dilation, dilation=dilation, bias=False),
                nn.BatchNorm2d(width),
                nn.ReLU(),
            ]
            if trunk == "baseline":
                layers.append(nn.MaxPool2d(2))
            channels = width
        self.trunk = nn.Sequential(*layers)
        self.head = (
            AttentionPooling(channels, n_classes) if head == "attention" else GlobalPooling(channels, n_classes, head)
        )

    def forward(self, x: Tensor) -> Tensor:
        """Logits of log-mel maps."""
        return self.head(self.trunk(x))
