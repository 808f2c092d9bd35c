"""Attention-based atrous CNN (Ren et al., ICASSP 2019): three trunks of 5x5 convolutions, six heads, 14 pairs."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from tinyasc.errors import InputError
from tinyasc.models.attention import AttentionPooling
from tinyasc.models.first import first_convolution, halved
from tinyasc.models.pooling import REGION, FlattenLinear, GlobalPooling, RegionMax

LAYERS = 4
REGIONAL = ("roi", "roi_attention")
# Trunk -> the heads of its lines in Table 1.
PAIRS = {
    "baseline": ("flatten", "max", "average", "attention"),
    "no_pooling": ("max", "average", "attention", *REGIONAL),
    "atrous": ("max", "average", "attention", *REGIONAL),
}


def trunk_widths(base_channels: int) -> tuple[int, ...]:
    """Channels of the four convolutions."""
    return tuple(base_channels * 2**i for i in range(LAYERS))


class Trunk(nn.Sequential):
    """Convolutions, batch norms and the rest in their order; a condition may enter at one of the convolutions.

    Shape: (batch, in_channels, F, T) -> (batch, 8 * base_channels, F', T').
    """

    def forward(self, x: Tensor, condition: Tensor | None = None, layer: int = 0) -> Tensor:
        """The last map.

        Args:
            x: features.
            condition: (batch, channels of `layer`, 1, 1), added to that convolution's output, before its batch norm.
            layer: which convolution, from 1.
        """
        seen = 0
        for part in self:
            x = part(x)
            if isinstance(part, nn.Conv2d):
                seen += 1
                if condition is not None and seen == layer:
                    x = x + condition
        return x


def make_trunk(kind: str, in_channels: int, base_channels: int, first_stride: Sequence[int] = (1, 1)) -> Trunk:
    """Four 5x5 convolutions without bias, each with batch norm and ReLU (section 3.2, figure 1).

    "baseline" has 2x2 max pooling after each, "no_pooling" none, "atrous" none and dilations 1/2/4/8. A stride of the
    first one is ours (`tinyasc.models.first`).
    """
    first, stride = first_convolution("atrous_cnn", (5, 5), first_stride)
    layers: list[nn.Module] = []
    for i, width in enumerate(trunk_widths(base_channels)):
        dilation = 2**i if kind == "atrous" else 1
        if i:
            convolution = nn.Conv2d(in_channels, width, 5, padding=2 * dilation, dilation=dilation, bias=False)
        else:
            convolution = nn.Conv2d(in_channels, width, first, stride, halved(first), bias=False)
        layers += [convolution, nn.BatchNorm2d(width), nn.ReLU()]
        if kind == "baseline":
            layers.append(nn.MaxPool2d(2))
        in_channels = width
    return Trunk(*layers)


class AtrousCNN(nn.Module):
    """Four 5x5 convolutions (no bias) of 1/2/4/8 x base_channels, each with batch norm and ReLU, and a pooling head.

    Args:
        n_classes: K.
        n_mels: bands; only heads "flatten" and "roi" need it.
        n_frames: frames; only heads "flatten" and "roi" need it.
        trunk: "baseline" (2x2 max pooling after each convolution), "no_pooling", or "atrous" (none either; dilation
            1/2/4/8).
        head: "max" or "average" over the map and a linear layer; "attention"; "flatten", all of the map into a linear
            layer, with trunk baseline; with the others "roi", the same after the maxima of 16x16 regions, and
            "roi_attention", attention over those maxima.
        base_channels: 64 in the paper; 16 for quick teachers.
        first_stride: of the first convolution, in frequency and time; 1 in the paper.
        in_channels: of the features.

    Shape: (batch, in_channels, frequency, time) -> (batch, n_classes).

    Raises:
        InputError: a trunk or head that is not there, a pair that Table 1 does not have, or too small a map to flatten.
    """

    family = "atrous_cnn"

    def __init__(
        self,
        *,
        n_classes: int,
        n_mels: int,
        n_frames: int | None = None,
        trunk: str = "baseline",
        head: str = "attention",
        base_channels: int = 64,
        first_stride: Sequence[int] = (1, 1),
        in_channels: int = 1,
    ) -> None:
        super().__init__()
        self._check_pair(trunk, head)
        self.trunk = make_trunk(trunk, in_channels, base_channels, first_stride)
        self.regions = RegionMax() if head in REGIONAL else nn.Identity()
        channels = trunk_widths(base_channels)[-1]
        if head in ("flatten", "roi"):
            if tuple(first_stride) != (1, 1):
                raise InputError(f"{self.family}: head {head} flattens maps of first_stride [1, 1] alone")
            self.head: nn.Module = FlattenLinear(channels, n_classes, self._map_size(head, n_mels, n_frames))
        elif head in ("attention", "roi_attention"):
            self.head = AttentionPooling(channels, n_classes)
        else:
            self.head = GlobalPooling(channels, n_classes, head)

    def features(self, x: Tensor) -> Tensor:
        """The map that the head pools."""
        return self.regions(self.trunk(x))

    def forward(self, x: Tensor) -> Tensor:
        """Logits of log-mel maps."""
        return self.head(self.features(x))

    def _check_pair(self, trunk: str, head: str) -> None:
        heads = tuple(dict.fromkeys(head for heads in PAIRS.values() for head in heads))
        for value, choices, name in ((trunk, PAIRS, "trunk"), (head, heads, "head")):
            if value not in choices:
                raise InputError(f"{self.family}: {name} {value!r} is unknown; choose one of: {', '.join(choices)}")
        if head not in PAIRS[trunk]:
            raise InputError(
                f"{self.family}: head {head} does not go with trunk {trunk}; choose one of: {', '.join(PAIRS[trunk])}"
            )

    def _map_size(self, head: str, n_mels: int, n_frames: int | None) -> tuple[int, int]:
        if n_frames is None:
            raise InputError(f"{self.family}: head {head} needs n_frames, the number of frames of its features")
        if head == "roi":
            return -(-n_mels // REGION), -(-n_frames // REGION)
        # Four pools, each of which halves and rounds down.
        size = n_mels // 16, n_frames // 16
        if not all(size):
            raise InputError(
                f"{self.family}: nothing is left to flatten of {n_mels} mels x {n_frames} frames after four 2x2 pools; "
                "it needs 16 of each"
            )
        return size
