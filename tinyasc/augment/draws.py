"""Random numbers that follow from a generator alone; drawn on the CPU, so that a GPU sees the same ones."""

from __future__ import annotations

import torch
from torch import Generator, Tensor


def uniform(n: int, low: float, high: float, generator: Generator) -> Tensor:
    """(n,) float64 draws of U(low, high); float64, so that every sample of a long clip can be a start."""
    return low + (high - low) * torch.rand(n, generator=generator, dtype=torch.float64)


def chosen(n: int, prob: float, generator: Generator) -> Tensor:
    """(n,) bool, each true with probability `prob`."""
    return torch.rand(n, generator=generator) < prob


def beta(n: int, alpha: float, generator: Generator) -> Tensor:
    """(n,) float64 draws of Beta(alpha, alpha), in 0..1 and finite for every alpha > 0.

    X / (X + Y) of two Gamma(alpha) draws; torch's own Beta takes no generator. Their logarithms are drawn, as
    Gamma(alpha) = Gamma(alpha + 1) * U^(1 / alpha), since for a small alpha both draws underflow to 0.
    """
    shape = torch.full((2, n), alpha + 1, dtype=torch.float64)
    gamma = torch._standard_gamma(shape, generator=generator)  # pyright: ignore[reportPrivateImportUsage]
    u = torch.rand(2, n, generator=generator, dtype=torch.float64).clamp_min(torch.finfo(torch.float64).tiny)
    log = gamma.log() + u.log() / alpha
    return torch.sigmoid(log[0] - log[1])


def others(n: int, generator: Generator) -> Tensor:
    """(n,) int64: for each clip another one, every clip once; a batch of one is its own other.

    A random cycle, where a plain permutation would leave one clip per batch, on average, to itself.
    """
    order = torch.randperm(n, generator=generator)
    partner = torch.empty_like(order)
    partner[order] = order.roll(1)
    return partner
