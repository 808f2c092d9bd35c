"""What channels are worth, against sums by hand, and which of them go."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from narrowable import net, sets_of
from tiny_training import DATA, TEACHER, recipe
from torch import nn

from tinyasc.compress.channels import ChannelSet
from tinyasc.compress.importance import least_share, less_important, unit_scores, with_gradients
from tinyasc.errors import InputError


def array(module, name):
    return module.get_parameter(name).detach().numpy()


def test_magnitude_is_the_norm_of_all_weights_of_a_channel():
    module = net("sepconv_ca")
    sets = {s.name: s for s in sets_of("sepconv_ca", module)}
    scores = unit_scores(module, list(sets.values()), "magnitude")
    for channel in range(24):
        made = [f"blocks.3.{part}.weight" for part in ("pointwise", "frequency", "time")]
        made += ["blocks.3.frequency_norm.weight", "blocks.3.time_norm.weight"]
        made += ["blocks.4.frequency_gate.weight", "blocks.4.time_gate.weight"]
        read = ["blocks.4.squeeze.weight", "blocks.6.pointwise.weight"]
        parts = [array(module, n)[channel].ravel() for n in made] + [array(module, n)[:, channel].ravel() for n in read]
        assert scores["blocks.3.pointwise"][channel] == pytest.approx(np.linalg.norm(np.concatenate(parts)))
    assert len(sets["blocks.3.pointwise"].units) == 24


def test_magnitude_of_a_max_feature_map_counts_both_halves():
    module = net("amfm")
    scores = unit_scores(module, sets_of("amfm", module), "magnitude")
    first, second = np.split(array(module, "head.2.layer.weight"), 2)
    read = array(module, "head.3.weight")
    expected = np.sqrt((first**2).sum(1) + (second**2).sum(1) + (read**2).sum(0))
    np.testing.assert_allclose(scores["head.2.layer"], expected)


def test_bn_scale_is_the_mean_scale_and_knows_no_sets_without_a_batch_norm():
    module = net("cp_mobile")
    scores = unit_scores(module, sets_of("cp_mobile", module), "bn_scale")
    norms = ["stem.4", *(f"blocks.{i}.layers.7" for i in range(3))]
    expected = np.mean([np.abs(array(module, f"{n}.weight")) for n in norms], axis=0)
    np.testing.assert_allclose(scores["stem.3"], expected)
    module = net("sepconv_ca")
    sets = sets_of("sepconv_ca", module)
    known = unit_scores(module, sets, "bn_scale")
    assert {s.name for s in sets} - set(known) == {"head.1"}
    gone = less_important(sets, known, 1.0, round_to=4, scope="layers")
    assert not any(name == "head.1" and side == "out" for unit in gone for name, side, _ in unit)


class Bands(nn.Module):
    """Two linear layers on the mean over time, small enough to differentiate by hand."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(4)
        self.first, self.second = nn.Linear(16, 6), nn.Linear(6, 3)

    def forward(self, x):
        return self.second(self.first(x.mean(dim=3).squeeze(1)).relu())


def softmax(z):
    e = np.exp(z - z.max(axis=1, keepdims=True))
    return e / e.sum(axis=1, keepdims=True)


def test_taylor_is_weight_times_gradient_by_hand():
    """Backwards through (1 - l) CE + l T^2 KL in numpy."""
    module = Bands()
    settings = recipe(distill={"temperature": 3.0, "kd_lambda": 0.7})
    measured = with_gradients(module, settings, DATA, TEACHER)
    assert all(p.grad is None for p in module.parameters())
    x = DATA.train.features.mean(axis=3)[:, 0].astype(float)
    w1, b1, w2, b2 = (p.detach().double().numpy() for p in module.parameters())
    hidden = np.maximum(0, x @ w1.T + b1)
    z = hidden @ w2.T + b2
    hard = softmax(z) - np.eye(3)[DATA.train.labels]
    soft = 3.0 * (softmax(z / 3) - softmax(TEACHER.astype(float) / 3))
    dz = (0.3 * hard + 0.7 * soft) / len(x)
    dw2 = dz.T @ hidden
    dw1 = ((dz @ w2) * (hidden > 0)).T @ x
    units = tuple(frozenset({("first", "out", c), ("second", "in", c)}) for c in range(6))
    scores = unit_scores(measured, [ChannelSet("first", units)], "taylor")["first"]
    expected = np.abs(w1 * dw1).sum(1) + np.abs(w2 * dw2).sum(0)
    np.testing.assert_allclose(scores, expected, rtol=1e-4)
    assert expected.max() > 2 * expected.min()


def plain_set(name, n):
    return ChannelSet(name, tuple(frozenset({(name, "out", c), (name, "in", c)}) for c in range(n)))


@given(
    sizes=st.lists(st.integers(1, 40), min_size=1, max_size=4),
    share=st.floats(0, 1),
    more=st.floats(0, 1),
    round_to=st.sampled_from([4, 8, 16]),
    scope=st.sampled_from(["layers", "global"]),
    seed=st.integers(0, 100),
)
def test_what_goes_is_least_and_leaves_whole_multiples(sizes, share, more, round_to, scope, seed):
    rng = np.random.default_rng(seed)
    sets = [plain_set(str(i), n) for i, n in enumerate(sizes)]
    scores = {s.name: rng.uniform(size=len(s.units)) for s in sets}
    gone = less_important(sets, scores, share, round_to=round_to, scope=scope)
    assert len(gone) == len(set(gone))
    for group in sets:
        lost = [i for i, unit in enumerate(group.units) if unit in gone]
        stay = sorted(set(range(len(group.units))) - set(lost))
        assert not lost or (len(stay) % round_to == 0 and stay)
        assert not lost or max(scores[group.name][lost]) <= min(scores[group.name][stay])
        if scope == "layers":
            assert len(stay) >= (1 - share) * len(group.units) - 1e-6
            assert len(stay) < (1 - share) * len(group.units) + 2 * round_to or len(group.units) <= round_to
    further = less_important(sets, scores, max(share, more), round_to=round_to, scope=scope)
    assert set(gone) <= set(further)
    assert not less_important(sets, scores, 0.0, round_to=round_to, scope=scope)
    for group in sets:
        left = len(group.units) - len(
            set(group.units) & set(less_important(sets, scores, 1.0, round_to=round_to, scope=scope))
        )
        assert left == min(round_to, len(group.units))


def test_globally_the_sets_that_matter_less_for_their_size_lose_more():
    flat, steep = np.linspace(0.9, 1.1, 16), np.array([10.0] * 8 + [0.01] * 8)
    sets = [plain_set("flat", 16), plain_set("steep", 16)]
    gone = less_important(sets, {"flat": flat, "steep": steep}, 0.25, round_to=4, scope="global")
    assert gone == list(sets[1].units[8:])
    evenly = less_important(sets, {"flat": flat, "steep": steep}, 0.25, round_to=4, scope="layers")
    assert {len([u for u in s.units if u in evenly]) for s in sets} == {4}


@given(threshold=st.floats(0, 1))
def test_the_least_share_is_found_by_bisection(threshold):
    asked = []

    def fits(share):
        asked.append(share)
        return share >= threshold

    assert least_share(fits) == math.ceil(threshold * 512) / 512
    assert len(asked) <= 11


def test_no_share_is_enough():
    with pytest.raises(InputError, match="no share of the channels"):
        least_share(lambda _: False)
