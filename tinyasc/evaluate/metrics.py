"""Metrics of class probabilities: validated first, then one function each, then `evaluate` for all."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from tinyasc.errors import InputError

CUT_OFF = 1e-15  # of probabilities in the log loss
BINS = 15  # of the calibration error


def validate(probabilities: np.ndarray, labels: np.ndarray) -> None:
    """Checks (clips, classes) probabilities against (clips,) class indices.

    Raises:
        InputError: shapes that do not fit, no clips, rows that are not distributions, labels out of range.
    """
    if probabilities.ndim != 2 or labels.shape != probabilities.shape[:1]:
        raise InputError(f"probabilities {probabilities.shape} and labels {labels.shape} do not fit together")
    if len(labels) == 0:
        raise InputError("there are no clips to evaluate")
    if not np.issubdtype(labels.dtype, np.integer):
        raise InputError(f"labels must be class indices, got {labels.dtype}")
    if not np.isfinite(probabilities).all() or np.abs(probabilities.sum(axis=1) - 1).max() > 1e-3:
        raise InputError("every row of probabilities must be finite and sum to 1")
    if probabilities.min() < 0:
        raise InputError(f"probabilities must not be negative, got {probabilities.min():.3g}")
    if labels.min() < 0 or labels.max() >= probabilities.shape[1]:
        raise InputError(f"labels must lie in 0..{probabilities.shape[1] - 1}, got {labels.min()}..{labels.max()}")


def accuracy(probabilities: np.ndarray, labels: np.ndarray) -> float:
    """Share of clips whose most probable class is the right one."""
    return float((probabilities.argmax(axis=1) == labels).mean())


def class_average_accuracy(probabilities: np.ndarray, labels: np.ndarray) -> float:
    """Mean over classes of the accuracy within each class; classes without clips are left out."""
    hits = probabilities.argmax(axis=1) == labels
    return float(np.mean([hits[labels == k].mean() for k in np.unique(labels)]))


def class_average_precision(probabilities: np.ndarray, labels: np.ndarray) -> float:
    """Mean over classes of the share of a class's answers that are right.

    A class that is never answered counts as 0; one that occurs neither among labels nor answers is left out.
    """
    answers = probabilities.argmax(axis=1)
    shares = [(labels[answers == k] == k).mean() if (answers == k).any() else 0.0 for k in np.union1d(labels, answers)]
    return float(np.mean(shares))


def clip_log_loss(probabilities: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """(clips,) negative natural logarithm of each right class's probability, cut off at 1e-15."""
    right = probabilities[np.arange(len(labels)), labels]
    return -np.log(np.clip(right, CUT_OFF, 1.0))


def log_loss(probabilities: np.ndarray, labels: np.ndarray) -> float:
    """Mean negative natural logarithm of the right class's probability, cut off at 1e-15."""
    return float(clip_log_loss(probabilities, labels).mean())


def confusion_matrix(probabilities: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """(K, K) int64 counts: rows are the right classes, columns the answers."""
    k = probabilities.shape[1]
    return np.bincount(k * labels + probabilities.argmax(axis=1), minlength=k * k).reshape(k, k)


def per_class(probabilities: np.ndarray, labels: np.ndarray, names: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Support, accuracy (recall), precision and log loss of each class; None where there is nothing to count."""
    answers, losses = probabilities.argmax(axis=1), clip_log_loss(probabilities, labels)
    found = {}
    for k, name in enumerate(names):
        own, answered = labels == k, answers == k
        found[name] = {
            "clips": int(own.sum()),
            "accuracy": float(answered[own].mean()) if own.any() else None,
            "precision": float(own[answered].mean()) if answered.any() else None,
            "log_loss": float(losses[own].mean()) if own.any() else None,
        }
    return found


def calibration(probabilities: np.ndarray, labels: np.ndarray, bins: int = BINS) -> dict[str, Any]:
    """Expected calibration error of the answers, with its bins (Guo et al., ICML 2017, section 2).

    Bins of equal width, (i / bins, (i + 1) / bins], hold clips by the probability of their answer, the confidence.
    The error is the mean over clips of the distance between a bin's accuracy and its mean confidence.

    Returns:
        "expected_calibration_error", and "bins": lower, upper, clips, confidence, accuracy (None when empty) of each.
    """
    confidence, hits = probabilities.max(axis=1), probabilities.argmax(axis=1) == labels
    place = np.clip(np.ceil(confidence * bins).astype(int) - 1, 0, bins - 1)
    listed, error = [], 0.0
    for i in range(bins):
        inside = place == i
        entry: dict[str, Any] = {"lower": i / bins, "upper": (i + 1) / bins, "clips": int(inside.sum())}
        entry |= {"confidence": None, "accuracy": None}
        if inside.any():
            entry |= {"confidence": float(confidence[inside].mean()), "accuracy": float(hits[inside].mean())}
            error += inside.mean() * abs(entry["confidence"] - entry["accuracy"])
        listed.append(entry)
    return {"expected_calibration_error": float(error), "bins": listed}


def open_set_score(probabilities: np.ndarray, labels: np.ndarray, unknown: int) -> float:
    """DCASE 2019 Task 1C: the mean of the known classes' average accuracy and the accuracy on unknown scenes.

    Args:
        probabilities: (clips, classes).
        labels: (clips,) class indices.
        unknown: the index of the class of unknown scenes.

    Raises:
        InputError: no clip of a known class, or none of the unknown one.
    """
    strange = labels == unknown
    if strange.all() or not strange.any():
        raise InputError("the open-set score needs clips of known and of unknown scenes, and one of them is missing")
    known = class_average_accuracy(probabilities[~strange], labels[~strange])
    return (known + accuracy(probabilities[strange], labels[strange])) / 2


def evaluate(probabilities: np.ndarray, labels: np.ndarray) -> dict[str, float]:
    """The figures that an epoch, a card and a table row need; `tinyasc.evaluate.summary` gives all.

    Args:
        probabilities: (clips, classes).
        labels: (clips,) class indices.

    Raises:
        InputError: as `validate`.
    """
    validate(probabilities, labels)
    return {
        "clips": float(len(labels)),
        "accuracy": accuracy(probabilities, labels),
        "class_average_accuracy": class_average_accuracy(probabilities, labels),
        "log_loss": log_loss(probabilities, labels),
    }
