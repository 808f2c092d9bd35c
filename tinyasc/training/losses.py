"""Losses of class probabilities."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

# 1 - p at the least: below gamma 1 the loss has no slope that could be computed at p = 1.
LEAST_MISS = 1e-6


def focal_loss(logits: Tensor, target: Tensor, gamma: float) -> Tensor:
    """Focal loss (Lin et al., ICCV 2017, section 3.2) with soft targets: cross-entropy where gamma is 0.

    The mean over clips of -sum over classes of y_k * (1 - p_k)^gamma * log p_k: a class that is answered well already
    counts less.

    Args:
        logits: (batch, K).
        target: (batch, K), rows of sum 1.
        gamma: not negative.
    """
    if not gamma:
        return F.cross_entropy(logits, target)
    log_p = logits.log_softmax(dim=1)
    missed = (1 - log_p.exp()).clamp(min=LEAST_MISS)
    return -(target * missed**gamma * log_p).sum(dim=1).mean()
