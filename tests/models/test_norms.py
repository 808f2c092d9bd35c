"""Sub-spectral and residual normalisation against arithmetic written out in numpy."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn
from weights import arrays, parameters, randomize

from tinyasc.models.norms import ResidualNorm, SubSpectralNorm


@pytest.mark.parametrize("sub_bands", [1, 2, 4])
def test_sub_spectral_norm_is_its_description(sub_bands):
    """A scale, an offset, a mean and a variance for every channel of every sub-band of 8 / S rows."""
    module = randomize(SubSpectralNorm(3, sub_bands).double(), 1)
    assert parameters(module) == 2 * 3 * sub_bands
    w = arrays(module)
    x = np.random.default_rng(2).standard_normal((2, 3, 8, 5))
    expected = np.empty_like(x)
    for row in range(8):
        band = row // (8 // sub_bands)
        for c in range(3):
            mean, variance, gain, shift = (
                w[f"norms.{band}.{part}"][c] for part in ("running_mean", "running_var", "weight", "bias")
            )
            expected[:, c, row] = (x[:, c, row] - mean) / np.sqrt(variance + 1e-5) * gain + shift
    np.testing.assert_allclose(module(torch.from_numpy(x)).detach(), expected, rtol=1e-9)


def test_sub_spectral_norm_of_a_batch():
    """In training every sub-band of every channel comes out with mean 0 and variance 1."""
    module = SubSpectralNorm(2, 3).double().train()
    x = torch.randn(4, 2, 6, 7, dtype=torch.float64) * torch.arange(1, 7)[:, None] + torch.arange(6)[:, None]
    y = module(x).detach().numpy().reshape(4, 2, 3, 2, 7)
    np.testing.assert_allclose(y.mean(axis=(0, 3, 4)), np.zeros((2, 3)), atol=1e-12)
    np.testing.assert_allclose(y.var(axis=(0, 3, 4)), np.ones((2, 3)), atol=1e-4)


def test_sub_spectral_norm_of_one_band_is_a_batch_norm():
    module = randomize(SubSpectralNorm(3, 1), 3)
    plain = nn.BatchNorm2d(3).eval()
    plain.load_state_dict({key.removeprefix("norms.0."): value for key, value in module.state_dict().items()})
    x = torch.randn(2, 3, 5, 4)
    torch.testing.assert_close(module(x), plain(x))


def test_residual_norm_by_hand():
    """Row 0 holds 1, 3, 5, 7: mean 4, variance 5. Row 1 holds one value alone, so nothing but its tenth is left."""
    x = torch.tensor([[[1.0, 3.0], [2.0, 2.0]], [[5.0, 7.0], [2.0, 2.0]]], dtype=torch.float64)[None]
    y = ResidualNorm()(x)[0]
    row = np.array([1.0, 3.0, 5.0, 7.0])
    wanted = 0.1 * row + (row - 4) / np.sqrt(5 + 1e-5)
    np.testing.assert_allclose(y[:, 0].reshape(-1), wanted, rtol=1e-12)
    np.testing.assert_allclose(y[:, 1], np.full((2, 2), 0.2), rtol=1e-12)


def test_residual_norm_is_its_description():
    x = np.random.default_rng(4).standard_normal((2, 3, 4, 5)) * np.arange(1, 5)[:, None] + 3
    expected = np.empty_like(x)
    for n in range(2):
        for row in range(4):
            values = x[n, :, row]
            expected[n, :, row] = 0.25 * values + (values - values.mean()) / np.sqrt(values.var() + 1e-5)
    module = ResidualNorm(shortcut=0.25)
    np.testing.assert_allclose(module(torch.from_numpy(x)), expected, rtol=1e-9)
    assert parameters(module) == 0
