"""Narrower ranges for 8-bit activations: percentiles, or the clipping that gives the least mean squared error.

The true minimum and maximum (`quantize.calibrate`) spend most of 256 levels on a few rare peaks. Clipping those peaks
costs less than the levels are worth; how far is found per activation over all calibration clips together, never
averaged over them. At 16 bits the levels do not run out, and the true range stays. `METHODS` names the ways.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from tinyasc_export import reference
from tinyasc_export.errors import InputError
from tinyasc_export.graph import Graph
from tinyasc_export.quantize import LEAST_RANGE, Ranges, calibrate

CANDIDATES = np.linspace(0.3, 1.0, 29)
VALUES_PER_BATCH = 2048
LEVELS = 255
# Of the true range, to count values in: 64 for each of the 256 levels.
BINS = 1 << 14
PERCENTILE = 99.99

Progress = Callable[[int, int], None]


def activation_ranges(
    method: str,
    graph: Graph,
    features: np.ndarray,
    *,
    ranges: Ranges | None = None,
    percentile: float = PERCENTILE,
    batch_size: int = 4,
    progress: Progress | None = None,
) -> Ranges:
    """The range of every activation for 8 bits, by a method's name.

    Args:
        method: one of `METHODS`: "minmax", "percentile" or "mse".
        graph: lowered, float.
        features: (clips, H, W, C) float32, as the graph wants them.
        ranges: true minimum and maximum of every activation on the same clips; None measures them first.
        percentile: of the method of that name, above 50 and at most 100.
        batch_size: clips at a time.
        progress: called with steps done and steps in all; each pass over the clips has as many steps as clips.

    Raises:
        InputError: no such method, or a percentile out of range.
        GraphError: no clips, or an activation that is not finite.
    """
    if method not in METHODS:
        raise InputError(f"calibration method {method!r} is unknown; choose one of: {', '.join(METHODS)}")
    if not 50 < percentile <= 100:
        raise InputError(f"a calibration percentile must lie above 50 and at most at 100, got {percentile:g}")
    narrow, clips = METHODS[method].narrow, len(features)
    passes = (ranges is None) + (narrow is not None)
    done = 0

    def step(now: int, _: int) -> None:
        if progress:
            progress(done + now, passes * clips)

    if ranges is None:
        ranges = calibrate(graph, features, batch_size=batch_size, progress=step)
        done = clips
    if narrow is None:
        return ranges
    return narrow(graph, features, ranges, percentile, batch_size, step)


def percentile_ranges(
    graph: Graph,
    features: np.ndarray,
    ranges: Ranges,
    *,
    percentile: float = PERCENTILE,
    batch_size: int = 4,
    progress: Progress | None = None,
) -> Ranges:
    """Ranges that leave out at most 100 - `percentile` % of the values at either end, over all clips together.

    Every value is counted, none drawn: in `BINS` steps of the true range, rounded outwards.

    Args:
        graph: lowered, float.
        features: (clips, H, W, C) float32, the same that `ranges` came from.
        ranges: true minimum and maximum of every activation.
        percentile: of the upper end; 100 minus it of the lower.
        batch_size: clips at a time.
        progress: called with clips done and clips in all.
    """
    counts = {name: np.zeros(BINS, np.int64) for name in ranges}
    for start in range(0, len(features), batch_size):
        for name, values in reference.run_all(graph, features[start : start + batch_size]).items():
            low, high = ranges[name]
            if low < high:
                # In float64: a subnormal range has more steps to the unit than float32 can hold.
                bins = (values.ravel().astype(np.float64) - low) * (BINS / (high - low))
                counts[name] += np.bincount(np.clip(bins.astype(np.int64), 0, BINS - 1), minlength=BINS)
        if progress:
            progress(min(start + batch_size, len(features)), len(features))
    return {name: _percentile(counts[name], *ranges[name], percentile) for name in ranges}


def _percentile(counts: np.ndarray, low: float, high: float, percentile: float) -> tuple[float, float]:
    if low == high:
        return low, high
    # Computed as a share of the end, so that 100 leaves out nothing, whatever the rounding.
    beyond = int(counts.sum() * (100 - percentile) / 100)
    first = int(np.searchsorted(np.cumsum(counts), beyond, side="right"))
    last = BINS - int(np.searchsorted(np.cumsum(counts[::-1]), beyond, side="right"))
    step = (high - low) / BINS
    return low + first * step, high - (BINS - last) * step


def least_squares_ranges(
    graph: Graph,
    features: np.ndarray,
    ranges: Ranges,
    *,
    batch_size: int = 4,
    progress: Progress | None = None,
) -> Ranges:
    """The part of every range that, as 8-bit levels, gives the least mean squared error.

    Args:
        graph: lowered, float.
        features: (clips, H, W, C) float32, the same that `ranges` came from.
        ranges: true minimum and maximum of every activation.
        batch_size: clips at a time; of each batch up to `VALUES_PER_BATCH` values of every activation are drawn, with a
            fixed seed.
        progress: called with clips done and clips in all.
    """
    random = np.random.default_rng(0)
    drawn: dict[str, list[np.ndarray]] = {name: [] for name in ranges}
    for start in range(0, len(features), batch_size):
        for name, values in reference.run_all(graph, features[start : start + batch_size]).items():
            flat = values.reshape(-1)
            enough = flat.size <= VALUES_PER_BATCH
            drawn[name].append(flat.copy() if enough else flat[random.integers(flat.size, size=VALUES_PER_BATCH)])
        if progress:
            progress(min(start + batch_size, len(features)), len(features))
    return {name: _least_squares(np.concatenate(drawn[name]), *ranges[name]) for name in ranges}


def _least_squares(values: np.ndarray, low: float, high: float) -> tuple[float, float]:
    low, high = min(low, 0.0), max(high, 0.0)
    errors = []
    for share in CANDIDATES:
        scale = max(share * (high - low), LEAST_RANGE) / LEVELS
        levels = np.clip(np.rint(values / scale), round(share * low / scale), round(share * low / scale) + LEVELS)
        errors.append(np.mean((levels * scale - values) ** 2))
    best = float(CANDIDATES[int(np.argmin(errors))])
    return best * low, best * high


class Method(NamedTuple):
    """One way to a range: from the true one (None leaves it), and what a model's card says of it."""

    narrow: Callable[[Graph, np.ndarray, Ranges, float, int, Progress], Ranges] | None
    about: str


METHODS = {
    "minmax": Method(None, "true ranges"),
    "percentile": Method(
        lambda graph, features, ranges, percentile, batch_size, progress: percentile_ranges(
            graph, features, ranges, percentile=percentile, batch_size=batch_size, progress=progress
        ),
        "ranges between percentiles",
    ),
    "mse": Method(
        lambda graph, features, ranges, _, batch_size, progress: least_squares_ranges(
            graph, features, ranges, batch_size=batch_size, progress=progress
        ),
        "ranges of least squared error",
    ),
}
