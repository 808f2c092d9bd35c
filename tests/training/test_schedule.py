"""Schedules against values computed by hand, and against torch's schedulers where it has the same."""

import math
from itertools import pairwise

import pytest
import torch

from tinyasc.training import schedule as schedules
from tinyasc.training.recipe_parts import Training


def factors(steps_per_epoch, steps, **training):
    factor = schedules.schedule(Training(**training), steps_per_epoch)
    return [factor(step) for step in steps]


def torch_factors(kind, count, **options):
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    scheduler, out = kind(optimizer, **options), []
    for _ in range(count):
        out.append(scheduler.get_last_lr()[0])
        optimizer.step()
        scheduler.step()
    return out


def test_warm_up_rises_by_equal_steps_and_never_stands_at_zero():
    assert [schedules.warm_up(step, steps=3) for step in range(5)] == pytest.approx([0.25, 0.5, 0.75, 1, 1])
    assert schedules.warm_up(0, steps=0) == 1
    assert [schedules.warm_up(step, steps=1.5) for step in range(3)] == pytest.approx([0.4, 0.8, 1])


def test_a_cosine_is_torchs():
    expected = torch_factors(torch.optim.lr_scheduler.CosineAnnealingLR, 40, T_max=40, eta_min=0.03)
    assert factors(4, range(40), epochs=10, min_lr_ratio=0.03) == pytest.approx(expected)


def test_a_cosine_after_its_warm_up():
    # 2 warm epochs of 4 batches, then 8 * 4 batches of cosine: a quarter, a half and all of it.
    got = factors(4, [0, 7, 8, 16, 24, 40], epochs=10, warmup_epochs=2)
    quarter = 0.01 + 0.99 * (0.5 + math.sqrt(0.125))
    assert got == pytest.approx([1 / 9, 8 / 9, 1, quarter, 0.505, 0.01])


def test_warm_restarts_of_mcdonnell_and_gao():
    """510 epochs from 0.1 to 1e-5, begun anew after epochs 2, 6, 14, 30, 126 and 254."""
    training = {"epochs": 510, "schedule": "restarts", "restart_epochs": (2, 6, 14, 30, 126, 254), "min_lr_ratio": 1e-4}
    edges = [0, 2, 6, 14, 30, 126, 254, 510]
    assert factors(1, edges[:-1], **training) == [1.0] * 7
    middles = [(a + b) // 2 for a, b in pairwise(edges)]
    assert factors(1, middles, **training) == pytest.approx([0.50005] * 7)
    # A quarter of the cosine from 14 to 30, and the last batch of a cycle with 8 batches per epoch.
    assert factors(1, [18], **training) == pytest.approx([1e-4 + 0.9999 * (0.5 + math.sqrt(0.125))])
    last = 1e-4 + 0.9999 * 0.5 * (1 + math.cos(math.pi * 767 / 768))
    assert factors(8, [126 * 8 - 1, 126 * 8], **training) == pytest.approx([last, 1.0])
    assert factors(1, [509, 510], **training) == pytest.approx([1e-4, 1e-4], abs=1e-4)


def test_restarts_that_double_are_torchs():
    expected = torch_factors(torch.optim.lr_scheduler.CosineAnnealingWarmRestarts, 254, T_0=2, T_mult=2, eta_min=1e-4)
    training = {"epochs": 254, "schedule": "restarts", "restart_epochs": (2, 6, 14, 30, 62, 126), "min_lr_ratio": 1e-4}
    assert factors(1, range(254), **training) == pytest.approx(expected)


def test_nine_tenths_every_200_iterations():
    """Ren et al., 2019; whatever the length of an epoch is."""
    training = {"epochs": 1000, "schedule": "step", "step_iterations": 200, "step_factor": 0.9}
    for per_epoch in (7, 383):
        got = factors(per_epoch, [0, 199, 200, 399, 400, 14_999], **training)
        assert got == pytest.approx([1, 1, 0.9, 0.9, 0.81, 0.9**74])


def test_a_tenth_at_three_shares_of_the_training():
    training = {"epochs": 10, "schedule": "step", "step_at": (0.3, 0.6, 0.9)}
    got = factors(10, [0, 29, 30, 59, 60, 89, 90, 99], **training)
    assert got == pytest.approx([1, 1, 0.1, 0.1, 0.01, 0.01, 0.001, 0.001])


def test_warm_flat_and_linearly_down_as_cp_mobile():
    """Warm-up 14, flat to 50, linear down over 84, at two batches per epoch."""
    training = {"epochs": 150, "schedule": "linear", "warmup_epochs": 14, "flat_until_epoch": 50, "decay_epochs": 84}
    got = factors(2, [0, 27, 28, 100, 142, 184, 226, 268, 299], **training)
    assert got == pytest.approx([1 / 29, 28 / 29, 1, 1, 0.7525, 0.505, 0.2575, 0.01, 0.01])


def test_linear_down_by_default_from_the_warm_up_to_the_end():
    got = factors(1, [0, 2, 6, 10], epochs=10, schedule="linear", warmup_epochs=2, min_lr_ratio=0)
    assert got == pytest.approx([1 / 3, 1, 0.5, 0])
