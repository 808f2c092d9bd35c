"""Temperature scaling: one scalar that makes probabilities mean what they say (Guo et al., ICML 2017, section 4.2).

Logits are divided by it before the softmax, so no answer changes. It is fitted on clips that the model was not trained
on, by least log loss: with b = 1 / T the log loss is convex in b, and its slope is the mean over clips of the expected
logit under the model less the right class's logit. The root of that slope lies by bisection.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from tinyasc.evaluate import metrics
from tinyasc.infer.runner import softmax
from tinyasc.training.features import Prepared
from tinyasc.training.recipe import Recipe

LIMITS = (0.05, 20.0)
_STEPS = 60
_DIGITS = 6  # of what the card says


@dataclass(frozen=True)
class Temperature:
    """A temperature, and what it does to the clips that it was fitted on.

    Args:
        value: T, above 0; 1 changes nothing.
        about: on what it was fitted, or why it is 1.
        before: log loss (nats) and expected calibration error at T = 1; None where nothing was fitted.
        after: the same at `value`.
    """

    value: float
    about: str
    before: dict[str, float] | None = None
    after: dict[str, float] | None = None

    def card(self) -> dict[str, Any]:
        """What a model file says of it; `tinyasc.infer` reads `temperature`."""
        fitted = {} if self.before is None else {"before": self.before, "after": self.after}
        return {"temperature": self.value, "temperature_fit": {"about": self.about, **fitted}}


def calibrated(logits: np.ndarray, precision: str, data: Prepared, student: Recipe) -> Temperature:
    """The temperature of a student's files of one precision, from their logits (clips, K) on validation clips; or 1.

    It is 1, and the card says why, where no clip was held out, and where `decision_weights` multiply the probabilities
    that training left: on other probabilities they would decide otherwise.
    """
    if student.training.final:
        return Temperature(1.0, "1: validation clips were trained on, so none was held out to fit it on")
    if student.decision_weights:
        return Temperature(1.0, "1: decision_weights are for the probabilities that training left")
    return fit_temperature(logits, data.validation.labels, f"{precision} logits of {len(logits)} validation clips")


def fit_temperature(logits: np.ndarray, labels: np.ndarray, about: str) -> Temperature:
    """The temperature of least log loss.

    Args:
        logits: (clips, K) of clips that were held out of training.
        labels: (clips,) class indices.
        about: on what it is fitted, for the card.

    Returns:
        Within `LIMITS`; 1, with the reason, where no temperature in there is best (when every clip is answered rightly,
        for one, any sharpening lowers the loss), or where those of either half of the clips do not help the other.
    """
    z = logits.astype(np.float64)
    value = least_temperature(z, labels)
    if value is None:
        return Temperature(1.0, f"1: no best temperature lies within {LIMITS[0]:g}..{LIMITS[1]:g} ({about})")
    if not _holds_on_others(z, labels):
        return Temperature(1.0, f"1: fitted on half of the clips, it makes the other half's log loss worse ({about})")
    return Temperature(value, about, _scores(z, labels, 1.0), _scores(z, labels, value))


def least_temperature(logits: np.ndarray, labels: np.ndarray) -> float | None:
    """The temperature of least log loss of logits (clips, K); None where none within `LIMITS` is."""
    z = logits.astype(np.float64)
    right = z[np.arange(len(z)), labels]

    def slope(b: float) -> float:
        return float(np.mean((softmax(z, 1 / b) * z).sum(axis=1) - right))

    low, high = 1 / LIMITS[1], 1 / LIMITS[0]
    if not slope(low) < 0 < slope(high):
        return None
    for _ in range(_STEPS):
        middle = (low + high) / 2
        low, high = (middle, high) if slope(middle) < 0 else (low, middle)
    return round(2 / (low + high), _DIGITS)


def _holds_on_others(z: np.ndarray, labels: np.ndarray) -> bool:
    """Whether temperatures of either half of the clips help the other: with few wrong answers they are chance."""
    gain, halves = 0.0, (slice(0, None, 2), slice(1, None, 2))
    for own, other in (halves, halves[::-1]):
        value = least_temperature(z[own], labels[own])
        if value is None:
            return False
        before, after = (metrics.log_loss(softmax(z[other], t), labels[other]) for t in (1.0, value))
        gain += (before - after) * len(labels[other])
    return gain > 0


def _scores(logits: np.ndarray, labels: np.ndarray, temperature: float) -> dict[str, float]:
    probabilities = softmax(logits, temperature)
    error = metrics.calibration(probabilities, labels)["expected_calibration_error"]
    return {"log_loss": metrics.log_loss(probabilities, labels), "expected_calibration_error": error}
