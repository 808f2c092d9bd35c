"""What makes class scores of a map: global pooling, regions of interest, flattening."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from tinyasc.errors import InputError

REGION = 16


class GlobalPooling(nn.Module):
    """Global max or average pooling and a linear layer. (batch, channels, F, T) -> (batch, n_classes)."""

    def __init__(self, channels: int, n_classes: int, kind: str) -> None:
        super().__init__()
        self.kind = kind
        self.linear = nn.Linear(channels, n_classes)

    def forward(self, x: Tensor) -> Tensor:
        """Pools and classifies."""
        return self.linear(x.amax(dim=(2, 3)) if self.kind == "max" else x.mean(dim=(2, 3)))


class RegionMax(nn.Module):
    """Region-of-interest pooling: the maximum of each sub-area of 16x16 (Ren et al., 2020, section III-D).

    So 64x320 becomes 4x20, as four 2x2 pools make it. Where a map is no multiple of 16, the last row and column of
    regions are as much smaller, so that nothing of it is lost; a map below 16x16 is one region. [ours]

    Shape: (batch, channels, F, T) -> (batch, channels, ceil(F / 16), ceil(T / 16)).
    """

    def forward(self, x: Tensor) -> Tensor:
        """The largest value of every region."""
        return F.max_pool2d(x, REGION, ceil_mode=True)


class FlattenLinear(nn.Module):
    """All values of a map into one linear layer. (batch, channels, F, T) -> (batch, n_classes).

    Args:
        channels: of the map.
        n_classes: K.
        size: (F, T), which stands fast.
    """

    def __init__(self, channels: int, n_classes: int, size: tuple[int, int]) -> None:
        super().__init__()
        self.size = size
        self.linear = nn.Linear(channels * size[0] * size[1], n_classes)

    def forward(self, x: Tensor) -> Tensor:
        """Classifies the whole map.

        Raises:
            InputError: a map of another size.
        """
        if x.shape[2:] != self.size:
            wanted, got = (f"{size[0]} x {size[1]}" for size in (self.size, x.shape[2:]))
            raise InputError(
                f"heads flatten and roi take maps of one size, here {wanted}, got {got}; leave out "
                "augment.crop_frames, or choose head max, average or attention"
            )
        return self.linear(x.flatten(1))
