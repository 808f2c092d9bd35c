"""Model families by name. `build(family, n_classes, n_mels, in_channels, **options)` makes one.

A family declares what it can do: students are capturable into the deployed graph, teachers need not be. Adding a family
to `FAMILIES` enrols it in the count, capture and export tests.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from tinyasc.errors import InputError
from tinyasc.models.amfm import AMFMStudent
from tinyasc.models.amfm_net import AMFMNet
from tinyasc.models.atrous_cnn import AtrousCNN
from tinyasc.models.bc_resnet import BCResNet
from tinyasc.models.caa_net import CAANet
from tinyasc.models.cp_mobile import CPMobile
from tinyasc.models.pooled_cnn import PooledCNN
from tinyasc.models.sepconv_ca import SepConvCA
from tinyasc.models.split_resnet import SplitResNet
from tinyasc.models.tf_sepnet import TFSepNet


@dataclass(frozen=True)
class Width:
    """The option that makes a family wide or narrow, which budgets turn.

    Args:
        option: its name.
        step: the narrowest value, and the distance from one value to the next; exact in binary.
        default: as the family's own default; the widest that a budget takes.
    """

    option: str
    step: float
    default: float


@dataclass(frozen=True)
class Family:
    """A model family: how it is built, how its width is set, and whether the deployed graph can hold it."""

    build: Callable[..., nn.Module]
    capturable: bool
    source: str
    width: Width


FAMILIES = {
    "amfm": Family(AMFMStudent, True, "Shim et al., 2022", Width("channels_multiplier", 0.125, 0.875)),
    "amfm_net": Family(AMFMNet, False, "Shim et al., 2022", Width("channels_multiplier", 0.125, 1.0)),
    "atrous_cnn": Family(AtrousCNN, False, "Ren et al., ICASSP 2019", Width("base_channels", 4, 64)),
    "bc_resnet": Family(BCResNet, True, "Kim et al., DCASE 2021", Width("base_channels", 8, 80)),
    "caa_net": Family(CAANet, False, "Ren et al., 2020", Width("base_channels", 4, 64)),
    "cp_mobile": Family(CPMobile, True, "Schmid et al., DCASE 2023", Width("base_channels", 4, 32)),
    "pooled_cnn": Family(PooledCNN, True, "after Ren et al., ICASSP 2019", Width("base_channels", 1, 16)),
    "sepconv_ca": Family(SepConvCA, True, "Xin et al., DCASE 2022", Width("base_channels", 4, 64)),
    "split_resnet": Family(SplitResNet, False, "McDonnell & Gao, DCASE 2019", Width("base_channels", 4, 24)),
    "tf_sepnet": Family(TFSepNet, True, "Cai et al., DCASE 2023", Width("base_channels", 16, 64)),
}


def build(
    family: str,
    *,
    n_classes: int,
    n_mels: int,
    in_channels: int = 1,
    n_frames: int | None = None,
    parents: tuple[int, ...] = (),
    n_devices: int = 0,
    **options: Any,
) -> nn.Module:
    """Builds a model that maps (batch, in_channels, n_mels, frames) to logits (batch, n_classes).

    Args:
        family: a key of `FAMILIES`.
        n_classes: K.
        n_mels: bands of the features.
        in_channels: channels of the features.
        n_frames: frames of the features, for families that flatten their maps.
        parents: the group of every class, for families that learn groups beside the scenes.
        n_devices: recording devices of the training clips, for families that learn or are given them.
        options: the family's own.

    Raises:
        InputError: an unknown family, an option that the family does not have, or several input channels where it takes
            one.
    """
    if family not in FAMILIES:
        raise InputError(f"model family {family!r} is unknown; choose one of: {', '.join(sorted(FAMILIES))}")
    _check_width(family, options)
    known = inspect.signature(FAMILIES[family].build).parameters
    if in_channels != 1 and "in_channels" not in known:
        raise InputError(
            f"model family {family} takes one channel, the front end gives {in_channels}; "
            "leave out front_end.deltas and front_end.stereo, or choose another family"
        )
    facts = {"in_channels": in_channels, "n_frames": n_frames, "parents": parents, "n_devices": n_devices}
    given = ", ".join(f"{key}={value!r}" for key, value in options.items())
    options = options | {key: value for key, value in facts.items() if key in known}
    try:
        return FAMILIES[family].build(n_classes=n_classes, n_mels=n_mels, **options)
    except (TypeError, ValueError, RuntimeError, ZeroDivisionError) as error:
        raise InputError(
            f"model family {family} cannot be built with {given} ({str(error).split(') ')[-1]}); "
            "check the recipe's `model` part"
        ) from None


def _check_width(family: str, options: dict[str, Any]) -> None:
    width = FAMILIES[family].width
    value = options.get(width.option, width.default)
    if isinstance(width.step, int):
        good, wanted = type(value) is int and value >= 1, "a whole number from 1 up"
    else:
        good, wanted = type(value) in (int, float) and 0 < value < math.inf, "a number above 0"
    if not good:
        raise InputError(f"model family {family}: {width.option} must be {wanted}, got {value!r}")


def check_input(module: nn.Module, family: str, *, shape: tuple[int, int, int]) -> None:
    """Runs a fresh model on silence once, before anything is trained.

    Args:
        module: the model.
        family: its name, for the error line.
        shape: of the features, (channels, n_mels, frames).

    Raises:
        InputError: features too small for its pooling, or a width that its layers cannot have.
    """
    try:
        with torch.inference_mode():
            module.eval()(torch.zeros(1, *shape))
    except RuntimeError as error:
        raise InputError(
            f"model family {family} cannot take {shape[1]} mels x {shape[2]} frames "
            f"({str(error).splitlines()[0]}); lengthen the clip or change the recipe's front end"
        ) from None
    module.train()
