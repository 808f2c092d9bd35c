"""Between-class learning: two clips of different classes, mixed as heard, at a ratio that is the label."""

from __future__ import annotations

import torch
from torch import Generator, Tensor

from tinyasc.augment.a_weighting import loudest_level
from tinyasc.augment.draws import uniform
from tinyasc.augment.mixup import Mix


def between_class(x: Tensor, labels: Tensor, generator: Generator, *, sample_rate: int) -> tuple[Tensor, Mix]:
    """Mixes every clip with one of another class of the batch: r ~ U(0, 1), labels r and 1 - r.

    With levels G1 and G2 (`loudest_level`), p = 1 / (1 + 10^((G1 - G2) / 20) * (1 - r) / r) and
    mixed = (p x1 + (1 - p) x2) / sqrt(p^2 + (1 - p)^2): the amplitudes at which the two are heard stand as r to 1 - r,
    and the divisor keeps the level of parts that are equally loud, as powers add.

    Source: Tokozume et al., "Learning from between-class examples for deep sound recognition", ICLR 2018, equation 2;
    there the partner comes from the whole training set.

    Args:
        x: (batch, samples).
        labels: (batch,) class indices.
        generator: the only source of randomness.
        sample_rate: Hz.

    Returns:
        The mixtures (batch, samples), and what to mix the targets by. In a batch of one class every clip stays as it
        is.
    """
    partner, found = _of_another_class(labels.cpu(), generator)
    r = uniform(len(x), 0, 1, generator)
    r = torch.where(found, r, 1.0)
    level = loudest_level(x, sample_rate).double().cpu()
    louder = 10 ** ((level - level[partner]) / 20)
    # r / (r + louder * (1 - r)) is p without the division by an r of 0.
    p = r / (r + louder * (1 - r))
    norm = (p.square() + (1 - p).square()).sqrt()
    own, other = ((share / norm).to(x.device, x.dtype)[:, None] for share in (p, 1 - p))
    return own * x + other * x[partner.to(x.device)], Mix(partner, r.float())


def _of_another_class(labels: Tensor, generator: Generator) -> tuple[Tensor, Tensor]:
    """Uniform choices (batch,) among the clips of other classes, itself where there is none; whether there is one."""
    differs = labels[:, None] != labels[None, :]
    found = differs.any(dim=1)
    score = torch.rand(len(labels), len(labels), generator=generator).masked_fill(~differs, -1.0)
    return torch.where(found, score.argmax(dim=1), torch.arange(len(labels))), found
