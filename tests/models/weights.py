"""Parameters of models: how many, random ones, and as arrays."""

from __future__ import annotations

import numpy as np
import torch
from torch import nn


def parameters(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


def randomize(module: nn.Module, seed: int = 0) -> nn.Module:
    """Random weights, and batch norms with statistics that matter; in evaluation mode."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for value in (*module.parameters(), *module.buffers()):
            if value.is_floating_point():
                value.copy_(torch.randn(value.shape, generator=generator, dtype=value.dtype))
        for part in module.modules():
            if isinstance(part, nn.modules.batchnorm._BatchNorm) and part.running_var is not None:
                part.running_var.abs_().add_(0.1)
    return module.eval()


def arrays(module: nn.Module) -> dict[str, np.ndarray]:
    return {name: value.detach().numpy() for name, value in module.state_dict().items()}
