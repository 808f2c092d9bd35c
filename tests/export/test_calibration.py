"""Ranges of least squared error, from their definition."""

import numpy as np
import pytest

from tinyasc_export.calibration import CANDIDATES, least_squares_ranges
from tinyasc_export.graph import Graph, Tensor


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
