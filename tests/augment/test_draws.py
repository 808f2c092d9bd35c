import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from tinyasc.augment import draws


@pytest.mark.parametrize("alpha", [0.1, 0.3, 1.0, 4.0])
def test_beta_is_scipys(alpha, seeded):
    values = draws.beta(20_000, alpha, seeded()).numpy()
    # The lower half alone: doubles are too coarse next to 1, where a small alpha puts many.
    low = values[values < 0.5]
    assert abs(len(low) / 20_000 - 0.5) < 0.015
    assert stats.kstest(low, lambda v: 2 * stats.beta(alpha, alpha).cdf(v)).pvalue > 1e-3


@pytest.mark.parametrize("alpha", [1e-6, 1e-3, 1e3, 1e6])
def test_extreme_alphas_are_finite_and_keep_both_sides(alpha, seeded):
    values = draws.beta(500, alpha, seeded()).numpy()
    assert np.isfinite(values).all() and values.min() >= 0 and values.max() <= 1
    # A small alpha draws 0 or 1, each half of the time; a large one draws 1/2.
    if alpha < 1:
        assert 0.4 < (values > 0.999).mean() < 0.6 and 0.4 < (values < 0.001).mean() < 0.6
    else:
        assert abs(values - 0.5).max() < 0.1


@given(n=st.integers(2, 40), seed=st.integers(0, 10_000))
def test_others_gives_every_clip_another_one_and_each_once(n, seed):
    partner = draws.others(n, torch.Generator().manual_seed(seed))
    assert sorted(partner.tolist()) == list(range(n))
    assert (partner != torch.arange(n)).all()


def test_others_draws_every_other_clip(seeded):
    generator = seeded()
    seen = {int(draws.others(6, generator)[0]) for _ in range(200)}
    assert seen == {1, 2, 3, 4, 5}
    assert draws.others(1, generator).tolist() == [0]


def test_uniform_and_chosen(seeded):
    values = draws.uniform(10_000, -3, 5, seeded())
    assert values.dtype == torch.float64
    assert stats.kstest(values.numpy(), stats.uniform(-3, 8).cdf).pvalue > 1e-3
    assert not draws.chosen(1000, 0.0, seeded()).any() and draws.chosen(1000, 1.0, seeded()).all()
    assert abs(float(draws.chosen(10_000, 0.3, seeded()).float().mean()) - 0.3) < 0.02
