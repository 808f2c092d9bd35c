"""The front end: a frozen record of how samples become features, and its numpy definition.

The record travels inside the model file, so the features of training, of `tinyasc infer` and of firmware have one
definition. `reference` arithmetic computes in float64 with numpy's FFT and agrees with librosa to 1e-4 dB.

Features are always (channels, n_mels, frames): one channel for a plain log-mel, more with deltas or in stereo.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, TypeVar

import numpy as np

from tinyasc.errors import InputError, ModelFileError

WINDOWS = ("hann", "hamming")
MEL_SCALES = ("slaney", "htk")
ARITHMETICS = ("reference",)
# Older records lack these fields; they mean their defaults.
ADDED_FIELDS = ("pre_emphasis", "stereo", "log", "deltas")
# Of one record, far beyond any in use: a damaged one must not ask for all the memory there is.
MAX_RATE, MAX_N_FFT, MAX_N_MELS, MAX_CLIP_SAMPLES, MAX_SPECTRUM = 10**6, 1 << 16, 1 << 10, 1 << 25, 1 << 25
MAX_FLOAT = 1e30  # float32 holds it, and its product with a level in dB
# Frames of context that one order of deltas takes, half on either side.
DELTA_FRAMES = 4

# What JSON may give for a field, by the type that is written at it.
_PLAIN_TYPES: dict[Any, tuple[type, ...]] = {
    "int": (int,),
    "bool": (bool,),
    "str": (str,),
    "float": (int, float),
    "float | None": (int, float, type(None)),
    "tuple[float, ...]": (tuple,),
}
# A numpy array or a torch tensor.
Array = TypeVar("Array", bound=Any)


@dataclass(frozen=True)
class FrontEnd:
    """How samples become features of shape (channels, n_mels, frames).

    Channels stand in the order (left, right), their deltas, their delta-deltas; a mono front end has one side.

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
        band_scale: factor on every channel's bands, channels * n_mels values, channel after channel; empty means 1.
        band_offset: addition after the factor, in the same order; empty means 0.
        arithmetic: "reference" (float64, numpy's FFT).
        pre_emphasis: a in y[t] = x[t] - a * x[t-1], over the whole clip, with silence before it; 0 is none. A stream
            has to keep one sample for it.
        stereo: keep left and right apart, in place of their mean.
        log: dB; otherwise the mel power as it is.
        deltas: 1 adds each channel's deltas, 2 its delta-deltas too: over two frames either side, of valid frames
            only, so that each order costs 4 frames; the other maps are cropped to the same frames.

    Raises:
        InputError: a value out of range, or mel bands so narrow that no FFT bin lies in them.
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
    pre_emphasis: float = 0.0
    stereo: bool = False
    log: bool = True
    deltas: int = 0

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
            (0 <= self.pre_emphasis < 1, "pre_emphasis must lie in 0..1, 1 excluded", self.pre_emphasis),
            (self.deltas in (0, 1, 2), "deltas must be 0, 1 or 2", self.deltas),
            (self.sample_rate <= MAX_RATE, f"sample_rate must be at most {MAX_RATE}", self.sample_rate),
            (self.n_fft <= MAX_N_FFT, f"n_fft must be at most {MAX_N_FFT}", self.n_fft),
            (self.n_mels <= MAX_N_MELS, f"n_mels must be at most {MAX_N_MELS}", self.n_mels),
            (
                self.clip_samples <= MAX_CLIP_SAMPLES,
                f"clip_samples must be at most {MAX_CLIP_SAMPLES}",
                self.clip_samples,
            ),
        )
        for holds, rule, value in rules:
            if not holds:
                raise InputError(f"front end: {rule}, got {value}")
        if self.n_frames() * self.n_fft > MAX_SPECTRUM:
            raise InputError(
                f"front end: a clip of {self.n_frames()} frames of {self.n_fft} samples is more than {MAX_SPECTRUM} "
                "values; take a longer hop or shorter clips"
            )
        values = self.channels * self.n_mels
        for name in ("band_scale", "band_offset"):
            if len(getattr(self, name)) not in (0, values):
                raise InputError(f"front end: {name} must have {values} values, got {len(getattr(self, name))}")
        if self.n_frames() < 1:
            raise InputError(
                f"front end: clip_samples must give a frame of deltas, which takes {self.least_samples} samples, "
                f"got {self.clip_samples}"
            )
        _refuse_empty_bands(self)

    @property
    def sides(self) -> int:
        """Channels of sound: 2 in stereo."""
        return 2 if self.stereo else 1

    @property
    def channels(self) -> int:
        """Channels of the features: the sides, and their deltas."""
        return self.sides * (1 + self.deltas)

    @property
    def shape(self) -> tuple[int, int, int]:
        """Of one clip's features: (channels, n_mels, frames)."""
        return self.channels, self.n_mels, self.n_frames()

    @property
    def least_samples(self) -> int:
        """Samples that one frame of features takes."""
        padding = 2 * (self.n_fft // 2) if self.center else 0
        return self.n_fft + DELTA_FRAMES * self.deltas * self.hop_length - padding

    def n_frames(self, n_samples: int | None = None) -> int:
        """Frames that `n_samples` (default: one clip) give."""
        n = self.clip_samples if n_samples is None else n_samples
        return 0 if n < self.least_samples else 1 + (n - self.least_samples) // self.hop_length

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
        values = {f.name: f.default for f in dataclasses.fields(cls) if f.name in ADDED_FIELDS} | values
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
                # Falsy values of other types would pass for "none": `fmax` as {}.
                wrong = type(value) not in _PLAIN_TYPES[f.type]
                if wrong or any(isinstance(v, float) and not abs(v) < MAX_FLOAT for v in numbers):
                    raise ValueError(f"{f.name} is {value!r:.60}")
            return cls(**plain)
        except (TypeError, ValueError, OverflowError, InputError) as error:
            raise ModelFileError(f"{where}: its front-end record cannot be used: {error}") from None

    def without_normalization(self) -> FrontEnd:
        """The same front end before per-band normalisation: what the feature cache holds."""
        return dataclasses.replace(self, band_scale=(), band_offset=())

    def with_normalization(self, scale: np.ndarray, offset: np.ndarray) -> FrontEnd:
        """Appends y * scale + offset to the normalisation that is there already.

        Args:
            scale: (channels, n_mels), or (n_mels,) for every channel alike.
            offset: the same.
        """
        shape = (self.channels, self.n_mels)
        old_scale = np.asarray(self.band_scale or np.ones(shape), np.float64).reshape(shape)
        old_offset = np.asarray(self.band_offset or np.zeros(shape), np.float64).reshape(shape)
        new_scale, new_offset = old_scale * scale, old_offset * scale + offset
        return dataclasses.replace(
            self, band_scale=tuple(map(float, new_scale.flat)), band_offset=tuple(map(float, new_offset.flat))
        )


def fit_length(samples: np.ndarray, n_samples: int) -> np.ndarray:
    """Cuts a (..., samples) clip at its end or pads it there with zeros."""
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
    slaney = front_end.mel_scale == "slaney"
    edges = band_edges(front_end)
    bins = np.arange(front_end.n_fft // 2 + 1) * front_end.sample_rate / front_end.n_fft
    rise = (bins - edges[:-2, None]) / (edges[1:-1] - edges[:-2])[:, None]
    fall = (edges[2:, None] - bins) / (edges[2:] - edges[1:-1])[:, None]
    triangles = np.maximum(0, np.minimum(rise, fall))
    if slaney:
        triangles *= (2 / (edges[2:] - edges[:-2]))[:, None]
    return triangles


def band_edges(front_end: FrontEnd) -> np.ndarray:
    """Where the mel triangles begin, peak and end, each at three edges in a row: (n_mels + 2,) Hz."""
    to_mel, to_hz = (_hz_to_slaney, _slaney_to_hz) if front_end.mel_scale == "slaney" else (_hz_to_htk, _htk_to_hz)
    limits = to_mel(np.array([front_end.fmin, front_end.fmax or front_end.sample_rate / 2]))
    return to_hz(np.linspace(limits[0], limits[1], front_end.n_mels + 2))


def band_frequencies(front_end: FrontEnd) -> np.ndarray:
    """Where the mel triangles peak: (n_mels,) Hz."""
    return band_edges(front_end)[1:-1]


def frame_times(front_end: FrontEnd) -> np.ndarray:
    """Where the middles of the frames' windows lie in a clip: (frames,) seconds."""
    first = 0 if front_end.center else front_end.n_fft / 2
    frames = np.arange(front_end.n_frames()) + DELTA_FRAMES // 2 * front_end.deltas
    return (first + front_end.hop_length * frames) / front_end.sample_rate


def log_mel(samples: np.ndarray, front_end: FrontEnd) -> np.ndarray:
    """Mel maps before per-band normalisation: power in dB, or as it is without `log`, and their deltas.

    Args:
        samples: (samples,), or (2, samples) in stereo; any float type, at the front end's rate.
        front_end: the record.

    Returns:
        (channels, n_mels, frames) float32.

    Raises:
        InputError: fewer samples than one frame needs, or another shape.
    """
    if samples.ndim != front_end.sides or (front_end.stereo and len(samples) != 2):
        wanted = "(2, samples), left and right" if front_end.stereo else "(samples,); mix channels down first"
        raise InputError(f"this front end wants sound of shape {wanted}: got {samples.shape}")
    if front_end.n_frames(samples.shape[-1]) < 1:
        raise InputError(
            f"{samples.shape[-1]} samples are fewer than one frame of features takes ({front_end.least_samples}); "
            "pad the clip first"
        )
    maps = np.stack([_mel_power(side, front_end) for side in np.atleast_2d(samples)])
    if front_end.log:
        maps = 10 * np.log10(np.maximum(maps, front_end.amin))
    return np.concatenate(with_deltas(maps, front_end.deltas), dtype=np.float32)


def features(samples: np.ndarray, front_end: FrontEnd) -> np.ndarray:
    """Normalised features of one clip: `log_mel`, then `normalize`. (channels, n_mels, frames) float32.

    Raises:
        InputError: as `log_mel`, or samples so far beyond full scale that float32 does not hold their features.
    """
    with np.errstate(over="ignore", invalid="ignore"):
        mel = normalize(log_mel(samples, front_end), front_end)
    if not np.isfinite(mel).all():
        raise InputError("the clip's features are infinite, its samples lie far beyond full scale; export it again")
    return mel


def normalize(mel: np.ndarray, front_end: FrontEnd) -> np.ndarray:
    """Applies the factor and the offset of every channel's bands to maps (..., channels, n_mels, frames)."""
    shape = (front_end.channels, front_end.n_mels, 1)
    if front_end.band_scale:
        mel = mel * np.asarray(front_end.band_scale, np.float32).reshape(shape)
    if front_end.band_offset:
        mel = mel + np.asarray(front_end.band_offset, np.float32).reshape(shape)
    return mel.astype(np.float32, copy=False)


def with_deltas(maps: Array, order: int) -> list[Array]:
    """Maps (..., frames), their deltas and so on up to `order`, all cropped to the frames that the last one has.

    d[t] = sum over n = 1, 2 of n (x[t+n] - x[t-n]) / 10, of valid frames only (McDonnell and Gao, DCASE 2019). Takes
    arrays of numpy and of torch.
    """
    orders = [maps]
    for _ in range(order):
        x = orders[-1]
        orders.append((x[..., 3:-1] - x[..., 1:-3] + 2 * (x[..., 4:] - x[..., :-4])) / 10)
    cuts = [DELTA_FRAMES // 2 * (order - i) for i in range(order + 1)]
    return [x[..., cut : x.shape[-1] - cut] for x, cut in zip(orders, cuts, strict=True)]


def _mel_power(samples: np.ndarray, front_end: FrontEnd) -> np.ndarray:
    """Mel power of one side's samples. (n_mels, frames) float64."""
    taper, bands = _plan(front_end)
    signal = samples.astype(np.float64)
    if front_end.pre_emphasis:
        signal[1:] -= front_end.pre_emphasis * signal[:-1]
    if front_end.center:
        signal = np.pad(signal, front_end.n_fft // 2)
    frames = np.lib.stride_tricks.sliding_window_view(signal, front_end.n_fft)[:: front_end.hop_length]
    spectrum = np.fft.rfft(frames * taper)
    power = spectrum.real**2 + spectrum.imag**2
    return np.stack([power[:, start : start + len(weights)] @ weights for start, weights in bands])


@lru_cache(maxsize=8)
def _plan(front_end: FrontEnd) -> tuple[np.ndarray, list[tuple[int, np.ndarray]]]:
    """The window, and for each band its first bin and its non-zero weights."""
    bands = []
    for row in mel_filterbank(front_end):
        used = np.flatnonzero(row)
        bands.append((int(used[0]), row[used[0] : used[-1] + 1]))
    return window(front_end), bands


def _refuse_empty_bands(front_end: FrontEnd) -> None:
    """Refuses triangles that lie between two FFT bins, or touch one with their corners alone: they hear nothing."""
    edges = band_edges(front_end) * front_end.n_fft / front_end.sample_rate  # in bins
    corner = 1e-6 * (edges[2:] - edges[:-2])
    empty = np.flatnonzero(np.floor(edges[:-2] + corner) + 1 > edges[2:] - corner)
    if len(empty):
        raise InputError(
            f"front end: {len(empty)} of {front_end.n_mels} mel bands hold no FFT bin (the first is band {empty[0]}); "
            "lower n_mels, or raise n_fft or fmin"
        )


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
