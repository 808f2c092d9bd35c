"""What competition tools count, beside the project's own exact counts (`tinyasc_export.count`).

The DCASE low-complexity figures are torchinfo's: for each parameter of a convolution its values times the output
positions, for each parameter of any other layer its values once. So a batch norm counts 2 per channel however large its
map, and a bias one per output element. Parameters that a module holds itself, as GRN's two scalars, count nothing.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from tinyasc_export.count import macs_per_op
from tinyasc_export.graph import WEIGHTED, Graph


def unfused_count(module: nn.Module, shape: Sequence[int]) -> int:
    """The tool's count of a torch model as it is trained, batch norms standing alone.

    Args:
        module: any model of convolutions, linear layers and batch norms; teachers too.
        shape: of its input, (1, channels, frequency, time).

    Returns:
        Multiply-accumulates as the tool counts them: convolutions, linear layers, and 2 per batch norm channel.
    """
    total = 0

    def add(layer: nn.Module, inputs: Any, output: torch.Tensor) -> None:
        nonlocal total
        positions = output[0, 0].numel() if isinstance(layer, nn.modules.conv._ConvNd) else 1
        total += positions * sum(p.numel() for p in layer.parameters(recurse=False))

    kinds = (nn.modules.conv._ConvNd, nn.Linear, nn.modules.batchnorm._BatchNorm)
    hooks = [layer.register_forward_hook(add) for layer in module.modules() if isinstance(layer, kinds)]
    modes = {part: part.training for part in module.modules()}
    first = next(module.parameters())
    try:
        with torch.inference_mode():
            module.eval()(torch.zeros(*shape, dtype=first.dtype, device=first.device))
    finally:
        for hook in hooks:
            hook.remove()
        for part, training in modes.items():
            part.training = training
    return total


def fused_count(graph: Graph) -> int:
    """The tool's count of a model whose batch norms are folded: its MACs, and one per output element of a biased layer.

    Args:
        graph: lowered (`tinyasc_export.lower`).
    """
    total = 0
    for op, macs in zip(graph.ops, macs_per_op(graph), strict=True):
        if op.kind in WEIGHTED:
            outputs = math.prod(graph.tensors[op.output].shape)
            total += macs + (outputs if len(op.inputs) == 3 else 0)
    return total
