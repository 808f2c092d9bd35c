"""Averaged weights against their recursion, by hand."""

import pytest
import torch
from torch import nn

from tinyasc.training import average


def test_the_average_follows_its_formula():
    module = nn.BatchNorm1d(1)
    nn.init.zeros_(module.weight)
    mean = average.averaged_copy(module)
    nn.init.ones_(module.weight)
    module.running_mean.fill_(2.0)
    module.num_batches_tracked.fill_(7)
    # At step 0 a tenth stays, at step 1 two elevenths.
    average.update(mean, module, decay=0.5, step=0)
    assert mean.weight.item() == pytest.approx(0.9) and mean.running_mean.item() == pytest.approx(1.8)
    assert mean.num_batches_tracked.item() == 7
    average.update(mean, module, decay=0.5, step=1)
    assert mean.weight.item() == pytest.approx(1 - 0.1 * 2 / 11)
    # From step 8 on (9 / 18) the decay is what was asked for.
    before = mean.weight.item()
    nn.init.zeros_(module.weight)
    average.update(mean, module, decay=0.5, step=1000)
    assert mean.weight.item() == pytest.approx(0.5 * before)


def test_no_gradient_reaches_the_average_and_the_module_is_left_alone():
    module = nn.Linear(2, 2)
    mean = average.averaged_copy(module)
    assert not any(p.requires_grad for p in mean.parameters()) and all(p.requires_grad for p in module.parameters())
    kept = module.weight.detach().clone()
    average.update(mean, nn.Linear(2, 2), decay=0.9, step=5)
    assert torch.equal(module.weight, kept) and not torch.equal(mean.weight, kept)
