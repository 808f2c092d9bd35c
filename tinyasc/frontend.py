"""The front end: a frozen record of how samples become features, and its numpy definition.

The record travels inside the model file, so the features of training, of `tinyasc infer` and of firmware have one
definition. `reference` arithmetic computes in float64 with numpy's FFT and agrees with librosa to 1e-4 dB.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np

from tinyasc.errors import InputError, ModelFileError

WINDOWS = ("hann", "hamming")
MEL_SCALES = ("slaney", "htk")
ARITHMETICS = ("reference",)


@dataclass(frozen=True)
class FrontEnd:
    """How samples become features of shape (n_mels, frames).

    Args:
        sample_rate: Hz; audio at another rate is resampled to it.
        clip_samples: length of one model input in samples; shorter clips are padded with zeros at the end.
        n_fft: FFT length in samples.
        win_length: window length in samples, centred in the FFT.
        hop_length: samples between frames.
        window: "hann" or "hamming", periodic.
        center: pad half an FFT of zeros on both sides. Students leave it off, so that streaming equals the whole clip.
        n_mels: mel bands.
        fmin: lowest mel edge in Hz.
        fmax: highest mel edge in Hz; None is half the sample rate.
        mel_scale: "slaney" (linear below 1 kHz, area-normalised triangles) or "htk" (no normalisation).
        amin: power below which the log is cut off; 1e-10 is -100 dB.
        band_scale: per-band factor on the dB values; empty means 1.
        band_offset: per-band addition after the factor; empty means 0.
        arithmetic: "reference" (float64, numpy's FFT).
    """

    sample_rate: int = 32000
    clip_samples: int = 160000
    n_fft: int = 2048
    win_length: int = 2048
    hop_length: int = 1024
    window: str = "hann"
    center: bool = False
    n_mels: int = 64
    fmin: float = 0.0
    fmax: float | None = None
    mel_scale: str = "slaney"
    amin: float = 1e-10
    band_scale: tuple[float, ...] = ()
    band_offset: tuple[float, ...] = ()
    arithmetic: str = "reference"

    def __post_init__(self) -> None:
        nyquist = self.sample_rate / 2
        rules = (
            (self.sample_rate > 0, "sample_rate must be positive", self.sample_rate),
            (0 < self.win_length <= self.n_fft, "win_length must lie in 1..n_fft", self.win_length),
            (self.hop_length > 0, "hop_length must be positive", self.hop_length),
            (self.clip_samples >= self.n_fft, "clip_samples must hold one FFT", self.clip_samples),
            (self.n_mels > 0, "n_mels must be positive", self.n_mels),
            (
                0 <= self.fmin < (self.fmax or nyquist) <= nyquist,
                "need 0 <= fmin < fmax <= rate/2",
                (self.fmin, self.fmax),
            ),
            (self.window in WINDOWS, f"window must be one of {WINDOWS}", self.window),
            (self.mel_scale in MEL_SCALES, f"mel_scale must be one of {MEL_SCALES}", self.mel_scale),
            (self.arithmetic in ARITHMETICS, f"arithmetic must be one of {ARITHMETICS}", self.arithmetic),
            (self.amin > 0, "amin must be positive", self.amin),
            (
                len(self.band_scale) in (0, self.n_mels),
                "band_scale must have n_mels values",
                len(self.band_scale),
            ),
            (
                len(self.band_offset) in (0, self.n_mels),
                "band_offset must have n_mels values",
                len(self.band_offset),
            ),
        )
        for holds, rule, value in rules:
            if not holds:
                raise InputError(f"front end: {rule}, got {value}")

    def n_frames(self, n_samples: int | None = None) -> int:
        """Frames that `n_samples` (default: one clip) give."""
        n = self.clip_samples if n_samples is None else n_samples
        n += 2 * (self.n_fft // 2) if self.center else 0
        return 0 if n < self.n_fft else 1 + (n - self.n_fft) // self.hop_length

    def to_dict(self) -> dict[str, Any]:
        """The record as plain JSON values."""
        return {k: list(v) if isinstance(v, tuple) else v for k, v in dataclasses.asdict(self).items()}

    @classmethod
    def from_dict(cls, values: dict[str, Any], where: str = "model file") -> FrontEnd:
        """Reads the record from a model file.

        Raises:
            ModelFileError: an unknown or missing field, or a value out of range.
        """
        names = {f.name for f in dataclasses.fields(cls)}
        if set(values) != names:
            odd = sorted(set(values) ^ names)
            raise ModelFileError(
                f"{where}: front-end field {odd[0]!r} is unknown or missing; it needs another tinyasc version"
            )
        try:
            plain: dict[str, Any] = {k: tuple(map(float, v)) if isinstance(v, list) else v for k, v in values.items()}
            for f in dataclasses.fields(cls):
                value = plain[f.name]
                numbers = value if isinstance(value, tuple) else [value]
                if (f.type == "int" and type(value) is not int) or any(
                    isinstance(v, float) and not np.isfinite(v) for v in numbers
                ):
                    raise ValueError(f"{f.name} is {value!r:.60}")
            return cls(**plain)
        except (TypeError, ValueError, InputError) as error:
            raise ModelFileError(f"{where}: its front-end record cannot be used: {error}") from None

    def without_normalization(self) -> FrontEnd:
        """The same front end before per-band normalisation: what the feature cache holds."""
        return dataclasses.replace(self, band_scale=(), band_offset=())

    def with_normalization(self, scale: np.ndarray, offset: np.ndarray) -> FrontEnd:
        """Appends y * scale + offset per band to the normalisation that is there already."""
        old_scale = np.asarray(self.band_scale or np.ones(self.n_mels), np.float64)
        old_offset = np.asarray(self.band_offset or np.zeros(self.n_mels), np.float64)
        new_scale, new_offset = old_scale * scale, old_offset * scale + offset
        return dataclasses.replace(
            self, band_scale=tuple(map(float, new_scale)), band_offset=tuple(map(float, new_offset))
        )


def fit_length(samples: np.ndarray, n_samples: int) -> np.ndarray:
    """Cuts a (samples,) clip at its end or pads it there with zeros."""
    if samples.shape[-1] >= n_samples:
        return samples[..., :n_samples]
    return np.pad(samples, [(0, 0)] * (samples.ndim - 1) + [(0, n_samples - samples.shape[-1])])


def window(front_end: FrontEnd) -> np.ndarray:
    """The periodic analysis window, centred in n_fft samples. Shape (n_fft,), float64."""
    n = front_end.win_length
    phase = 2 * np.pi * np.arange(n) / n
    a = 0.5 if front_end.window == "hann" else 0.54
    left = (front_end.n_fft - n) // 2
    return np.pad(a - (1 - a) * np.cos(phase), (left, front_end.n_fft - n - left))


def mel_filterbank(front_end: FrontEnd) -> np.ndarray:
    """Triangular mel filters, shape (n_mels, n_fft // 2 + 1), float64.

    Slaney: linear below 1 kHz, logarithmic above, triangles of equal area (Slaney, Auditory Toolbox, 1998).
    HTK: 2595 log10(1 + f / 700), triangles of height one.
    """
    fmax = front_end.fmax or front_end.sample_rate / 2
    slaney = front_end.mel_scale == "slaney"
    to_mel, to_hz = (_hz_to_slaney, _slaney_to_hz) if slaney else (_hz_to_htk, _htk_to_hz)
    limits = to_mel(np.array([front_end.fmin, fmax]))
    edges = to_hz(np.linspace(limits[0], limits[1], front_end.n_mels + 2))
    bins = np.arange(front_end.n_fft // 2 + 1) * front_end.sample_rate / front_end.n_fft
    rise = (bins - edges[:-2, None]) / (edges[1:-1] - edges[:-2])[:, None]
    fall = (edges[2:, None] - bins) / (edges[2:] - edges[1:-1])[:, None]
    triangles = np.maximum(0, np.minimum(rise, fall))
    if slaney:
        triangles *= (2 / (edges[2:] - edges[:-2]))[:, None]
    return triangles


def log_mel(samples: np.ndarray, front_end: FrontEnd) -> np.ndarray:
    """Log-mel power in dB before per-band normalisation.

    Args:
        samples: (samples,), any float type, at the front end's rate.
        front_end: the record.

    Returns:
        (n_mels, frames) float32.

    Raises:
        InputError: fewer samples than one frame needs, or more than one dimension.
    """
    if samples.ndim != 1:
        raise InputError(f"log_mel wants one channel of shape (samples,), got {samples.shape}; mix channels down first")
    if front_end.n_frames(len(samples)) < 1:
        raise InputError(f"{len(samples)} samples are fewer than one frame of {front_end.n_fft}; pad the clip first")
    taper, bands = _plan(front_end.without_normalization())
    signal = samples.astype(np.float64)
    if front_end.center:
        signal = np.pad(signal, front_end.n_fft // 2)
    frames = np.lib.stride_tricks.sliding_window_view(signal, front_end.n_fft)[:: front_end.hop_length]
    spectrum = np.fft.rfft(frames * taper)
    power = spectrum.real**2 + spectrum.imag**2
    mel = np.stack([power[:, start : start + len(weights)] @ weights for start, weights in bands])
    return (10 * np.log10(np.maximum(mel, front_end.amin))).astype(np.float32)


def features(samples: np.ndarray, front_end: FrontEnd) -> np.ndarray:
    """Normalised features of one clip: `log_mel`, then band_scale and band_offset. (n_mels, frames) float32."""
    return normalize(log_mel(samples, front_end), front_end)


def normalize(mel: np.ndarray, front_end: FrontEnd) -> np.ndarray:
    """Applies the per-band factor and offset to (..., n_mels, frames) dB values."""
    if front_end.band_scale:
        mel = mel * np.asarray(front_end.band_scale, np.float32)[:, None]
    if front_end.band_offset:
        mel = mel + np.asarray(front_end.band_offset, np.float32)[:, None]
    return mel.astype(np.float32, copy=False)


@lru_cache(maxsize=8)
def _plan(front_end: FrontEnd) -> tuple[np.ndarray, list[tuple[int, np.ndarray]]]:
    """The window, and for each band its first bin and its non-zero weights."""
    bands = []
    for row in mel_filterbank(front_end):
        used = np.flatnonzero(row)
        bands.append((int(used[0]), row[used[0] : used[-1] + 1]) if len(used) else (0, np.zeros(1)))
    return window(front_end), bands


_SLANEY_KNEE_HZ = 1000.0
_SLANEY_HZ_PER_MEL = 200 / 3
_SLANEY_LOG_STEP = np.log(6.4) / 27


def _hz_to_slaney(hz: np.ndarray) -> np.ndarray:
    log_part = _SLANEY_KNEE_HZ / _SLANEY_HZ_PER_MEL + np.log(np.maximum(hz, 1e-9) / _SLANEY_KNEE_HZ) / _SLANEY_LOG_STEP
    return np.where(hz >= _SLANEY_KNEE_HZ, log_part, hz / _SLANEY_HZ_PER_MEL)


def _slaney_to_hz(mel: np.ndarray) -> np.ndarray:
    knee = _SLANEY_KNEE_HZ / _SLANEY_HZ_PER_MEL
    return np.where(mel >= knee, _SLANEY_KNEE_HZ * np.exp(_SLANEY_LOG_STEP * (mel - knee)), mel * _SLANEY_HZ_PER_MEL)


def _hz_to_htk(hz: np.ndarray) -> np.ndarray:
    return 2595 * np.log10(1 + hz / 700)


def _htk_to_hz(mel: np.ndarray) -> np.ndarray:
    return 700 * (10 ** (mel / 2595) - 1)
