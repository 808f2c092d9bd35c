"""Parameters and MACs of a torch model that the deployed graph cannot hold."""

from __future__ import annotations

import torch
from torch.utils.flop_counter import FlopCounterMode

from tinyasc.training.run import Trained


def parameters_and_macs(trained: Trained) -> tuple[int, int]:
    """Trainable parameters, and convolution and linear MACs of one clip (torch counts 2 FLOP per MAC)."""
    counter = FlopCounterMode(display=False)
    with torch.inference_mode(), counter:
        trained.module(torch.zeros(1, *trained.front_end.shape))
    return sum(p.numel() for p in trained.module.parameters()), counter.get_total_flops() // 2
