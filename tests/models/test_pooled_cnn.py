"""The pooling CNN student against the trunk that it comes from, and its budgets."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from weights import parameters, randomize

from tinyasc.models import build
from tinyasc.models.pooled_cnn import PooledCNN
from tinyasc_export.capture import capture
from tinyasc_export.count import macs, parameter_bytes
from tinyasc_export.lower import cast, lower
from tinyasc_export.quantize import calibrate, quantize_int8


def test_with_kernel_5_its_trunk_is_that_of_the_attention_cnn():
    facts = {"n_classes": 4, "n_mels": 40, "base_channels": 3}
    ours = randomize(build("pooled_cnn", kernel=5, **facts))
    theirs = build("atrous_cnn", trunk="baseline", head="average", **facts).eval()
    theirs.trunk.load_state_dict(ours.trunk.state_dict())
    x = torch.randn(2, 1, 40, 37)
    torch.testing.assert_close(ours.trunk(x), theirs.trunk(x))


def test_its_head_is_the_mean_over_frequency_then_mean_and_maximum_over_time():
    model = randomize(PooledCNN(n_classes=3, n_mels=32, base_channels=2))
    model.trunk = torch.nn.Identity()
    x = torch.randn(2, 16, 3, 5)
    over_time = torch.stack([sum(x[:, :, f, t] for f in range(3)) / 3 for t in range(5)])
    pooled = over_time.mean(dim=0) + over_time.max(dim=0).values
    torch.testing.assert_close(model(x), pooled @ model.linear.weight.T + model.linear.bias)


@pytest.mark.parametrize(
    ("width", "kernel", "count", "stored", "mmac"),
    [
        (17, 3, 120_795, 121_335, 32.47),
        (12, 3, 60_670, 61_060, 16.62),
        (6, 3, 15_580, 15_790, 4.53),
        (11, 5, 128_545, 128_905, 23.25),
    ],
)
def test_what_it_costs(width, kernel, count, stored, mmac):
    """Of 64 mels x 78 frames: the widest for 128, 64 and 16 KB, and for 128 KB with the paper's kernels."""
    model = build("pooled_cnn", n_classes=10, n_mels=64, base_channels=width, kernel=kernel)
    assert parameters(model) == count
    graph, _, _ = lower(capture(randomize(model), (1, 1, 64, 78)))
    clips = np.random.default_rng(0).standard_normal((2, 64, 78, 1)).astype(np.float32)
    graph = cast(graph, "float32")
    assert parameter_bytes(quantize_int8(graph, calibrate(graph, clips))) == stored
    assert macs(graph) / 1e6 == pytest.approx(mmac, abs=0.01)
