"""The AMFM student: the blocks of Shim et al. (2022) under one small scene head."""

from __future__ import annotations

from torch import Tensor, nn

from tinyasc.errors import InputError
from tinyasc.models.amfm_blocks import MFM, WIDTHS, AMFMBlock, MFMLinear, round_to_four


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
