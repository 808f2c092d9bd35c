"""Attention transfer: a student's maps are taught to be strong where its teacher's are.

Source: Zagoruyko & Komodakis, "Paying more attention to attention", ICLR 2017, section 3.1 (the sum of squares over
channels, normalised). There maps are of equal size; here both are averaged to a common grid first.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tinyasc.augment.hidden import check_layers
from tinyasc.errors import InputError


@contextmanager
def outputs_of(module: nn.Module, layers: Sequence[str]) -> Iterator[dict[str, Tensor]]:
    """What submodules put out while the `with` lasts, by name; of several passes the last."""
    known, found = dict(module.named_modules()), {}

    def keep(name: str) -> Any:
        return lambda _layer, _inputs, output: found.__setitem__(name, output)

    handles = [known[name].register_forward_hook(keep(name)) for name in dict.fromkeys(layers)]
    try:
        yield found
    finally:
        for handle in handles:
            handle.remove()


def check_maps(module: nn.Module, layers: Sequence[str], shape: tuple[int, int, int], whose: str) -> None:
    """Makes sure that submodules put out maps (batch, channels, bands, frames).

    Args:
        module: the model; left in its mode.
        layers: names as in `module.named_modules()`.
        shape: of the features, (channels, bands, frames).
        whose: "student" or "teacher", for the error line.

    Raises:
        InputError: no such submodule (the nearest name is given), or one that puts out no map.
    """
    check_layers(module, layers, f"distill.feature_layers: the {whose}")
    mode = module.training
    with torch.inference_mode(), outputs_of(module.eval(), layers) as found:
        module(torch.zeros(1, *shape))
    module.train(mode)
    for name in layers:
        output = found.get(name)
        if not isinstance(output, Tensor) or output.ndim != 4:
            shown = tuple(output.shape) if isinstance(output, Tensor) else type(output).__name__
            raise InputError(
                f"distill.feature_layers: the {whose}'s {name!r} puts out {shown}, no map of (batch, channels, bands, "
                "frames); name a layer before the pooling"
            )


def attention_transfer(student: Tensor, teacher: Tensor) -> Tensor:
    """The squared distance between two attention maps of length 1, mean over the batch: from 0 to 2.

    Args:
        student: (batch, channels, bands, frames).
        teacher: (batch, other channels, bands and frames); no gradient flows into it.
    """
    grid = (min(student.shape[2], teacher.shape[2]), min(student.shape[3], teacher.shape[3]))
    # A teacher answers in inference mode, whose tensors must be copied before a gradient passes by.
    own, wanted = _attention(student, grid), _attention(teacher.detach().clone(), grid)
    return (own - wanted).square().sum(dim=1).mean()


def _attention(maps: Tensor, grid: tuple[int, int]) -> Tensor:
    strength = maps.float().square().sum(dim=1, keepdim=True)
    return F.normalize(F.adaptive_avg_pool2d(strength, grid).flatten(1), dim=1)
