"""The pooling CNN student: the pooling trunk of Ren et al. (ICASSP 2019) in a form that microcontrollers can hold."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from tinyasc.errors import InputError
from tinyasc.models.first import first_convolution, halved

# Of the first two convolutions, where channels are few: the paper's. Nearly all parameters lie in the other two. [ours]
FIRST_KERNELS = (5, 5)


class PooledCNN(nn.Module):
    """Four convolutions (no bias) of 1/2/4/8 x base_channels, each with batch norm, ReLU and a 2x2 max pool.

    The trunk is `atrous_cnn`'s with `trunk: baseline`, but for the kernels of the last two convolutions. Its attention
    head, which int8 kernels lack operators for, gives way to that of CNN6 (Kong et al., PANNs, 2020): mean over
    frequency, then mean + max over time, and a linear layer.

    Args:
        n_classes: K.
        n_mels: not used: the net takes any number of bands from 16 up.
        base_channels: of the first convolution.
        kernel: 3 or 5 in the last two convolutions.
        first_stride: of the first convolution, in frequency and time (`tinyasc.models.first`).
        dropout: before the linear layer.
        in_channels: of the features.

    Shape: (batch, in_channels, frequency, time) -> (batch, n_classes). Needs 16 bands, 16 frames, times first_stride.

    Raises:
        InputError: another kernel, or no stride.
    """

    def __init__(
        self,
        *,
        n_classes: int,
        n_mels: int,
        base_channels: int = 16,
        kernel: int = 3,
        first_stride: Sequence[int] = (1, 1),
        dropout: float = 0.0,
        in_channels: int = 1,
    ) -> None:
        super().__init__()
        del n_mels
        if kernel not in (3, 5):
            raise InputError(f"pooled_cnn: kernel must be 3 or 5, got {kernel!r}")
        layers: list[nn.Module] = []
        channels = in_channels
        first, stride = first_convolution("pooled_cnn", (FIRST_KERNELS[0], FIRST_KERNELS[0]), first_stride)
        for i, size in enumerate((first, *((side, side) for side in (FIRST_KERNELS[1], kernel, kernel)))):
            width = base_channels * 2**i
            convolution = nn.Conv2d(channels, width, size, (1, 1) if i else stride, halved(size), bias=False)
            layers += [convolution, nn.BatchNorm2d(width), nn.ReLU(), nn.MaxPool2d(2)]
            channels = width
        self.trunk = nn.Sequential(*layers)
        self.dropout = nn.Dropout(dropout)
        self.linear = nn.Linear(channels, n_classes)

    def forward(self, x: Tensor) -> Tensor:
        """Logits of log-mel maps."""
        x = self.trunk(x).mean(dim=2)
        return self.linear(self.dropout(x.mean(dim=2) + x.amax(dim=2)))
