"""Mixup: convex combinations of two clips and of their targets."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Generator, Tensor

from tinyasc.augment.draws import beta


class Mix(NamedTuple):
    """Which clip each clip is mixed with, and its own share; the partner has the rest.

    Shape: partner (batch,) int64, weight (batch,) float32.
    """

    partner: Tensor
    weight: Tensor

    def __call__(self, x: Tensor) -> Tensor:
        """Mixes (batch, ...) features, targets or a teacher's answers: weight * x + (1 - weight) * x[partner]."""
        partner = self.partner.to(x.device)
        weight = self.weight.to(x.device, x.dtype).view(-1, *[1] * (x.ndim - 1))
        return x * weight + x[partner] * (1 - weight)


def mixup(batch: int, generator: Generator, *, alpha: float) -> Mix:
    """Partners and weights of mixup: lambda ~ Beta(alpha, alpha), one per clip.

    The larger of lambda and 1 - lambda is the clip's own share, which changes nothing in distribution: the pair
    mixed the other way round is as probable.

    Source: Zhang et al., "mixup: Beyond empirical risk minimization", ICLR 2018, section 2.
    """
    own = beta(batch, alpha, generator)
    weight = torch.maximum(own, 1 - own).float()
    return Mix(torch.randperm(batch, generator=generator), weight)
