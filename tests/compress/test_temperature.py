"""Temperature scaling: against scipy's optimiser, against a temperature that is known, and where there is none."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.optimize
import scipy.special
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_training import DATA, recipe

from tinyasc.compress.temperature import LIMITS, calibrated, fit_temperature, least_temperature


def sampled(seed, clips, classes, temperature, spread):
    """Logits, and right classes drawn from their probabilities at a temperature."""
    rng = np.random.default_rng(seed)
    z = (spread * rng.standard_normal((clips, classes))).astype(np.float32)
    p = scipy.special.softmax(z.astype(float) / temperature, axis=1)
    return z, np.array([rng.choice(classes, p=row) for row in p])


def log_loss(z, labels, t):
    return -scipy.special.log_softmax(z.astype(float) / t, axis=1)[np.arange(len(z)), labels].mean()


@settings(max_examples=30, deadline=None)
@given(
    st.integers(0, 2**32 - 1),
    st.integers(30, 200),
    st.integers(2, 8),
    st.floats(0.4, 4),
    st.floats(0.5, 4),
)
def test_it_is_scipys_minimum(seed, clips, classes, temperature, spread):
    z, labels = sampled(seed, clips, classes, temperature, spread)
    least, found = least_temperature(z, labels), fit_temperature(z, labels, "here")
    low, high = np.log(LIMITS)
    best = scipy.optimize.minimize_scalar(
        lambda u: log_loss(z, labels, np.exp(u)), bounds=(low, high), method="bounded", options={"xatol": 1e-9}
    )
    if least is None:  # scipy then ends at a limit
        assert found.value == 1 and min(abs(best.x - low), abs(best.x - high)) < 1e-3
        return
    assert least == pytest.approx(np.exp(best.x), rel=1e-4)
    if found.before is None:  # too few clips to tell
        assert found.value == 1 and "half of the clips" in found.about
        return
    assert found.after is not None and found.value == least
    assert found.before["log_loss"] == pytest.approx(log_loss(z, labels, 1))
    assert found.after["log_loss"] == pytest.approx(log_loss(z, labels, found.value))
    assert found.after["log_loss"] <= found.before["log_loss"] + 1e-9


@pytest.mark.parametrize("true", [0.5, 2.5])
def test_it_finds_the_temperature_that_the_classes_were_drawn_at(true):
    z, labels = sampled(1, 20_000, 6, true, 3.0)
    found = fit_temperature(z, labels, "here")
    assert found.value == pytest.approx(true, rel=0.05)
    assert found.after is not None and found.after["expected_calibration_error"] < 0.01
    assert found.card()["temperature"] == found.value and found.card()["temperature_fit"]["about"] == "here"


def test_a_few_wrong_answers_do_not_tell_a_temperature():
    """One clip of many is wrong: sharpening helps all others, and costs on the next few wrong ones."""
    labels = np.arange(60) % 3
    z = (3 * np.eye(3, dtype=np.float32))[labels]
    z[0] = [0, 3, 0]
    assert least_temperature(z, labels) == pytest.approx(0.63, abs=0.01)
    found = fit_temperature(z, labels, "sixty clips")
    assert found.value == 1 and found.before is None and "half of the clips" in found.about
    for clip in (1, 2, 3):  # two in each half
        z[clip] = np.roll(z[clip], 1)
    found = fit_temperature(z, labels, "sixty clips")
    assert found.value == least_temperature(z, labels) != 1 and found.after is not None


def test_where_every_clip_is_right_there_is_none():
    z = 5 * np.eye(4, dtype=np.float32)
    found = fit_temperature(z, np.arange(4), "four clips")
    assert found.value == 1 and found.before is None
    assert "no best temperature" in found.about and "four clips" in found.about
    # Nor where all are alike, and where right answers are the least likely.
    assert fit_temperature(np.zeros((4, 3), np.float32), np.array([0, 1, 2, 0]), "").value == 1
    assert fit_temperature(-z, np.arange(4), "").value == 1


@pytest.mark.parametrize(
    ("parts", "why"),
    [
        ({"training": {"final": True, "select": "last"}}, "none was held out"),
        ({"decision_weights": {"bus": 2.0}}, "decision_weights"),
    ],
)
def test_it_is_one_and_says_why(parts, why):
    labels = DATA.validation.labels.copy()
    labels[:4] = (labels[:4] + 1) % 3  # a third is wrong
    z = (4 * np.eye(3, dtype=np.float32))[labels]
    assert calibrated(z, "int8", DATA, recipe()).value != 1
    found = calibrated(z, "int8", DATA, recipe(**parts))
    assert found.value == 1 and why in found.card()["temperature_fit"]["about"]
