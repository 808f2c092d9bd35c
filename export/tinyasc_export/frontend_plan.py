"""What a board's front end needs to know: sizes and tables in float64, before either arithmetic rounds them.

The plan is made from a front-end record by whoever knows records (`tinyasc.frontend_device.plan`). `frontend_device`
rounds it to float32, `frontend_fixed` to integers, each once; their numpy functions and the C that `c99.frontend`
writes read the same rounded tables.

Mel triangles are kept as one number per bin. Two neighbours share the stretch between their peaks: there the upper one
rises by `ratio`, from 0 to 1, and the lower one falls by 1 - ratio. So a bin's power is split once and both parts are
summed, and a band is its rising and its falling sum together, times its height.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from tinyasc_export.errors import InputError

LEAST_FFT, MOST_FFT = 16, 16384
DB_PER_OCTAVE = float(10 * np.log10(2))


@dataclass(frozen=True, eq=False)
class FrontEndPlan:
    """A front end of one channel, and the integers that its features become.

    The integer of a band is (value * scale + offset) / step + zero_point, rounded and saturated, where the value is the
    mel power in dB, or the power itself without `log`.

    Args:
        sample_rate: Hz.
        n_fft: a power of two.
        hop_length: samples between frames.
        n_frames: of one clip.
        window: (n_fft / 2 + 1,) its rising half with the peak; the rest mirrors it.
        begin: (n_mels + 2,) the first FFT bin at or above each edge of the triangles.
        ratio: (begin[-1] - begin[0],) where each bin lies between the two edges around it, in 0..1.
        height: (n_mels,) of the triangles.
        log: whether the value is in dB.
        amin: power below which the logarithm is cut off.
        scale: (n_mels,) per-band normalisation, as is `offset`.
        offset: (n_mels,).
        step: of the integers.
        zero_point: of the integers.
        dtype: "int8" or "int16".

    Raises:
        InputError: what C cannot take.
    """

    sample_rate: int
    n_fft: int
    hop_length: int
    n_frames: int
    window: np.ndarray
    begin: np.ndarray
    ratio: np.ndarray
    height: np.ndarray
    log: bool
    amin: float
    scale: np.ndarray
    offset: np.ndarray
    step: float
    zero_point: int
    dtype: str

    def __post_init__(self) -> None:
        if self.n_fft & (self.n_fft - 1) or not LEAST_FFT <= self.n_fft <= MOST_FFT:
            raise InputError(
                f"the front end in C needs an n_fft that is a power of two in {LEAST_FFT}..{MOST_FFT}, got {self.n_fft}"
            )
        if self.dtype not in ("int8", "int16"):
            raise InputError(f"the front end in C gives int8 or int16 features; the model's input is {self.dtype}")

    @property
    def n_mels(self) -> int:
        """Bands of one frame."""
        return len(self.height)

    @property
    def limits(self) -> tuple[int, int]:
        """Least and greatest integer of a feature."""
        info = np.iinfo(self.dtype)
        return int(info.min), int(info.max)


def frames(samples: np.ndarray, n_fft: int, hop_length: int) -> np.ndarray:
    """The windows of int16 samples: (frames, n_fft) int16, a view.

    Raises:
        ValueError: samples of another type or shape, or fewer than one window takes.
    """
    if samples.dtype != np.int16 or samples.ndim != 1 or len(samples) < n_fft:
        raise ValueError(f"want at least {n_fft} int16 samples of one channel, got {samples.dtype} {samples.shape}")
    return np.lib.stride_tricks.sliding_window_view(samples, n_fft)[::hop_length]


def mirrored(half: np.ndarray) -> np.ndarray:
    """A whole window of n_fft values from its rising half with the peak."""
    return np.concatenate([half, half[-2:0:-1]])
