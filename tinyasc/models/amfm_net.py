"""The AMFM system of Shim et al. (2022): scenes and their coarse groups, trained together in several ways."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from tinyasc.errors import InputError
from tinyasc.models.amfm_blocks import WIDTHS, build_block, conv_unit, linear_unit, round_to_four
from tinyasc.models.first import first_convolution

PADDING = (1, 7)
SCHEMES = ("none", "conventional", "extended", "sequential_groups_first", "sequential_scenes_first")


class Head(nn.Module):
    """One more block, a last hidden layer, and an output layer for each task that shares them.

    Args:
        in_channels: of the map.
        channels: of the block.
        map_size: (bands, frames) of the map.
        hidden: width of the last hidden layer.
        outputs: task -> number of classes.
        kind: of the block.
        dropout: before the hidden layer.

    Shape: (batch, in_channels, bands, frames) -> task -> (batch, classes).
    """

    def __init__(
        self,
        in_channels: int,
        channels: int,
        map_size: tuple[int, int],
        *,
        hidden: int,
        outputs: dict[str, int],
        kind: str,
        dropout: float,
    ) -> None:
        super().__init__()
        bands, frames = (halved(size) for size in map_size)
        self.hidden = nn.Sequential(
            build_block(kind, in_channels, channels),
            nn.BatchNorm2d(channels),
            halving(),
            nn.Flatten(),
            nn.Dropout(dropout),
            linear_unit(kind, channels * bands * frames, hidden),
        )
        self.outputs = nn.ModuleDict({task: nn.Linear(hidden, n) for task, n in outputs.items()})

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """Logits of every task."""
        x = self.hidden(x)
        return {task: output(x) for task, output in self.outputs.items()}


class AMFMNet(nn.Module):
    """Five-second maps through blocks, and heads for scenes and for their groups (sections 2.2 and 3.1, Figure 1).

    Trunk and heads are the paper's and its released code's: with 10 scenes and 3 groups at 256 bands x 251 frames,
    624,192 parameters in the scheme `extended` ("0.6M" in Table 2), of which 381,684, those of `none`, are left when
    the head of the groups is dropped. The paper's Table 2 has 1.5M for one task and for `conventional`, 0.7M for
    `sequential_groups_first`, and does not say how these heads differ. [ours]: they have the same head, which makes
    381,987 for `conventional` and 661,879 for both sequential schemes.

    Args:
        n_classes: K.
        n_mels: bands.
        n_frames: frames; the net takes maps of that length alone.
        parents: for every class the index of its group; empty without groups.
        scheme: how the tasks share the net; by default `extended` with groups, `none` without:
            `none`: scenes alone;
            `conventional`: all but the output layers is shared;
            `extended`: the trunk is shared, each task has a head of its own;
            `sequential_groups_first`: the groups' head stands on the trunk, the scenes' head one more block behind it
            (32 -> 48, as the trunk's first), with a batch norm [ours]; `sequential_scenes_first`: the other way round.
        joint_prediction: the scene's answer is p(scene) * p(its group), normalised; the losses stay each task's own.
            The paper prints no formula. [ours]
        block: `relu`, `relu_cbam`, `leaky_relu`, `leaky_relu_cbam`, `mfm`, `mfm_cbam` or `amfm`, as in Table 1. For the
            plain CNNs a convolution to n channels with its activation stands in every place of MFM(n), those of the
            first layer and of the hidden layers included: 190,854 parameters of `relu` in the scheme `none`. [ours]
        channels_multiplier: of the widths 32/48/64/32/16, rounded to multiples of 4.
        hidden: width of the last hidden layers.
        first_stride: of the first layer, in frequency and time; 1 in the paper.
        dropout: before the last hidden layers.
        in_channels: of the features.

    Shape: (batch, in_channels, n_mels, n_frames) -> (batch, n_classes).

    Raises:
        InputError: an unknown block or scheme, or one that needs groups where there are none.
    """

    def __init__(
        self,
        *,
        n_classes: int,
        n_mels: int,
        n_frames: int,
        parents: Sequence[int] | None = None,
        scheme: str | None = None,
        joint_prediction: bool = False,
        block: str = "amfm",
        channels_multiplier: float = 1.0,
        hidden: int = 100,
        first_stride: Sequence[int] = (1, 1),
        dropout: float = 0.5,
        in_channels: int = 1,
    ) -> None:
        super().__init__()
        parents = tuple(parents or ())
        scheme = scheme or ("extended" if parents else "none")
        if scheme not in SCHEMES:
            raise InputError(f"amfm_net: scheme {scheme!r} is unknown; choose one of: {', '.join(SCHEMES)}")
        if scheme != "none" and not parents:
            raise InputError(f"amfm_net: scheme {scheme} needs groups of scenes; name them in the recipe's data.groups")
        if joint_prediction and scheme == "none":
            raise InputError("amfm_net: joint_prediction needs a head for groups; choose another scheme than none")
        a, b, c, d, e = (round_to_four(width * channels_multiplier) for width in WIDTHS)
        first, stride = first_convolution("amfm_net", (7, 3), first_stride)
        self.trunk = nn.Sequential(
            # Padded as in the released code, which may have meant (3, 1).
            conv_unit(block, in_channels, a, first, padding=PADDING, stride=stride),
            halving(),
            build_block(block, a, b),
            halving(),
            nn.BatchNorm2d(b),
            build_block(block, b, c),
            halving(),
            build_block(block, c, d),
            nn.BatchNorm2d(d),
            halving(),
        )
        bands, frames = (
            (n + 2 * pad - kernel) // step + 1
            for n, pad, kernel, step in zip((n_mels, n_frames), PADDING, first, stride, strict=True)
        )
        size = bands, frames
        for _ in range(4):
            size = halved(size[0]), halved(size[1])

        def head(in_channels: int, **outputs: int) -> Head:
            return Head(in_channels, e, size, hidden=hidden, outputs=outputs, kind=block, dropout=dropout)

        groups = max(parents, default=-1) + 1
        # The task whose head stands one block behind the other's.
        self.later = {"sequential_groups_first": "scene", "sequential_scenes_first": "group"}.get(scheme)
        self.between = nn.Sequential(build_block(block, d, b), nn.BatchNorm2d(b)) if self.later else nn.Identity()
        self.heads = nn.ModuleDict()
        if scheme == "conventional":
            self.heads["scene"] = head(d, scene=n_classes, group=groups)
        else:
            self.heads["scene"] = head(b if self.later == "scene" else d, scene=n_classes)
            if scheme != "none":
                self.heads["group"] = head(b if self.later == "group" else d, group=groups)
        self.joint_prediction = joint_prediction
        # Not saved, so that the weights of a net with groups fit one without.
        self.parents: Tensor
        self.register_buffer("parents", torch.tensor(parents, dtype=torch.long), persistent=False)

    def tasks(self, x: Tensor, device: Tensor | None = None) -> dict[str, Tensor]:
        """Logits of each task's own head: "scene" (batch, n_classes) and, with groups, "group" (batch, n_groups)."""
        del device
        x = self.trunk(x)
        return {task: logits for name in self.heads for task, logits in self._answers(name, x).items()}

    def forward(self, x: Tensor, device: Tensor | None = None) -> Tensor:
        """Logits of the scenes; with joint_prediction log p(scene) + log p(its group)."""
        if not self.joint_prediction:
            return self._answers("scene", self.trunk(x))["scene"]
        found = self.tasks(x, device)
        return joint_logits(found["scene"], found["group"], self.parents)

    def shared_parameters(self) -> list[nn.Parameter]:
        """The kernel of the last layer that all tasks share: in the trunk, or with `conventional` the hidden layer."""
        shared: nn.Module = self.trunk
        if len(self.heads) == 1:
            shared = self.heads["scene"].get_submodule("hidden")
        # Those of CBAM gate the last layer, and are none.
        return [p for p in shared.parameters() if p.ndim == 2 or p.shape[2:] == (3, 3)][-1:]

    def _answers(self, name: str, x: Tensor) -> dict[str, Tensor]:
        return self.heads[name](self.between(x) if name == self.later else x)


def joint_logits(scene: Tensor, group: Tensor, parents: Tensor) -> Tensor:
    """Logits whose softmax is p(scene) * p(its group), normalised.

    Args:
        scene: (batch, K) logits.
        group: (batch, G) logits.
        parents: (K,) the group of each scene.

    Shape: (batch, K).
    """
    return scene.log_softmax(dim=1) + group.log_softmax(dim=1)[:, parents]


def halving() -> nn.MaxPool2d:
    """2x2 max pooling that rounds up."""
    return nn.MaxPool2d(2, ceil_mode=True)


def halved(size: int) -> int:
    """What `halving` makes of a side."""
    return -(-size // 2)
