"""Names the scene of an endless recording, window by window.

Every window's features are computed anew, so its answer is the one that `Model.predict` gives on the same samples. No
window spans a place where sound was lost: after one, listening begins anew.
"""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from tinyasc.errors import InputError
from tinyasc.infer.runner import Model
from tinyasc.infer.sources import Block, Source
from tinyasc.infer.streaming import Resampler, Windows

UNKNOWN = "unknown"
# How soon a signal is noticed while no sound comes.
POLL_SECONDS = 0.25


@dataclass
class Counts:
    """What was heard so far.

    Args:
        seconds: of sound, the lost included: where the recording is.
        windows: answers given.
        skipped: windows that were due and left out, because newer sound was waiting by then.
        dropped_seconds: of sound that never reached the model: it came while the queue was full, or beside samples
            that are no numbers. What the sound card or its driver lost is not in it.
        breaks: how often listening began anew for it.
        not_finite: samples that were NaN or infinite.
    """

    seconds: float = 0.0
    windows: int = 0
    skipped: int = 0
    dropped_seconds: float = 0.0
    breaks: int = 0
    not_finite: int = 0


@dataclass(frozen=True, eq=False)
class Answer:
    """The answer at one window.

    Args:
        seconds: where the window ends in the recording.
        label: the likeliest class, or "unknown" where it is less likely than the threshold.
        best: the likeliest class in any case.
        confidence: its probability.
        changed: the label is another than at the answer before; true for the first.
        labels: class names.
        probabilities: (K,) float64, the mean over the newest windows, in the order of the labels.
        window: (K,) float64, those of this window alone.
        silent: the window holds zeros only, as a muted microphone gives.
        milliseconds: what features and model took.
    """

    seconds: float
    label: str
    best: str
    confidence: float
    changed: bool
    labels: tuple[str, ...]
    probabilities: np.ndarray
    window: np.ndarray
    silent: bool
    milliseconds: float


class Listener:
    """Takes blocks of sound in, gives answers out; its memory is one window and one block.

    Args:
        model: what answers.
        hop_seconds: from one window to the next, rounded to the front end's samples; None is one second, or a window
            where that is shorter.
        smooth: windows whose probabilities are averaged, fewer after a start and after a break.
        threshold: a likeliest class below this probability is "unknown".

    Attributes:
        counts: what was heard so far.

    Raises:
        InputError: a value out of range.
    """

    def __init__(
        self, model: Model, *, hop_seconds: float | None = None, smooth: int = 3, threshold: float = 0.5
    ) -> None:
        front_end = model.front_end
        if hop_seconds is None:
            hop_seconds = min(1.0, front_end.clip_samples / front_end.sample_rate)
        hop = round(hop_seconds * front_end.sample_rate) if math.isfinite(hop_seconds) else 0
        if hop < 1 or smooth < 1 or not 0 <= threshold <= 1:
            raise InputError(
                f"listening needs a hop of at least one sample, smooth of at least 1 and a threshold in 0..1, got "
                f"{hop_seconds:g} s, {smooth} and {threshold:g}"
            )
        self.counts = Counts()
        self.hop_seconds = hop / front_end.sample_rate
        self._model, self._threshold = model, threshold
        self._windows = Windows(front_end.sides, front_end.clip_samples, hop)
        self._recent: deque[np.ndarray] = deque(maxlen=smooth)
        self._label: str | None = None
        self._answered = 0  # position up to which the stretch was answered
        self._resampler: Resampler | None = None
        self._frames = 0  # taken in at the source's rate, the lost included

    def push(self, block: Block, waiting_seconds: Callable[[], float] = lambda: 0.0) -> Iterator[Answer]:
        """Takes one block in; answers the windows that are due.

        Args:
            block: sound of one channel or, for stereo, two; a mono front end takes the mean of any number.
            waiting_seconds: how much sound waits behind this block. A window that is due while a whole hop waits is
                skipped: an answer to newer sound is at hand.

        Raises:
            InputError: other channels than the front end takes.
            ModelFileError: as `Model.predict`.
        """
        samples, front_end = block.samples, self._model.front_end
        if front_end.stereo and samples.shape[1] != 2:
            raise InputError(
                f"this model hears left and right, and the sound has {samples.shape[1]} channel(s); give it 2"
            )
        if block.lost is not None:
            self._break(block.lost, block.rate)
        finite = np.isfinite(samples)
        if not finite.all():
            # The whole block goes: a NaN comes of a fault, and its neighbours are no better.
            self.counts.not_finite += int(finite.size - finite.sum())
            self._break(len(samples), block.rate)
            return
        if not front_end.stereo and samples.shape[1] > 1:
            # As `read_audio` does it: in float64, so that channels near the largest float32 do not overflow.
            samples = samples.mean(axis=1, keepdims=True, dtype=np.float64).astype(np.float32)
        self._frames += len(samples)
        self.counts.seconds = self._frames / block.rate
        if self._resampler is None:
            self._resampler = Resampler(block.rate, front_end.sample_rate, front_end.sides)
        for _ in self._windows.push(self._resampler.push(samples)):
            if waiting_seconds() >= self.hop_seconds:
                self.counts.skipped += 1
            else:
                yield self._answer()

    def finish(self) -> Iterator[Answer]:
        """The end of the recording: a last window, flush with it, where sound came since the one before.

        A recording shorter than a window is padded with zeros, as `Model.predict` does it; what is left after a break
        and shorter than a window is not answered.
        """
        if self._resampler is not None:
            sides = self._model.front_end.sides
            for _ in self._windows.push(self._resampler.push(np.zeros((0, sides), np.float32), last=True)):
                yield self._answer()
            self._resampler = None
        whole = self._windows.held == self._model.front_end.clip_samples
        only = self.counts.windows + self.counts.breaks == 0 and self._windows.held > 0
        if self._windows.position > self._answered and (whole or only):
            yield self._answer()

    def _answer(self) -> Answer:
        model, sound = self._model, self._windows.window()
        start = time.perf_counter()
        window = model.predict(sound if model.front_end.stereo else sound[0]).probabilities
        milliseconds = 1000 * (time.perf_counter() - start)
        self._recent.append(window)
        probabilities = np.mean(self._recent, axis=0)
        likeliest = int(probabilities.argmax())
        best, confidence = model.labels[likeliest], float(probabilities[likeliest])
        label = best if confidence >= self._threshold else UNKNOWN
        changed, self._label = label != self._label, label
        self.counts.windows += 1
        self._answered = self._windows.position
        seconds = self._windows.position / model.front_end.sample_rate
        silent = not sound.any()
        return Answer(
            seconds, label, best, confidence, changed, model.labels, probabilities, window, silent, milliseconds
        )

    def _break(self, lost: int, rate: int) -> None:
        """Sound is missing: what was held is of no use to the windows to come."""
        self._frames += lost
        self.counts.breaks += 1
        self.counts.dropped_seconds += lost / rate
        self.counts.seconds = self._frames / rate
        self._resampler = None
        self._recent.clear()
        self._windows.restart(round(self._frames * self._model.front_end.sample_rate / rate))


class Report(Protocol):
    """Who is told what was heard."""

    def answer(self, answer: Answer, counts: Counts) -> None:
        """Called at every window that is answered."""
        ...

    def counted(self, counts: Counts) -> None:
        """Called after every block, answered or not."""
        ...


def run(source: Source, listener: Listener, report: Report, stopped: Callable[[], bool] = lambda: False) -> bool:
    """Listens until the source ends or `stopped` says so.

    Returns:
        Whether the source came to its end.

    Raises:
        TinyascError: the source failed, or the model.
    """
    while not stopped():
        try:
            block = source.get(POLL_SECONDS)
        except TimeoutError:
            continue
        if block is None:
            for answer in listener.finish():
                report.answer(answer, listener.counts)
            return True
        for answer in listener.push(block, source.waiting_seconds):
            report.answer(answer, listener.counts)
            if stopped():
                break
        report.counted(listener.counts)
    return False
