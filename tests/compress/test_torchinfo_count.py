"""The counts published for CP-Mobile and the DCASE baselines, as the challenge's tool makes them."""

import pytest
from torch import nn

from tinyasc.compress.torchinfo_count import fused_count, unfused_count
from tinyasc.models import build
from tinyasc_export.capture import capture
from tinyasc_export.count import macs, parameters
from tinyasc_export.lower import lower

SMALL = {"base_channels": 16, "channels_multiplier": 1.5, "expansion_rate": 1.7}
MIDDLE = {"base_channels": 32, "channels_multiplier": 1.7, "expansion_rate": 1.9}
LARGE = {"base_channels": 32, "channels_multiplier": 2.3, "expansion_rate": 3}
BASELINE = {"channels_multiplier": 1.8, "expansion_rate": 2.1, "strides": 2024, "grn": False}


@pytest.mark.parametrize(
    ("options", "frames", "unfused", "fused", "true"),
    [
        (SMALL, 64, 4_128_768 + 2 * 582, 4_354_304, 4_128_768),
        (MIDDLE, 64, 16_339_460, 16_803_072, 16_336_896),
        (LARGE, 64, 28_893_268, None, 28_889_088),
        (BASELINE, 64, 26_954_388, None, 26_951_680),
        (BASELINE, 65, 29_419_156, None, 29_419_156 - 2_708),
    ],
)
def test_cp_mobile_counts_as_published(options, frames, unfused, fused, true):
    model = build("cp_mobile", n_classes=10, n_mels=256, **options)
    assert unfused_count(model, (1, 1, 256, frames)) == unfused
    captured = capture(model, (1, 1, 256, frames))
    graph, _, _ = lower(captured)
    assert macs(captured) == macs(graph) == true
    if fused is not None:
        assert fused_count(graph) == fused


@pytest.mark.parametrize(("options", "published"), [(SMALL, 12_310), (MIDDLE, 54_182)])
def test_cp_mobile_has_the_published_parameters_once_its_norms_are_folded(options, published):
    """A GRN's two published scalars are four constants in the graph: two epsilons and the one of 1 + gamma n more."""
    graph, _, _ = lower(capture(build("cp_mobile", n_classes=10, n_mels=256, **options), (1, 1, 256, 64)))
    assert parameters(graph) == published + 6 * 3


def test_other_layers_count_their_parameters_once():
    model = nn.Sequential(
        nn.Conv2d(1, 3, 3, padding=1),
        nn.BatchNorm2d(3),
        nn.BatchNorm2d(3, affine=False),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(3, 5),
    ).train()
    assert unfused_count(model, (1, 1, 4, 6)) == (27 + 3) * 24 + 2 * 3 + 15 + 5
    assert model.training and model[1].running_mean.abs().max() == 0
    graph, _, _ = lower(capture(model, (1, 1, 4, 6)))
    assert fused_count(graph) == (27 + 3) * 24 + 15 + 5
