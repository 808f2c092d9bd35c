"""Ranges of least squared error from their definition, percentiles against numpy's."""

import numpy as np
import pytest
from graphs import Net

from tinyasc_export.calibration import (
    BINS,
    CANDIDATES,
    METHODS,
    activation_ranges,
    least_squares_ranges,
    percentile_ranges,
)
from tinyasc_export.errors import GraphError, InputError
from tinyasc_export.graph import Graph, Tensor
from tinyasc_export.quantize import calibrate


def graph(shape: tuple[int, ...] = (1, 16, 32, 1)) -> Graph:
    g = Graph({"x": Tensor("x", shape)}, [], "x", "")
    g.output = g.add_op("relu", ["x"], {})
    return g


def error(values: np.ndarray, low: float, high: float) -> float:
    step = (high - low) / 255
    q = np.clip(np.rint(values / step), np.rint(low / step), np.rint(low / step) + 255)
    return float(np.mean((q * step - values) ** 2))


def test_rare_peaks_are_clipped():
    values = np.random.default_rng(0).laplace(size=(16, 64, 128, 1)).astype(np.float32)
    usual = values.copy()
    values[0, 0, 0, 0] = 30.0
    g = graph((1, 64, 128, 1))
    ranges = {"x": (float(values.min()), 30.0), g.output: (0.0, 30.0)}
    low, high = least_squares_ranges(g, values, ranges)["x"]
    assert high < 0.8 * 30
    assert error(usual, low, high) < 0.7 * error(usual, *ranges["x"])
    best = min(error(usual, c * ranges["x"][0], c * 30.0) for c in CANDIDATES)
    assert error(usual, low, high) == pytest.approx(best, rel=0.1)


def test_an_even_spread_keeps_its_range():
    values = np.random.default_rng(0).uniform(-1, 1, (4, 16, 32, 1)).astype(np.float32)
    ranges = {"x": (-1.0, 1.0), graph().output: (0.0, 1.0)}
    narrowed = least_squares_ranges(graph(), values, ranges)
    for name, (low, high) in narrowed.items():
        assert high == pytest.approx(ranges[name][1], rel=0.05) and low == pytest.approx(ranges[name][0], rel=0.05)


def test_zero_stays_inside_and_silence_is_taken():
    values = np.full((2, 16, 32, 1), 3.0, np.float32)
    low, high = least_squares_ranges(graph(), values, {"x": (3.0, 3.0), graph().output: (3.0, 3.0)})["x"]
    assert low <= 0 < high
    silent = np.zeros((2, 16, 32, 1), np.float32)
    assert least_squares_ranges(graph(), silent, {"x": (0.0, 0.0), graph().output: (0.0, 0.0)})["x"] == (0.0, 0.0)


# Percentiles, against numpy's over all values at once ----------------------------------------------------------------


@pytest.mark.parametrize("percentile", [99.0, 99.9, 99.99, 100.0])
@pytest.mark.parametrize("batch_size", [1, 3, 16])
def test_percentiles_are_those_of_all_clips_together(percentile, batch_size):
    values = np.random.default_rng(0).laplace(size=(7, 16, 32, 1)).astype(np.float32)
    values[4] *= 20  # one loud clip, which an average over clips would cut off
    g = graph()
    ranges = calibrate(g, values)
    done = []
    result = percentile_ranges(
        g, values, ranges, percentile=percentile, batch_size=batch_size, progress=lambda *step: done.append(step)
    )
    assert done[-1] == (7, 7)
    for name, of in (("x", values), (g.output, np.maximum(values, 0))):
        low, high = result[name]
        step = (ranges[name][1] - ranges[name][0]) / BINS
        outer = np.percentile(of, 100 - percentile, method="lower"), np.percentile(of, percentile, method="higher")
        assert -1e-6 <= outer[0] - low <= step + 1e-6 and -1e-6 <= high - outer[1] <= step + 1e-6
        beyond = (np.sum(of < low - 1e-6), np.sum(of > high + 1e-6))
        assert max(beyond) <= of.size * (100 - percentile) / 100


def test_a_hundred_is_the_true_range_and_one_value_has_no_other():
    values = np.random.default_rng(0).standard_normal((3, 16, 32, 1)).astype(np.float32)
    ranges = calibrate(graph(), values)
    assert percentile_ranges(graph(), values, ranges, percentile=100) == ranges
    for value in (0.0, 3.0):
        still = np.full((2, 16, 32, 1), value, np.float32)
        assert percentile_ranges(graph(), still, calibrate(graph(), still))["x"] == (value, value)


def test_a_subnormal_range_is_counted_as_any_other():
    values = np.random.default_rng(0).uniform(-1e-40, 1e-40, (2, 16, 32, 1)).astype(np.float32)
    assert values.any() and np.abs(values).max() < np.finfo(np.float32).tiny
    g = graph()
    ranges = calibrate(g, values)
    with np.errstate(all="raise", under="ignore"):
        low, high = percentile_ranges(g, values, ranges, percentile=90)["x"]
    step = (ranges["x"][1] - ranges["x"][0]) / BINS
    exact = values.astype(np.float64)
    assert low == pytest.approx(np.percentile(exact, 10, method="lower"), abs=1.01 * step)
    assert high == pytest.approx(np.percentile(exact, 90, method="higher"), abs=1.01 * step)


# Methods by name -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("measured", [True, False])
def test_every_method_by_its_name(measured):
    net = Net((1, 12, 9, 1))
    net.op("relu", [net.conv("x", 3, (3, 3))])
    x = net.features(11)
    x[3] *= 30
    true = calibrate(net.graph, x)
    expected = {
        "minmax": true,
        "percentile": percentile_ranges(net.graph, x, true, percentile=99.5),
        "mse": least_squares_ranges(net.graph, x, true),
    }
    assert set(expected) == set(METHODS)
    for method, wanted in expected.items():
        done: list[tuple[int, int]] = []
        ranges = activation_ranges(
            method,
            net.graph,
            x,
            ranges=true if measured else None,
            percentile=99.5,
            progress=lambda *step, done=done: done.append(step),
        )
        for name, pair in wanted.items():
            np.testing.assert_allclose(ranges[name], pair, rtol=1e-6)
        if done:
            assert done[-1][0] == done[-1][1] and done == sorted(done)
        assert len({total for _, total in done}) == (0 if measured and method == "minmax" else 1)
        assert METHODS[method].about
    assert expected["percentile"]["x"][1] < true["x"][1]  # which the loud clip alone reaches


def test_unknown_methods_and_percentiles_are_refused():
    x = np.zeros((1, 16, 32, 1), np.float32)
    with pytest.raises(InputError, match="'median' is unknown; choose one of: minmax, percentile, mse"):
        activation_ranges("median", graph(), x)
    for percentile in (50, 100.1, float("nan")):
        with pytest.raises(InputError, match="above 50 and at most at 100, got"):
            activation_ranges("percentile", graph(), x, percentile=percentile)
    with pytest.raises(GraphError, match="at least one clip"):
        activation_ranges("mse", graph(), x[:0])
