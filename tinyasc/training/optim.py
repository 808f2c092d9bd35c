"""Optimisers by a recipe: which one, which parameters learn, and which of them decay."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvNd

from tinyasc.errors import InputError
from tinyasc.training.recipe_parts import Training

NORMS = (_BatchNorm, nn.GroupNorm, nn.LayerNorm)


def make_optimizer(module: nn.Module, training: Training) -> torch.optim.Optimizer:
    """The recipe's optimiser over the parameters that learn.

    Raises:
        InputError: nothing is left to learn, or the decay rule covers nothing.
    """
    groups = parameter_groups(module, training)
    if training.optimizer == "sgd":
        return torch.optim.SGD(groups, lr=training.lr, momentum=training.momentum, nesterov=training.nesterov)
    kind = torch.optim.AdamW if training.optimizer == "adamw" else torch.optim.Adam
    return kind(groups, lr=training.lr)


def parameter_groups(module: nn.Module, training: Training) -> list[dict[str, Any]]:
    """Parameters that learn, in the module's order: those that decay, then those that do not.

    Raises:
        InputError: as `make_optimizer`.
    """
    learning = [p for p in module.parameters() if p.requires_grad]
    if not learning:
        raise InputError(
            "training: every parameter is frozen; take out freeze_norm or norm_affine, or take another model"
        )
    if training.weight_decay_on == "all":
        return [{"params": learning, "weight_decay": training.weight_decay}]
    chosen = {id(p) for p in _decaying(module, training.weight_decay_on)}
    decaying = [p for p in learning if id(p) in chosen]
    if not decaying:
        raise InputError(f"training.weight_decay_on: the model has no {training.weight_decay_on} to decay; use all")
    others = [p for p in learning if id(p) not in chosen]
    groups = [{"params": decaying, "weight_decay": training.weight_decay}]
    return [*groups, {"params": others, "weight_decay": 0.0}] if others else groups


def prepare_norms(module: nn.Module, *, affine: bool, frozen: bool) -> None:
    """Stops scale and offset of batch norms from learning; without `affine` they are 1 and 0, as if there were none.

    Statistics of frozen norms stand still only in evaluation mode: see `freeze_statistics`.
    """
    for norm in module.modules():
        if isinstance(norm, _BatchNorm) and norm.affine:
            if not affine:
                nn.init.ones_(norm.weight)
                nn.init.zeros_(norm.bias)
            if frozen or not affine:
                norm.weight.requires_grad_(False)
                norm.bias.requires_grad_(False)


def freeze_statistics(module: nn.Module) -> None:
    """Puts batch norms in evaluation mode; to be called after every `module.train()`."""
    for norm in module.modules():
        if isinstance(norm, _BatchNorm):
            norm.eval()


def _decaying(module: nn.Module, rule: str) -> list[Tensor]:
    if rule == "convs":
        return [m.weight for m in module.modules() if isinstance(m, _ConvNd)]
    norms = {id(p) for m in module.modules() if isinstance(m, NORMS) for p in m.parameters(recurse=False)}
    return [p for p in module.parameters() if p.ndim > 1 and id(p) not in norms]
