"""The students of the tests: random weights, random batch-norm statistics, features with the spectrum of sound."""

from __future__ import annotations

from functools import cache

import numpy as np
import torch
from modules import in_torch, randomize
from torch import nn

from tinyasc.models import FAMILIES, build
from tinyasc_export.capture import capture
from tinyasc_export.graph import Graph
from tinyasc_export.lower import cast, lower
from tinyasc_export.quantize import calibrate, quantize_int8


def mel_like(n: int, mels: int, frames: int, seed: int = 0) -> np.ndarray:
    """(n, mels, frames, 1) float32 of mean 0: smooth in time and frequency, with events and quiet clips."""
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((n, mels, frames))
    for axis in (1, 2):
        x = x + np.roll(x, 1, axis) + np.roll(x, 2, axis)
    x *= rng.uniform(0.3, 1.5, (n, 1, 1))
    return (x / 3).astype(np.float32)[..., None]


def settle(module: nn.Module, x: np.ndarray) -> None:
    """Gives the batch norms the statistics of data, as training does, so that no layer is all but silent."""
    norms = [part for part in module.modules() if isinstance(part, nn.modules.batchnorm._BatchNorm)]
    for norm in norms:
        norm.momentum = None
        norm.reset_running_stats()
        norm.train()
    with torch.no_grad():
        module(torch.from_numpy(x).permute(0, 3, 1, 2))
    module.eval()


def s4_module(mels: int = 64, frames: int = 44, *, settled: bool = True, **options) -> nn.Module:
    """S4 in torch, ten classes, in evaluation mode."""
    torch.manual_seed(0)
    module = randomize(build("sepconv_ca", n_classes=10, n_mels=mels, **options), 1)
    if settled:
        settle(module, mel_like(16, mels, frames, 3))
    return module


@cache
def s4(mels: int = 64, frames: int = 44, *, settled: bool = True, **options) -> tuple[Graph, Graph, np.ndarray]:
    """S4's float graph, its int8 graph, and int8 features of 100 clips that it was not calibrated on."""
    module = s4_module(mels, frames, settled=settled, **options)
    lowered, scale, offset = lower(capture(module.double(), (1, 1, mels, frames)))
    graph = cast(lowered, "float32")

    def features(n: int, seed: int) -> np.ndarray:
        x = mel_like(n, mels, frames, seed)
        return (x * scale[:, None, None] + offset[:, None, None]).astype(np.float32)

    quantized = quantize_int8(graph, calibrate(graph, features(16, 1)))
    t = quantized.tensors[quantized.input]
    assert t.scale is not None and t.zero_point is not None
    x = np.clip(np.rint(features(100, 2) / t.scale) + t.zero_point, -128, 127).astype(np.int8)
    return graph, quantized, x


STUDENTS = [family for family in FAMILIES if FAMILIES[family].capturable]
OPTIONS = {
    "cp_mobile-2024": ("cp_mobile", {"base_channels": 16, "strides": 2024, "grn": False}),
    **{family: (family, {}) for family in STUDENTS},
    # Their published widths hold more than 128 KB.
    "bc_resnet": ("bc_resnet", {"base_channels": 32}),
    "tf_sepnet": ("tf_sepnet", {"base_channels": 48}),
}
# dB that an untrained net keeps at int8, 8 if not here. ResNorms blow rounding up where a row is quiet.
LEAST_SQNR = {"bc_resnet": 2, "tf_sepnet": 2}
# Narrow ones compile quickly; their operators are those of the wide.
NARROW = {"amfm": {"channels_multiplier": 0.25}, "pooled_cnn": {"base_channels": 4}, "tf_sepnet": {"base_channels": 16}}
# What a family has to leave out at int16, and families whose norms have no int16 kernel.
AT_INT16 = {"sepconv_ca": {"attention_activation": "relu"}, "cp_mobile": {"grn": False}}
INT8_ALONE = ("bc_resnet", "tf_sepnet")
SIZE = (64, 30)
CLIPS = 6


def narrow(family: str, options: dict) -> dict:
    """A student's options with few channels."""
    return options | NARROW.get(family, {"base_channels": 8})


class Exported:
    """One student with statistics from its own data, as float and int8 graphs with their features."""

    def __init__(self, family: str, options: dict, size: tuple[int, int] = SIZE) -> None:
        self.least_sqnr = LEAST_SQNR.get(family, 8)
        rng = np.random.default_rng(1)
        clips = rng.standard_normal((CLIPS, *size, 1)) * rng.uniform(0.3, 2, (CLIPS, 1, 1, 1))
        torch.manual_seed(2)
        model = build(family, n_classes=10, n_mels=size[0], **options).double()
        for part in model.modules():
            if isinstance(part, nn.modules.batchnorm._BatchNorm):
                part.momentum = None  # statistics of this batch alone
        with torch.no_grad():
            for name, value in model.named_parameters():
                if name.endswith(("gamma", "beta")):
                    value.uniform_(0.1, 0.9)
            model.train()(torch.from_numpy(clips).permute(0, 3, 1, 2))
        self.expected = in_torch(model.eval(), clips)
        self.double, scale, offset = lower(capture(model, (1, 1, *size)))
        self.features = clips * scale[:, None, None] + offset[:, None, None]
        self.graph = cast(self.double, "float32")
        features = self.features.astype(np.float32)
        self.int8 = quantize_int8(self.graph, calibrate(self.graph, features))
        t = self.int8.tensors[self.int8.input]
        self.integers = np.clip(np.rint(features / t.scale) + t.zero_point, -128, 127).astype(np.int8)
