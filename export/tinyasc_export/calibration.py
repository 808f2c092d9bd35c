"""Narrower ranges for 8-bit activations: the clipping that gives the least mean squared error.

The true minimum and maximum (`quantize.calibrate`) spend most of 256 levels on a few rare peaks. Clipping those peaks
costs less than the levels are worth; how far is found per activation over all calibration clips together, never
averaged over them. At 16 bits the levels do not run out, and the true range stays.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from tinyasc_export import reference
from tinyasc_export.graph import Graph
from tinyasc_export.quantize import LEAST_RANGE, Ranges

CANDIDATES = np.linspace(0.3, 1.0, 29)
VALUES_PER_BATCH = 2048
LEVELS = 255


def least_squares_ranges(
    graph: Graph,
    features: np.ndarray,
    ranges: Ranges,
    *,
    batch_size: int = 4,
    progress: Callable[[int, int], None] | None = None,
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
