"""BC-ResNet-ASC: its published sizes, and a block against arithmetic written out in numpy."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn
from weights import arrays, parameters, randomize

from tinyasc.errors import InputError
from tinyasc.models import build
from tinyasc.models.bc_resnet import BroadcastedBlock
from tinyasc.models.norms import ResidualNorm


@pytest.mark.parametrize(
    ("base_channels", "sub_bands", "published"), [(80, 4, 314_650), (80, 1, 306_730), (40, 1, 81_770), (32, 1, 53_962)]
)
def test_published_parameters(base_channels, sub_bands, published):
    with torch.device("meta"):
        model = build("bc_resnet", n_classes=10, n_mels=256, base_channels=base_channels, sub_bands=sub_bands)
    assert parameters(model) == published


@pytest.mark.parametrize(("before", "after"), [(4, 4), (3, 4)])
@pytest.mark.parametrize("sub_bands", [1, 3])
def test_a_block_is_its_description(before, after, sub_bands):
    module = randomize(BroadcastedBlock(before, after, sub_bands=sub_bands, dropout=0.1).double(), 1)
    w = arrays(module)
    x = np.random.default_rng(2).standard_normal((before, 6, 5))

    def normed(y: np.ndarray, name: str) -> np.ndarray:
        mean, variance, gain, shift = (
            w[f"{name}.{part}"][:, None, None] for part in ("running_mean", "running_var", "weight", "bias")
        )
        return (y - mean) / np.sqrt(variance + 1e-5) * gain + shift

    f2, first = x, 0
    if before != after:
        mixed = np.einsum("oi,ift->oft", w["frequency.0.weight"][:, :, 0, 0], x)
        f2, first = np.maximum(normed(mixed, "frequency.1"), 0), 3
    taps = w[f"frequency.{first}.weight"][:, 0, :, 0]
    padded = np.pad(f2, ((0, 0), (1, 1), (0, 0)))
    f2 = sum(taps[:, k, None, None] * padded[:, k : k + 6] for k in range(3))
    rows = 6 // sub_bands
    bands = [f2[:, i * rows : (i + 1) * rows] for i in range(sub_bands)]
    f2 = np.concatenate([normed(band, f"frequency.{first + 1}.norms.{i}") for i, band in enumerate(bands)], axis=1)
    mean = np.pad(f2.mean(axis=1, keepdims=True), ((0, 0), (0, 0), (1, 1)))
    taps = w["time.0.weight"][:, 0, 0]
    f1 = normed(sum(taps[:, k, None, None] * mean[:, :, k : k + 5] for k in range(3)), "time.1")
    f1 = np.einsum("oi,ift->oft", w["time.3.weight"][:, :, 0, 0], f1 / (1 + np.exp(-f1)))
    expected = np.maximum(f1 + f2 + (x if before == after else 0), 0)
    np.testing.assert_allclose(module(torch.from_numpy(x)[None])[0].detach(), expected, rtol=1e-9, atol=1e-12)


def test_dropout_takes_whole_channels_of_the_time_part():
    block = BroadcastedBlock(64, 64, sub_bands=1, dropout=0.5).train()
    assert isinstance(block.time[-1], nn.Dropout2d)
    y = block.time(torch.randn(2, 64, 1, 9)).detach()
    silent = (y == 0).all(dim=3)
    assert 0.2 < silent.float().mean() < 0.8 and (y[~silent] != 0).all()


def test_the_stages_have_their_sizes():
    """Half of 64 x 40 after the stem, a quarter and an eighth after the pools; a ResNorm ends each of four stages."""
    model = build("bc_resnet", n_classes=5, n_mels=64, base_channels=4).eval()
    x, shapes = model.stem(torch.randn(1, 1, 64, 40)), []
    assert x.shape == (1, 8, 32, 20)
    for layer in model.blocks:
        x = layer(x)
        if isinstance(layer, ResidualNorm):
            shapes.append(tuple(x.shape[1:]))
    assert shapes == [(4, 32, 20), (6, 16, 10), (8, 8, 5), (10, 8, 5)]
    blocks = [layer for layer in model.blocks if isinstance(layer, BroadcastedBlock)]
    assert [block.keeps_width for block in blocks] == [False, True] * 3 + [False, True, True]


def test_sub_bands_that_do_not_divide_the_rows_are_refused():
    with pytest.raises(InputError, match=r"sub_bands 4 does not divide a map of 10 rows; .* multiple of 32, got 40"):
        build("bc_resnet", n_classes=10, n_mels=40)
    build("bc_resnet", n_classes=10, n_mels=40, sub_bands=5, base_channels=8)
