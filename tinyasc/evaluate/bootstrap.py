"""Bootstrap intervals, and the paired comparison of two models (Efron & Tibshirani, 1993, chapters 13 and 16).

Whole groups are drawn, not clips: clips of one recording place sound alike, and several seeds' answers on one clip
are no new clips. Every score here is a ratio of sums over clips, so a draw is a weight per group.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from tinyasc.errors import InputError
from tinyasc.evaluate import metrics

DRAWS = 2000
LEVEL = 0.95
_CELLS = 2**22  # of the weights that are in memory at one time


def intervals(
    probabilities: np.ndarray,
    labels: np.ndarray,
    groups: np.ndarray,
    *,
    draws: int = DRAWS,
    seed: int = 0,
    level: float = LEVEL,
) -> dict[str, tuple[float, float]]:
    """Percentile intervals of accuracy, class-averaged accuracy and log loss.

    Args:
        probabilities: (clips, classes).
        labels: (clips,) class indices.
        groups: (clips,) of any type; clips of one value are drawn together.
        draws: resamples.
        seed: of the draws.
        level: share that an interval covers, in (0, 1).

    Raises:
        InputError: as `metrics.validate`, or what `validate` refuses.
    """
    metrics.validate(probabilities, labels)
    validate(groups, len(labels), draws, level)
    group = np.unique(groups, return_inverse=True)[1]
    k = probabilities.shape[1]
    cell = group * k + labels
    cells = (group.max() + 1, k)
    hit = probabilities.argmax(axis=1) == labels
    clips, hits, losses = (
        np.bincount(cell, values, minlength=cells[0] * k).reshape(cells)
        for values in (np.ones(len(labels)), hit, metrics.clip_log_loss(probabilities, labels))
    )
    found: dict[str, list[np.ndarray]] = {"accuracy": [], "class_average_accuracy": [], "log_loss": []}
    for weights in _weights(cells[0], draws, seed):
        n, right = weights @ clips, weights @ hits
        found["accuracy"].append(right.sum(axis=1) / n.sum(axis=1))
        found["log_loss"].append((weights @ losses).sum(axis=1) / n.sum(axis=1))
        # A class that a draw leaves out is left out of its average, as in `class_average_accuracy`.
        share = np.divide(right, n, out=np.zeros_like(right), where=n > 0)
        found["class_average_accuracy"].append(share.sum(axis=1) / (n > 0).sum(axis=1))
    return {name: _percentiles(np.concatenate(values), level) for name, values in found.items()}


def paired(
    first: np.ndarray,
    second: np.ndarray,
    groups: np.ndarray,
    *,
    draws: int = DRAWS,
    seed: int = 0,
    level: float = LEVEL,
) -> dict[str, float]:
    """The difference first - second of two mean scores on the same clips, with its interval and p value.

    The p value is two-sided: how often the difference, moved to a mean of 0 (the null hypothesis), is at least as far
    from 0 as the one that was measured; (count + 1) / (draws + 1), so it is never 0.

    Args:
        first: (clips,) scores, for example 1 where the answer is right, or log losses.
        second: (clips,) scores of the other model on the same clips.
        groups: as in `intervals`.
        draws: resamples.
        seed: of the draws.
        level: share that the interval covers.

    Returns:
        "difference", "low", "high", "p".

    Raises:
        InputError: shapes that do not fit, values that are not finite, or what `validate` refuses.
    """
    if first.ndim != 1 or first.shape != second.shape:
        raise InputError(f"paired scores must be of the same clips, got {first.shape} and {second.shape}")
    if not (np.isfinite(first).all() and np.isfinite(second).all()):
        raise InputError("paired scores must be finite")
    validate(groups, len(first), draws, level)
    group = np.unique(groups, return_inverse=True)[1]
    clips = np.bincount(group).astype(float)
    sums = np.bincount(group, first.astype(float) - second)
    difference = float(sums.sum() / clips.sum())
    drawn = np.concatenate([weights @ sums / (weights @ clips) for weights in _weights(len(clips), draws, seed)])
    # The tolerance keeps ties, which are many among shares, from falling to either side by rounding.
    as_far = np.abs(drawn - difference) >= abs(difference) - 1e-12
    low, high = _percentiles(drawn, level)
    p = (int(as_far.sum()) + 1) / (draws + 1)
    return {"difference": difference, "low": low, "high": high, "p": p}


def validate(groups: np.ndarray, clips: int, draws: int, level: float) -> None:
    """Checks what is drawn, and how often.

    Raises:
        InputError: groups of another length, fewer than two of them, no draws, a level outside (0, 1).
    """
    if groups.shape != (clips,):
        raise InputError(f"groups {groups.shape} do not fit {clips} clips")
    if len(np.unique(groups)) < 2:
        raise InputError(
            "a bootstrap needs clips of at least two groups (recording places, or clips where none are known)"
        )
    if draws < 1 or not 0 < level < 1:
        raise InputError(f"draws must be at least 1 and level in (0, 1), got {draws} and {level}")


def _weights(groups: int, draws: int, seed: int) -> Iterator[np.ndarray]:
    """How often each draw takes each group, (some draws, groups), `draws` rows in all."""
    rng = np.random.default_rng(seed)
    step = max(1, _CELLS // groups)
    for start in range(0, draws, step):
        rows = min(step, draws - start)
        taken = rng.integers(0, groups, (rows, groups)) + groups * np.arange(rows)[:, None]
        yield np.bincount(taken.ravel(), minlength=rows * groups).reshape(rows, groups).astype(float)


def _percentiles(values: np.ndarray, level: float) -> tuple[float, float]:
    low, high = np.quantile(values, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)
