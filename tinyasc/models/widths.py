"""The widths of a network's layers, as plain numbers: what a narrowed network keeps beside its weights."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import nn

from tinyasc.errors import InputError

BATCH_NORM = nn.modules.batchnorm._BatchNorm
LAYERS = (nn.Conv2d, nn.Linear, BATCH_NORM)


def layer_widths(module: nn.Module) -> dict[str, list[int]]:
    """[inputs, outputs, groups] of every convolution, [inputs, outputs] of linear layers, [channels] of batch norms."""
    return {name: _widths(layer) for name, layer in module.named_modules() if isinstance(layer, LAYERS)}


def narrow_layers(module: nn.Module, widths: Mapping[str, object]) -> None:
    """Makes layers as narrow as they were stored. Their weights are to be loaded afterwards.

    Args:
        module: as its family builds it; changed.
        widths: of layers by name, as `layer_widths` gives them; a layer that is not named stays as it is.

    Raises:
        InputError: no such layer, no such widths, or wider ones than the module has.
    """
    layers = dict(module.named_modules())
    for name, wanted in widths.items():
        layer = layers.get(name)
        if not isinstance(layer, LAYERS):
            raise InputError(f"widths of {name!r}, which is no layer of the model")
        own = _widths(layer)
        numbers = wanted if isinstance(wanted, list) and all(type(value) is int for value in wanted) else []
        if len(numbers) != len(own) or not all(1 <= new <= old for new, old in zip(numbers, own, strict=True)):
            raise InputError(f"widths {wanted!r} of {name!r}, which has {own}")
        _narrow(layer, numbers)


def _widths(layer: nn.Module) -> list[int]:
    if isinstance(layer, nn.Conv2d):
        return [layer.in_channels, layer.out_channels, layer.groups]
    if isinstance(layer, nn.Linear):
        return [layer.in_features, layer.out_features]
    assert isinstance(layer, BATCH_NORM)
    return [layer.num_features]


def _narrow(layer: nn.Module, widths: list[int]) -> None:
    inputs, outputs = widths[0], widths[min(1, len(widths) - 1)]
    if isinstance(layer, nn.Conv2d):
        layer.in_channels, layer.out_channels, layer.groups = widths
        if inputs % layer.groups or outputs % layer.groups:
            raise InputError(f"{layer.groups} groups of {inputs} and {outputs} channels")
        inputs //= layer.groups
    elif isinstance(layer, nn.Linear):
        layer.in_features, layer.out_features = widths
    else:
        assert isinstance(layer, BATCH_NORM)
        layer.num_features = outputs
    for name, values in (*layer.named_parameters(), *layer.named_buffers()):
        if values.ndim:  # the count of batches has no axis
            shape = (outputs, *((inputs,) if values.ndim > 1 else ()), *values.shape[2:])
            new = torch.zeros(shape, dtype=values.dtype)
            setattr(layer, name, nn.Parameter(new) if isinstance(values, nn.Parameter) else new)
