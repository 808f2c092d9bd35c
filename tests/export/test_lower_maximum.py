"""Rewrites keep the function, to the last bits of float64, and leave what they promise to leave."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from modules import Applied, modules, randomize
from torch import nn

from tinyasc.models import FAMILIES, build
from tinyasc.models.amfm_blocks import MFM, AMFMBlock, MFMLinear
from tinyasc_export import reference
from tinyasc_export.capture import capture
from tinyasc_export.count import macs
from tinyasc_export.graph import Graph
from tinyasc_export.lower import lower

STUDENTS = [family for family in FAMILIES if FAMILIES[family].capturable]


def lowered(module: nn.Module, shape: tuple[int, ...], rtol: float = 1e-9) -> Graph:
    """The lowered graph of a float64 module, after checking that it computes what the captured one does."""
    before = capture(module, shape)
    after, scale, offset = lower(before)
    n, c, h, w = shape
    x = np.random.default_rng(1).standard_normal((2 * n, h, w, c))
    expected = reference.run(before, x)
    actual = reference.run(after, x * scale[:, None, None] + offset[:, None, None])
    atol = rtol * max(1.0, float(np.abs(expected).max()))
    np.testing.assert_allclose(actual, expected, rtol=rtol, atol=atol, err_msg=f"{before}\n{after}")
    return after


def kinds(graph: Graph) -> list[str]:
    return [op.kind for op in graph.ops]


@settings(max_examples=60, deadline=None)
@given(modules())
def test_random_modules(case):
    lowered(*case)


@pytest.mark.parametrize("family", STUDENTS)
@pytest.mark.parametrize("size", [(64, 30), (33, 31)])
def test_every_student(family, size):
    torch.manual_seed(3)
    options = {"sub_bands": 1} if family == "bc_resnet" and size[0] % 32 else {}
    model = randomize(build(family, n_classes=10, n_mels=size[0], **options).double(), 4)
    lowered(model, (1, 1, *size))


def test_the_amfm_student_keeps_no_batch_norm_and_no_slice():
    model = randomize(build("amfm", n_classes=10, n_mels=64).double(), 5)
    assert any((m.weight < 0).any() for m in model.modules() if isinstance(m, nn.BatchNorm2d))
    graph = lowered(model, (1, 1, 64, 30))
    found = kinds(graph)
    assert "slice" not in found
    # Two gates in each of four blocks, and the sum of mean and maximum in the head.
    assert (found.count("mul"), found.count("add")) == (8, 1)
    assert found.count("maximum") == 1 + 4 * 3 + 1
    assert macs(graph) <= macs(capture(model, (1, 1, 64, 30)))


@pytest.mark.parametrize(("grn", "mul", "add"), [(False, 0, 4), (True, 6 * 6, 4 + 4 * 6)])
def test_cp_mobile_keeps_no_batch_norm(grn, mul, add):
    """A GRN is six products (square, root, square, quotient, gain, map) and four sums (two epsilons, one, beta)."""
    graph = lowered(randomize(build("cp_mobile", n_classes=10, n_mels=64, grn=grn).double(), 6), (1, 1, 64, 30))
    assert (kinds(graph).count("mul"), kinds(graph).count("add")) == (mul, add)


def net(*parts: nn.Module, seed: int = 7) -> nn.Module:
    torch.manual_seed(seed)
    return randomize(nn.Sequential(*parts, Applied(lambda x: x.mean((2, 3)) if x.ndim == 4 else x)).double(), seed)


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 5), st.booleans(), st.booleans(), st.integers(0, 99))
def test_batch_norms_behind_a_maximum_go_into_the_weights(channels, affine, relu, seed):
    """Whatever the signs of the gains, and with one of them zero."""
    norm = nn.BatchNorm2d(channels, affine=affine)
    module = net(MFM(2, channels), norm, *[nn.ReLU()] * relu, nn.Conv2d(channels, 3, 3, padding=1), seed=seed)
    if affine:
        with torch.no_grad():
            norm.weight[0] = 0
    graph = lowered(module, (1, 2, 5, 6))
    if not relu:
        assert kinds(graph) == ["conv2d", "conv2d", "maximum", "conv2d", "mean", "reshape"]


def test_a_norm_that_others_read_stays():
    """Signs cannot go forward where a pool reads the map too."""
    torch.manual_seed(1)

    class Both(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.mfm, self.norm, self.conv = MFM(1, 4), nn.BatchNorm2d(4), nn.Conv2d(4, 4, 1)

        def forward(self, x):
            x = self.norm(self.mfm(x))
            return (self.conv(x) + x).amax((2, 3))

    module = randomize(Both().double(), 2)
    assert (module.norm.weight < 0).any() and (module.norm.weight > 0).any()
    assert "mul" in kinds(lowered(module, (1, 1, 5, 6)))
    with torch.no_grad():
        module.norm.weight.abs_()
    assert "mul" not in kinds(lowered(module, (1, 1, 5, 6)))


@pytest.mark.parametrize("padding", [0, 1])
@pytest.mark.parametrize("groups", [1, 3])
def test_batch_norms_before_a_layer(padding, groups):
    """Behind a pool a norm can only go forward; padding would be shifted by its offset, which therefore stays."""
    conv = nn.Conv2d(3, 3, 3, padding=padding, groups=groups)
    graph = lowered(net(nn.Conv2d(1, 3, 1), nn.MaxPool2d(2), nn.BatchNorm2d(3), conv), (1, 1, 12, 10))
    assert ("add" in kinds(graph)) == (padding == 1)


def test_a_norm_of_features_goes_into_the_linear_layer():
    head = Applied(lambda x: x.amax((2, 3)))
    graph = lowered(net(nn.Conv2d(1, 6, 1), head, nn.BatchNorm1d(6), MFMLinear(6, 4), nn.Linear(4, 2)), (1, 1, 5, 4))
    assert kinds(graph) == ["conv2d", "max_pool", "reshape", *["fully_connected"] * 2, "maximum", "fully_connected"]


def overlapping(x):
    return torch.cat([x[:, :3], x[:, 1:]], 1)


def partly(x):
    return torch.maximum(x[:, :2, :2], x[:, 2:, :2])


@pytest.mark.parametrize("cut", [overlapping, partly])
def test_slices_that_would_be_computed_twice_stay(cut):
    assert "slice" in kinds(lowered(net(nn.Conv2d(1, 4, 3, padding=1), Applied(cut)), (1, 1, 5, 4)))


@pytest.mark.parametrize("relu", [True, False])
def test_slices_of_a_layer_become_layers(relu):
    cut = Applied(lambda x: torch.cat([x[:, 3:], x[:, :2] * 2], 1))
    module = net(nn.Conv2d(2, 5, 3, padding=1, bias=relu), *[nn.ReLU()] * relu, cut)
    graph = lowered(module, (1, 2, 5, 4))
    assert kinds(graph)[:2] == ["conv2d", "conv2d"] and "slice" not in kinds(graph)
    assert macs(graph) == 5 * 4 * 9 * 2 * 4  # the third channel is not computed


def test_an_amfm_block_alone():
    lowered(net(AMFMBlock(3, 5)), (1, 3, 6, 5))
