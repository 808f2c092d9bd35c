"""Tiny nets of every family that can be narrowed, and what each of them is with some channels silenced."""

from __future__ import annotations

from copy import deepcopy

import torch
from modules import randomize
from torch import nn

from tinyasc.compress.channels import channel_sets
from tinyasc.models import build
from tinyasc.models.amfm_blocks import CBAM
from tinyasc.models.cp_mobile import GlobalResponseNorm
from tinyasc.models.norms import ResidualNorm

CLASSES, SHAPE = 10, (1, 32, 24)
NETS = {
    "sepconv_ca": ("sepconv_ca", {"base_channels": 12}),
    "sp4asc": ("sepconv_ca", {"base_channels": 8, "attention": False}),
    "amfm": ("amfm", {"channels_multiplier": 0.375, "hidden": 12}),
    "cp_mobile": ("cp_mobile", {"base_channels": 16}),
    "cp_mobile-2024": ("cp_mobile", {"base_channels": 16, "strides": 2024, "grn": False}),
    "pooled_cnn": ("pooled_cnn", {"base_channels": 8}),
    "bc_resnet": ("bc_resnet", {"base_channels": 8}),
    "bc_resnet-1": ("bc_resnet", {"base_channels": 8, "sub_bands": 1}),
}


def net(name: str) -> nn.Module:
    """In evaluation mode and double precision, nothing of it zero or one."""
    family, options = NETS[name]
    torch.manual_seed(0)
    module = randomize(build(family, n_classes=CLASSES, n_mels=SHAPE[1], **options), 1)
    with torch.no_grad():
        for key, value in module.named_parameters():
            if key.endswith(("gamma", "beta")):
                value.uniform_(0.2, 0.9)
    return module.double()


def sets_of(name: str, module: nn.Module):
    return channel_sets(module, SHAPE, NETS[name][0])


def features(clips: int = 2) -> torch.Tensor:
    return torch.randn(clips, *SHAPE, generator=torch.Generator().manual_seed(3), dtype=torch.float64)


def silenced(module: nn.Module, units) -> nn.Module:
    """A copy of full width in which the outputs of the units' channels are zero after every layer.

    Zeros pass through all else as zeros, but for what is measured over channels: there only the others are counted.
    """
    module = deepcopy(module)
    layers = dict(module.named_modules())
    kept = {name: torch.ones(_outputs(layer), dtype=torch.bool) for name, layer in layers.items() if _outputs(layer)}
    for unit in units:
        for name, side, channel in unit:
            if side == "out":
                kept[name][channel] = False
    for name, mask in kept.items():
        layers[name].register_forward_hook(lambda _, __, y, m=mask: y * m.view(-1, *[1] * (y.ndim - 2)))
    for name, layer in layers.items():
        if isinstance(layer, CBAM):
            whole, mask = layer.spatial_gate, kept[f"{name}.excite"]
            layer.spatial_gate = lambda x, f=whole, m=mask: f(x[:, m])
        elif isinstance(layer, GlobalResponseNorm):
            _on_kept(layer, kept[name.replace("grn", "layers.7")])
        elif isinstance(layer, ResidualNorm):
            before = int(name.removeprefix("blocks.")) - 1
            _on_kept(layer, kept[f"blocks.{before}.time.3"])
    return module


def _on_kept(layer: nn.Module, mask: torch.Tensor) -> None:
    whole = layer.forward

    def forward(x):
        y = torch.zeros_like(x)
        y[:, mask] = whole(x[:, mask])
        return y

    layer.forward = forward


def _outputs(layer: nn.Module) -> int:
    if isinstance(layer, nn.Conv2d):
        return layer.out_channels
    if isinstance(layer, nn.Linear):
        return layer.out_features
    return layer.num_features if isinstance(layer, nn.modules.batchnorm._BatchNorm) else 0
