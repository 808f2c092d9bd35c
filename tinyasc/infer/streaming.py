"""Windows of an endless recording: resampling and a ring of samples, both of fixed size."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from tinyasc.errors import InputError


class Resampler:
    """Sound at another rate, in pieces that join without a seam.

    Args:
        from_rate: Hz.
        to_rate: Hz; where both are equal the samples pass as they are.
        sides: channels.

    Raises:
        InputError: soxr takes no such rates.
    """

    def __init__(self, from_rate: int, to_rate: int, sides: int) -> None:
        self._stream = None
        if from_rate != to_rate:
            # Imported here: sound at the right rate, the usual case on a device, does without it.
            import soxr

            try:
                self._stream = soxr.ResampleStream(from_rate, to_rate, sides, dtype="float32", quality="HQ")
            except (ValueError, RuntimeError, MemoryError) as error:
                raise InputError(f"sound cannot be resampled from {from_rate} to {to_rate} Hz ({error})") from None

    def push(self, samples: np.ndarray, *, last: bool = False) -> np.ndarray:
        """Takes (n, sides) float32 and gives what is ready, (m, sides); `last` also gives what was held back."""
        if self._stream is None:
            return samples
        return self._stream.resample_chunk(np.ascontiguousarray(samples), last=last)


class Windows:
    """The newest `length` samples of a stretch without a break, and when a window is due.

    The first is due when the ring is full, the next ones every `hop` samples.

    Args:
        sides: channels.
        length: samples of a window.
        hop: samples from one window's end to the next one's.

    Attributes:
        position: samples since the start of the recording, lost ones included.
    """

    def __init__(self, sides: int, length: int, hop: int) -> None:
        self._ring = np.zeros((sides, length), np.float32)
        self._hop = hop
        self.restart(0)

    @property
    def held(self) -> int:
        """Samples of the stretch so far, at most a window's."""
        return min(self.position - self._start, self._ring.shape[1])

    def restart(self, position: int) -> None:
        """Begins a new stretch: no window spans what lies before."""
        self.position = self._start = position
        self._due = position + self._ring.shape[1]

    def push(self, samples: np.ndarray) -> Iterator[None]:
        """Takes (n, sides) in, and stops at each window that is due, while `window` gives it."""
        length = self._ring.shape[1]
        while len(samples):
            part, samples = np.split(samples, [self._due - self.position])
            newest = part[-length:]
            at = self.position + len(part) - len(newest) - self._start
            first = min(len(newest), length - at % length)
            self._ring[:, at % length : at % length + first] = newest[:first].T
            self._ring[:, : len(newest) - first] = newest[first:].T
            self.position += len(part)
            if self.position == self._due:
                self._due += self._hop
                yield

    def window(self) -> np.ndarray:
        """The newest samples in order of time, a copy: (sides, held)."""
        length = self._ring.shape[1]
        if self.held < length:
            return self._ring[:, : self.held].copy()
        return np.roll(self._ring, -((self.position - self._start) % length), axis=1)
