"""TF-SepNet: its published sizes, its parts written out in numpy, and that its shuffle is the published one."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn
from weights import arrays, parameters, randomize

from tinyasc.compress.torchinfo_count import unfused_count
from tinyasc.models import build
from tinyasc.models.norms import ResidualNorm
from tinyasc.models.tf_sepnet import ChannelShuffle, SeparatePath, SepBlock, WideningDepthwise


@pytest.mark.parametrize(("base_channels", "published"), [(64, 126_858), (48, 73_546), (32, 34_634)])
def test_published_parameters(base_channels, published):
    with torch.device("meta"):
        model = build("tf_sepnet", n_classes=10, n_mels=512, base_channels=base_channels)
    assert parameters(model) == published


@pytest.mark.parametrize(("n_mels", "published"), [(512, 29_419_648), (256, 14_782_944)])
def test_published_macs(n_mels, published):
    """As the challenge's tool counts unfused nets; 14.78 M is printed for 256 mels."""
    with torch.device("meta"):
        model = build("tf_sepnet", n_classes=10, n_mels=n_mels)
    assert unfused_count(model, (1, 1, n_mels, 64)) == published


def test_channel_shuffle_by_hand():
    """16 channels of two groups: runs of two, one of either group in turn."""
    x = torch.arange(16.0).reshape(1, 16, 1, 1)
    wanted = [0, 1, 8, 9, 2, 3, 10, 11, 4, 5, 12, 13, 6, 7, 14, 15]
    assert ChannelShuffle()(x).flatten().tolist() == wanted


@pytest.mark.parametrize("width", [32, 160])
def test_three_blocks_see_the_halves_of_the_published_shuffle(width):
    """Each half goes through layers to which the order of its channels is all one: only which they are matters."""
    channels = np.arange(width)
    ours, published = channels, channels
    for _ in range(2):
        shuffled = ChannelShuffle()(torch.from_numpy(ours)[None, :, None, None]).flatten().numpy()
        # ShuffleNet: (groups, channels per group), transposed, flattened.
        alternated = published.reshape(2, width // 2).T.ravel()
        for half in (slice(0, width // 2), slice(width // 2, width)):
            assert set(shuffled[half]) == set(alternated[half])
        ours, published = shuffled, alternated
    assert set(ours[: width // 2]) != set(channels[: width // 2])


def test_the_widening_depthwise_is_one_convolution_with_several_filters_per_channel():
    """The published stem's second convolution, its outputs in another order."""
    module = randomize(WideningDepthwise(3, 4).double(), 1)
    published = nn.Conv2d(3, 12, 3, stride=2, padding=1, groups=3, bias=False).double()
    norm = nn.BatchNorm2d(12).double().eval()
    order = [4 * c + k for k in range(4) for c in range(3)]  # where its filter k of channel c stands
    with torch.no_grad():
        for k, part in enumerate(module.filters):
            places = order[3 * k : 3 * k + 3]
            published.weight[places] = part[0].weight
            for name in ("weight", "bias", "running_mean", "running_var"):
                getattr(norm, name)[places] = getattr(part[1], name)
    x = torch.randn(2, 3, 7, 6, dtype=torch.float64)
    torch.testing.assert_close(module(x), norm(published(x)).relu()[:, order])


@pytest.mark.parametrize("axis", [2, 3])
def test_a_path_is_its_description(axis):
    """Depthwise along the axis, its mean over the axis, 1x1, added to every position along it."""
    module = randomize(SeparatePath(3, axis=axis, dropout=0.1).double(), 2)
    w = arrays(module)
    x = np.random.default_rng(3).standard_normal((3, 4, 5))

    def normed(y: np.ndarray, name: str) -> np.ndarray:
        mean, variance, gain, shift = (
            w[f"{name}.1.{part}"][:, None, None] for part in ("running_mean", "running_var", "weight", "bias")
        )
        return np.maximum((y - mean) / np.sqrt(variance + 1e-5) * gain + shift, 0)

    turned = x if axis == 2 else x.transpose(0, 2, 1)  # the path's axis first
    padded = np.pad(turned, ((0, 0), (1, 1), (0, 0)))
    taps = w["depthwise.0.weight"].reshape(3, 3)
    y = sum(taps[:, k, None, None] * padded[:, k : k + turned.shape[1]] for k in range(3))
    mean = normed(y, "depthwise").mean(axis=1, keepdims=True)
    y = normed(np.einsum("oi,ift->oft", w["pointwise.0.weight"][:, :, 0, 0], mean), "pointwise") + turned
    expected = y if axis == 2 else y.transpose(0, 2, 1)
    np.testing.assert_allclose(module(torch.from_numpy(x)[None])[0].detach(), expected, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("before", [16, 8])
def test_a_block_sends_its_halves_along_frequency_and_time(before):
    """The halves of the shuffled channels, or of a 1x1 convolution's where the width changes."""
    block = randomize(SepBlock(before, 16, dropout=0.1), 4)
    x = torch.randn(2, before, 5, 6)
    mixed = ChannelShuffle()(x) if before == 16 else block.mix[1](block.mix[0](x)).relu()
    y = block(x)
    torch.testing.assert_close(y[:, :8], block.frequency(mixed[:, :8]))
    torch.testing.assert_close(y[:, 8:], block.time(mixed[:, 8:]))
    assert block.frequency.axis == 2 and block.time.axis == 3


def test_the_stages_have_their_sizes():
    """A quarter of 64 x 48 after the stem, halved three times; ResNorms behind the stem and each of four stages."""
    model = build("tf_sepnet", n_classes=5, n_mels=64, base_channels=16).eval()
    x, shapes, blocks = model.stem(torch.randn(1, 1, 64, 48)), [], []
    for layer in model.blocks:
        x = layer(x)
        if isinstance(layer, ResidualNorm):
            shapes.append(tuple(x.shape[1:]))
        if isinstance(layer, SepBlock):
            blocks.append(isinstance(layer.mix, ChannelShuffle))
    assert shapes == [(32, 16, 12), (16, 16, 12), (24, 8, 6), (32, 4, 3), (40, 2, 1)]
    assert blocks == [False, True] * 3 + [False, True, True]
