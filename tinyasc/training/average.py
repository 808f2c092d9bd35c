"""An exponential moving average of a module's weights (Polyak averaging; Tarvainen & Valpola, NeurIPS 2017)."""

from __future__ import annotations

import copy

import torch
from torch import nn


def averaged_copy(module: nn.Module) -> nn.Module:
    """A copy that no gradient reaches, which `update` moves towards the module."""
    return copy.deepcopy(module).requires_grad_(False)


@torch.no_grad()
def update(average: nn.Module, module: nn.Module, *, decay: float, step: int) -> None:
    """Moves the average towards the module by 1 - min(decay, (1 + step) / (10 + step)).

    Batch statistics are averaged as the weights are; whole numbers, such as counts of batches, are copied.

    Args:
        average: from `averaged_copy`; changed.
        module: as it stands after an optimiser's step.
        decay: in [0, 1), the share of the average that stays.
        step: optimiser steps so far; in the first the average follows quickly, so that the random start is forgotten.
    """
    share = 1 - min(decay, (1 + step) / (10 + step))
    olds, news = [], []
    for old, new in zip(average.state_dict().values(), module.state_dict().values(), strict=True):
        if old.is_floating_point():
            olds.append(old)
            news.append(new)
        else:
            old.copy_(new)
    torch._foreach_lerp_(olds, news, share)  # pyright: ignore[reportPrivateImportUsage] (as torch.optim does)
