import itertools

import numpy as np
import pytest
import scipy.stats

from tinyasc.errors import InputError
from tinyasc.evaluate import bootstrap, metrics


def some(rng, clips=200, classes=5, sharpness=2.0):
    labels = rng.integers(0, classes, clips)
    logits = rng.standard_normal((clips, classes))
    logits[np.arange(clips), labels] += sharpness
    p = np.exp(logits)
    return p / p.sum(axis=1, keepdims=True), labels


def test_intervals_of_clips_equal_scipys(rng):
    p, labels = some(rng)
    found = bootstrap.intervals(p, labels, np.arange(len(labels)), draws=6000)
    scores = {"accuracy": (p.argmax(axis=1) == labels).astype(float), "log_loss": metrics.clip_log_loss(p, labels)}
    for name, values in scores.items():
        expected = scipy.stats.bootstrap(
            (values,), np.mean, n_resamples=6000, method="percentile", rng=np.random.default_rng(5)
        ).confidence_interval
        # Two sets of random draws: their ends differ by the draws' own noise.
        tolerance = 0.1 * (expected.high - expected.low)
        assert found[name] == pytest.approx((expected.low, expected.high), abs=tolerance)
        assert found[name][0] < values.mean() < found[name][1]


def test_intervals_of_the_class_average_equal_scipys(rng):
    p, labels = some(rng, clips=120, classes=3)

    def class_average(index):
        return metrics.class_average_accuracy(p[index], labels[index])

    expected = scipy.stats.bootstrap(
        (np.arange(len(labels)),), class_average, n_resamples=4000, method="percentile", vectorized=False,
        rng=np.random.default_rng(5),
    ).confidence_interval  # fmt: skip
    found = bootstrap.intervals(p, labels, np.arange(len(labels)), draws=4000)["class_average_accuracy"]
    assert found == pytest.approx((expected.low, expected.high), abs=0.1 * (expected.high - expected.low))


def test_whole_groups_are_drawn():
    """Three groups have 27 draws, which are listed here; clips drawn one by one would give other values."""
    p = np.array([[0.9, 0.1]] * 3 + [[0.2, 0.8]] + [[0.6, 0.4]] * 2)
    labels = np.array([0, 0, 0, 0, 0, 1])
    groups = np.array(["x", "x", "x", "y", "z", "z"])
    hits = (p.argmax(axis=1) == labels).astype(float)
    losses = metrics.clip_log_loss(p, labels)
    every = {"accuracy": [], "log_loss": []}
    for draw in itertools.product("xyz", repeat=3):
        rows = np.concatenate([np.flatnonzero(groups == g) for g in draw])
        every["accuracy"].append(hits[rows].mean())
        every["log_loss"].append(losses[rows].mean())
    for level in (0.5, 0.8, 0.95):
        found = bootstrap.intervals(p, labels, groups, draws=40_000, level=level)
        for name, values in every.items():
            ends = [(1 - level) / 2, (1 + level) / 2]
            expected = np.quantile(values, ends, method="inverted_cdf")
            assert found[name] == pytest.approx(expected, abs=1e-9), (name, level)


def test_groups_of_like_clips_widen_the_interval(rng):
    p, labels = some(rng, clips=60)
    p, labels, groups = np.repeat(p, 10, axis=0), np.repeat(labels, 10), np.repeat(np.arange(60), 10)
    alone = bootstrap.intervals(p, labels, np.arange(600))["accuracy"]
    together = bootstrap.intervals(p, labels, groups)["accuracy"]
    assert together[1] - together[0] == pytest.approx(np.sqrt(10) * (alone[1] - alone[0]), rel=0.15)
    # Ten copies of a clip say no more than one.
    once = bootstrap.intervals(p[::10], labels[::10], np.arange(60))["accuracy"]
    assert together == once


def test_the_interval_covers_as_often_as_it_says():
    rng = np.random.default_rng(1)
    covered = 0
    for _ in range(300):
        right = rng.uniform(size=100) < 0.7
        p = np.where(right[:, None], [[0.8, 0.2]], [[0.2, 0.8]])
        low, high = bootstrap.intervals(p, np.zeros(100, int), np.arange(100), draws=400, level=0.9)["accuracy"]
        covered += low <= 0.7 <= high
    # Binomial, standard deviation 5.2 at 270; the percentile interval of a share is a little narrow.
    assert 250 <= covered <= 288


def test_a_seed_gives_the_same_interval_and_blocks_of_draws_change_nothing(rng, monkeypatch):
    p, labels = some(rng)
    groups = np.arange(len(labels)) // 2
    first = bootstrap.intervals(p, labels, groups, seed=3)
    assert bootstrap.intervals(p, labels, groups, seed=3) == first
    assert bootstrap.intervals(p, labels, groups, seed=4) != first
    monkeypatch.setattr(bootstrap, "_CELLS", 700)
    assert bootstrap.intervals(p, labels, groups, seed=3)["accuracy"] == pytest.approx(first["accuracy"])


def test_paired_difference_equals_scipys(rng):
    a = (rng.uniform(size=300) < 0.85).astype(float)
    b = np.where(rng.uniform(size=300) < 0.8, a, rng.uniform(size=300) < 0.6)
    found = bootstrap.paired(a, b, np.arange(300), draws=6000)
    expected = scipy.stats.bootstrap(
        (a, b), lambda x, y, axis=-1: (x - y).mean(axis=axis), paired=True, method="percentile",
        n_resamples=6000, rng=np.random.default_rng(5),
    ).confidence_interval  # fmt: skip
    assert found["difference"] == pytest.approx(a.mean() - b.mean(), abs=1e-12)
    width = expected.high - expected.low
    assert (found["low"], found["high"]) == pytest.approx((expected.low, expected.high), abs=0.1 * width)


@pytest.mark.parametrize("shift", [0.0, 0.05, 0.12, 0.3])
def test_p_values_agree_with_a_t_test_on_many_clips(shift):
    rng = np.random.default_rng(7)
    a = rng.standard_normal(400)
    b = a + 0.7 * rng.standard_normal(400) - shift
    expected = scipy.stats.ttest_rel(a, b).pvalue
    found = bootstrap.paired(a, b, np.arange(400), draws=8000)["p"]
    assert found == pytest.approx(expected, abs=0.02)


def test_p_values_of_no_difference_are_even():
    rng = np.random.default_rng(2)
    p = [bootstrap.paired(*rng.standard_normal((2, 80)), np.arange(80), draws=300, seed=i)["p"] for i in range(300)]
    assert scipy.stats.kstest(p, "uniform").pvalue > 0.01


def test_equal_models_differ_by_nothing(rng):
    a = rng.uniform(size=50)
    assert bootstrap.paired(a, a, np.arange(50)) == {"difference": 0.0, "low": 0.0, "high": 0.0, "p": 1.0}


def test_a_large_difference_has_the_smallest_p(rng):
    found = bootstrap.paired(np.ones(50), np.zeros(50) + 0.1 * rng.uniform(size=50), np.arange(50), draws=999)
    assert found["p"] == pytest.approx(1 / 1000) and found["low"] > 0.9


def test_paired_draws_whole_groups():
    a, b = np.array([1.0, 1, 1, 0]), np.array([0.0, 0, 0, 1])
    groups = np.array([0, 0, 0, 1])
    found = bootstrap.paired(a, b, groups, draws=20_000, level=0.6)
    # Of the 4 draws: both groups twice (0.5), the first alone (1), the second alone (-1).
    assert found["difference"] == 0.5 and (found["low"], found["high"]) == (-1.0, 1.0)
    # Moved to 0, |1 - 0.5| and |-1 - 0.5| are as far as 0.5: half of the draws.
    assert found["p"] == pytest.approx(0.5, abs=0.02)


P, LABELS, GROUPS = np.full((4, 2), 0.5), np.array([0, 1, 0, 1]), np.arange(4)


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"groups": GROUPS[:3]}, "do not fit"),
        ({"groups": GROUPS[:, None]}, "do not fit"),
        ({"groups": np.zeros(4)}, "at least two groups"),
        ({"draws": 0}, "draws must be at least 1"),
        ({"level": 0.0}, "level in"),
        ({"level": 1.0}, "level in"),
        ({"level": 95}, "level in"),
    ],
)
def test_bad_input(changes, text):
    arguments = {"groups": GROUPS} | changes
    with pytest.raises(InputError, match=text):
        bootstrap.intervals(P, LABELS, **arguments)
    with pytest.raises(InputError, match=text):
        bootstrap.paired(P[:, 0], P[:, 1], **arguments)


def test_bad_scores():
    with pytest.raises(InputError, match="sum to 1"):
        bootstrap.intervals(2 * P, LABELS, GROUPS)
    with pytest.raises(InputError, match="same clips"):
        bootstrap.paired(P[:, 0], P[:3, 1], GROUPS)
    with pytest.raises(InputError, match="same clips"):
        bootstrap.paired(P, P, GROUPS)
    with pytest.raises(InputError, match="finite"):
        bootstrap.paired(P[:, 0], np.array([0, np.nan, 0, 0]), GROUPS)
