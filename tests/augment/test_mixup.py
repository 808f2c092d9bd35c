import pytest
import torch

from tinyasc import augment
from tinyasc.augment import Mix


def test_partners_are_a_permutation_and_weights_are_betas_larger_half(seeded):
    partner, weight = augment.mixup(1000, seeded(), alpha=0.3)
    assert sorted(partner.tolist()) == list(range(1000))
    assert partner.tolist() != list(range(1000))
    assert weight.shape == (1000,) and float(weight.min()) >= 0.5 and float(weight.max()) <= 1.0
    assert len(weight.unique()) > 900
    # E max(w, 1 - w) of Beta(a, a): 0.5 + E |w - 0.5|, from draws of torch's own distribution.
    torch.manual_seed(0)
    draws = torch.distributions.Beta(0.3, 0.3).sample((100_000,))
    expected = float((0.5 + (draws - 0.5).abs()).mean())
    assert float(weight.mean()) == pytest.approx(expected, abs=0.02)


def test_a_mix_is_convex_and_the_same_for_features_and_targets(maps, seeded):
    mix = augment.mixup(64, seeded(), alpha=0.5)
    x, target = maps.double(), torch.eye(64, dtype=torch.float64)
    mixed, shares = mix(x), mix(target)
    assert torch.allclose(shares.sum(dim=1), torch.ones(64, dtype=torch.float64))
    assert (shares >= 0).all()
    # The targets name the clips and their shares, and the features are just that sum.
    assert torch.allclose(mixed, torch.einsum("ij,jcbf->icbf", shares, x))
    low, high = torch.minimum(x, x[mix.partner]), torch.maximum(x, x[mix.partner])
    assert (mixed >= low - 1e-9).all() and (mixed <= high + 1e-9).all()


def test_a_mix_by_hand():
    mix = Mix(torch.tensor([1, 0]), torch.tensor([0.75, 1.0]))
    assert torch.equal(mix(torch.tensor([[4.0], [8.0]])), torch.tensor([[5.0], [8.0]]))
