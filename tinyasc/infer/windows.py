"""Windows of clips that are longer than a model's input, and one answer out of those of all windows."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np

from tinyasc.errors import InputError
from tinyasc.frontend import FrontEnd, fit_length

AGGREGATES = ("mean", "max", "vote")
MAX_HOP_SECONDS = 1e9  # thirty years


def check_hop(seconds: float | None) -> None:
    """Raises InputError for a hop of windows that is not above 0, or beyond `MAX_HOP_SECONDS`."""
    if seconds is not None and not 0 < seconds <= MAX_HOP_SECONDS:
        raise InputError(f"the hop of windows must be above 0 seconds and at most {MAX_HOP_SECONDS:g}, got {seconds:g}")


def hop_samples(seconds: float | None, front_end: FrontEnd) -> int:
    """Samples from the start of one window to that of the next; None is half a window.

    A hop that is longer than a window leaves samples between two windows unheard.

    Raises:
        InputError: as `check_hop`.
    """
    check_hop(seconds)
    return max(1, front_end.clip_samples // 2 if seconds is None else round(seconds * front_end.sample_rate))


def starts(n_samples: int, clip_samples: int, hop: int) -> Iterator[int]:
    """Where windows begin, every `hop` samples, the last one flush with the end of the clip."""
    last = n_samples - clip_samples
    yield from range(0, last, hop)
    yield max(last, 0)


def windows(samples: np.ndarray, clip_samples: int, hop: int | None = None) -> Iterator[np.ndarray]:
    """Cuts a (..., samples) clip into windows, each (..., clip_samples); a short clip is padded with zeros at its end.

    Args:
        samples: at the front end's rate.
        clip_samples: length of a window.
        hop: from one to the next; None is half a window.
    """
    if samples.shape[-1] <= clip_samples:
        yield fit_length(samples, clip_samples)
        return
    for start in starts(samples.shape[-1], clip_samples, hop or max(1, clip_samples // 2)):
        yield samples[..., start : start + clip_samples]


def aggregate(answers: Iterable[np.ndarray], how: str = "mean") -> tuple[np.ndarray, int]:
    """One answer out of the windows' probabilities, each (K,), and how many windows there were.

    Args:
        answers: at least one. They are taken one at a time and not kept.
        how: "mean"; "max", each class's largest, of sum 1 again, for short sounds in long clips; "vote", the share of
            windows in which a class is the likeliest. Classes of equal share stand in the order of the labels.

    Returns:
        (K,) float64 of sum 1.
    """
    total: np.ndarray | None = None
    join, n = np.maximum if how == "max" else np.add, 0
    for answer in answers:
        if how == "vote":
            answer = np.eye(1, len(answer), int(answer.argmax()))[0]
        total = answer if total is None else join(total, answer)
        n += 1
    assert total is not None, "a clip has at least one window"
    return total / (total.sum() if how == "max" else n), n
