"""Which channels of a network must be removed together, by torch-pruning's dependency graph, and their removal.

A unit is a channel of one layer with all that hangs on it: the filters that make it, the batch norms that scale it, the
weights that read it, its partner in a max feature map's other half. Units that touch the same layers are a set.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from types import MethodType
from typing import Any

import torch
import torch_pruning
from torch import Tensor, nn

from tinyasc.errors import InputError
from tinyasc.models.amfm_blocks import CBAM
from tinyasc.models.attention import CoordinateAttention
from tinyasc.models.cp_mobile import GlobalResponseNorm
from tinyasc.models.norms import ResidualNorm, SubSpectralNorm
from tinyasc.models.sepconv_ca import SepConvCA
from tinyasc.models.widths import LAYERS

# Families whose units the tests hold against masked channels.
NARROWABLE = ("amfm", "bc_resnet", "cp_mobile", "pooled_cnn", "sepconv_ca")
# A layer's name, "out" or "in", and the channel's place there; batch norms and depthwise layers are only "out".
Place = tuple[str, str, int]
Unit = frozenset[Place]


@dataclass(frozen=True)
class ChannelSet:
    """Units that touch the same layers, one for each channel; the first layer's name tells of which."""

    name: str
    units: tuple[Unit, ...]


def channel_sets(module: nn.Module, shape: tuple[int, int, int], family: str) -> list[ChannelSet]:
    """All channels that may be removed, in an order that depends on the network alone.

    What the network answers with and what it is given, its mel bands among them, are in no set.

    Args:
        module: left as it is.
        shape: (channels, bands, frames) of its features.
        family: its name.

    Raises:
        InputError: a family whose channels cannot be followed.
    """
    check_narrowable(family)
    traced = copy.deepcopy(module).cpu().float().requires_grad_(True)
    for part in traced.modules():
        for kind, forward in _AS_TRACED.items():
            if isinstance(part, kind):
                part.forward = MethodType(forward, part)
    graph = torch_pruning.DependencyGraph()
    own = [p for part in traced.modules() for p in part.parameters(recurse=False) if not isinstance(part, LAYERS)]
    with torch.enable_grad():
        graph.build_dependency(traced, torch.zeros(1, *shape), ignored_params=own, verbose=False)
    names = {layer: name for name, layer in traced.named_modules()}
    seen: set[Place] = set()
    found: dict[frozenset[tuple[str, str]], list[Unit]] = {}
    for name, layer in traced.named_modules():
        if not isinstance(layer, nn.Conv2d | nn.Linear) or layer not in graph.module2node:
            continue
        prune: Any = graph.get_pruner_of_module(layer)
        for channel in range(graph.get_out_channels(layer) or 0):
            if (name, "out", channel) in seen:
                continue
            unit = frozenset(_places(graph, graph.get_pruning_group(layer, prune.prune_out_channels, [channel]), names))
            seen |= unit
            # A channel that no layer reads is an answer.
            if any(side == "in" for _, side, _ in unit):
                found.setdefault(frozenset((layer, side) for layer, side, _ in unit), []).append(unit)
    order = {name: i for i, name in enumerate(names.values())}
    sets = [ChannelSet(min((n for n, side in key if side == "out"), key=order.__getitem__), tuple(units))
            for key, units in found.items()]  # fmt: skip
    return sorted(sets, key=lambda s: order[s.name])


def check_narrowable(family: str) -> None:
    """Raises InputError for a family whose channels cannot be followed."""
    if family not in NARROWABLE:
        raise InputError(
            f"narrow: the channels of model family {family} cannot be removed: they are split and joined again where "
            f"torch-pruning loses them; choose one of: {', '.join(NARROWABLE)}, or leave narrow out"
        )


def remove(module: nn.Module, units: Iterable[Unit]) -> None:
    """Takes channels out of a network, which is changed.

    Args:
        module: the one that the units are of.
        units: of its `channel_sets`; every set keeps some.
    """
    layers = dict(module.named_modules())
    graph = torch_pruning.DependencyGraph()
    gone: dict[tuple[str, str], set[int]] = {}
    for unit in units:
        for name, side, channel in unit:
            gone.setdefault((name, side), set()).add(channel)
    for (name, side), channels in sorted(gone.items()):
        prune: Any = graph.get_pruner_of_module(layers[name])
        (prune.prune_out_channels if side == "out" else prune.prune_in_channels)(layers[name], sorted(channels))


def _places(graph: Any, group: Any, names: Mapping[nn.Module, str]) -> Iterable[Place]:
    for dependency, channels in group:
        layer = dependency.layer
        if isinstance(layer, LAYERS):
            out = graph.is_out_channel_pruning_fn(dependency.pruning_fn)
            for channel in channels:
                yield names[layer], "out" if out else "in", int(channel)


# Blocks are traced as something simpler that ties the same channels together. Their own forward misleads the
# tracing: joins and splits along other axes are taken for such of channels, and reductions over channels tie a map to
# what reads their one value (CBAM's spatial gate to its 2-channel convolution, so that no channel could be removed).


def _cbam(block: CBAM, x: Tensor) -> Tensor:
    return x * block.excite(block.relu(block.squeeze(x)))


def _coordinate_attention(block: CoordinateAttention, x: Tensor) -> Tensor:
    hidden = block.norm(block.squeeze(x))
    return x * block.frequency_gate(hidden) * block.time_gate(hidden)


def _channel_by_channel(block: nn.Module, x: Tensor) -> Tensor:
    del block
    return x


def _sub_spectral_norm(block: SubSpectralNorm, x: Tensor) -> Tensor:
    return sum((norm(x) for norm in block.norms), x)


def _sepconv_ca(model: SepConvCA, x: Tensor) -> Tensor:
    x = model.blocks(x).mean(dim=2)  # the batch norm over mel bands knows no channels
    return model.head(x.amax(dim=2) + x.mean(dim=2))


_AS_TRACED: dict[type[nn.Module], Callable[..., Tensor]] = {
    CBAM: _cbam,
    CoordinateAttention: _coordinate_attention,
    GlobalResponseNorm: _channel_by_channel,
    ResidualNorm: _channel_by_channel,
    SubSpectralNorm: _sub_spectral_norm,
    SepConvCA: _sepconv_ca,
}
