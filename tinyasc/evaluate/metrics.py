"""Metrics of class probabilities: validated first, then one function each, then `evaluate` for all."""

from __future__ import annotations

import numpy as np

from tinyasc.errors import InputError


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


def log_loss(probabilities: np.ndarray, labels: np.ndarray) -> float:
    """Mean negative natural logarithm of the right class's probability, cut off at 1e-15."""
    right = probabilities[np.arange(len(labels)), labels]
    return float(-np.log(np.clip(right, 1e-15, 1.0)).mean())


def evaluate(probabilities: np.ndarray, labels: np.ndarray) -> dict[str, float]:
    """All metrics of one model.

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
