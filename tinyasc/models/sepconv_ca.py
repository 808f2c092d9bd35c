"""Separable convolutions with coordinate attention (Xin et al., DCASE 2022 technical report)."""

from __future__ import annotations

from torch import Tensor, nn

from tinyasc.errors import InputError
from tinyasc.models.attention import ACTIVATIONS, CoordinateAttention


class SepConvBlock(nn.Module):
    """1x1 convolution, then dilated 3x1 and 1x3 depthwise convolutions in parallel, each with batch norm; sum; ReLU.

    Shape: (batch, in_channels, F, T) -> (batch, channels, F, T).
    """

    def __init__(self, in_channels: int, channels: int) -> None:
        super().__init__()
        depthwise = {"groups": channels, "dilation": 2, "bias": False}
        self.pointwise = nn.Conv2d(in_channels, channels, 1, bias=False)
        self.frequency = nn.Conv2d(channels, channels, (3, 1), padding=(2, 0), **depthwise)
        self.frequency_norm = nn.BatchNorm2d(channels)
        self.time = nn.Conv2d(channels, channels, (1, 3), padding=(0, 2), **depthwise)
        self.time_norm = nn.BatchNorm2d(channels)
        self.relu = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        """The block's map."""
        x = self.pointwise(x)
        return self.relu(self.frequency_norm(self.frequency(x)) + self.time_norm(self.time(x)))


class SepConvCA(nn.Module):
    """CNN6's frame of four blocks with 2x2 average pooling, separable convolutions and coordinate attention.

    Args:
        n_classes: K.
        n_mels: bands of the input, each with its own batch norm, which all channels share.
        base_channels: widths are 1/2/2/2 times this; 64 in the report (75,562 parameters at 256 mels).
        attention: false leaves coordinate attention out, which makes the net SP4ASC (63,818 parameters at 256 mels).
        attention_activation: "hardswish" as reported, or "relu".
        dropout: before both linear layers.
        in_channels: of the features.

    Shape: (batch, in_channels, n_mels, time) -> (batch, n_classes). Needs n_mels >= 16 and 16 frames.
    """

    def __init__(
        self,
        *,
        n_classes: int,
        n_mels: int,
        base_channels: int = 64,
        attention: bool = True,
        attention_activation: str = "hardswish",
        dropout: float = 0.1,
        in_channels: int = 1,
    ) -> None:
        super().__init__()
        if attention_activation not in ACTIVATIONS:
            choices = ", ".join(ACTIVATIONS)
            raise InputError(
                f"sepconv_ca: attention_activation {attention_activation!r} is unknown; choose one of: {choices}"
            )
        if not isinstance(attention, bool):
            raise InputError(f"sepconv_ca: attention must be true or false, got {attention!r}")
        if not attention and attention_activation != "hardswish":
            raise InputError("sepconv_ca: attention_activation has no meaning without attention; take it out")
        self.input_norm = nn.BatchNorm2d(n_mels)
        layers: list[nn.Module] = []
        channels = in_channels
        for multiple in (1, 2, 2, 2):
            width = base_channels * multiple
            layers += [
                SepConvBlock(channels, width),
                CoordinateAttention(width, activation=attention_activation) if attention else nn.Identity(),
                nn.AvgPool2d(2),
            ]
            channels = width
        self.blocks = nn.Sequential(*layers)
        self.head = nn.Sequential(
            nn.Dropout(dropout),
            nn.Linear(channels, channels),
            nn.ReLU(),
            nn.Dropout(dropout),
            nn.Linear(channels, n_classes),
        )

    def forward(self, x: Tensor) -> Tensor:
        """Logits of log-mel maps."""
        x = self.input_norm(x.transpose(1, 2)).transpose(1, 2)
        x = self.blocks(x).mean(dim=2)
        return self.head(x.amax(dim=2) + x.mean(dim=2))
