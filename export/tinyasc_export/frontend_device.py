"""The front end in `device` arithmetic: float32, every operation in a written order. This file is the specification.

`tinyasc_frontend_device` in C does the same operations on the same tables, so the bits are equal on every core whose
float32 is IEEE 754's, in hardware or software, if the compiler fuses no multiplication with an addition
(-ffp-contract=off). Nothing comes from a math library: the FFT and the logarithm are written out. Values that could be
subnormal lie far below `amin`, so that a core that flushes them to zero gives the same features; without `log`, below
the rounding of the sums.

Order of operations of one frame of N samples, M = N / 2:

1. sample * window, two by two as the real and imaginary parts of M points, in bit-reversed order;
2. an FFT in place: one radix-2 stage where log2 M is odd, then radix-4 stages, each a twiddle on three of four points;
3. the power of bins k and M - k together, out of points k and M - k (the usual splitting of a real transform);
4. mel sums in the order of the bins (`frontend_plan` says how a bin is split between two bands), times the height;
5. max(amin, .), then log2: the exponent, plus f times a polynomial in f = mantissa - 1;
6. times `factor`, plus `addend`, cut to the range of the integers and truncated.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from tinyasc_export.errors import InputError
from tinyasc_export.frontend_fft import quarter_cosine, real_spectrum
from tinyasc_export.frontend_plan import DB_PER_OCTAVE, FrontEndPlan, frames, mirrored

# log2(1 + f) = f (c0 + c1 f + ... + c5 f^5) for f in 0..1: least largest error, 2.1e-6 before rounding.
LOG2 = (
    1.442553162574768,
    -0.7182819247245789,
    0.45827075839042664,
    -0.27953803539276123,
    0.12345138192176819,
    -0.026457414031028748,
)
LEAST_AMIN = 2.0**-100


@dataclass(frozen=True, eq=False)
class DeviceTables:
    """A plan in float32, each value rounded once from float64.

    Args:
        plan: where the tables come from.
        window: (n_fft / 2 + 1,) half of it, times 2^-16: 2^-15 brings int16 to full scale 1, 1/2 is the splitting's.
        cosine: (n_fft / 4 + 1,) of 2 pi k / n_fft: every twiddle factor is found in it.
        ratio: one per bin.
        height: (n_mels,).
        factor: (n_mels,) from log2 of the power (or from the power) to units of the integers.
        addend: (n_mels,) counted from the least integer, with the half that makes truncation round.
        amin: power below which the logarithm is cut off.
    """

    plan: FrontEndPlan
    window: np.ndarray
    cosine: np.ndarray
    ratio: np.ndarray
    height: np.ndarray
    factor: np.ndarray
    addend: np.ndarray
    amin: np.float32


def tables(plan: FrontEndPlan) -> DeviceTables:
    """Rounds a plan to float32.

    Raises:
        InputError: an `amin` that float32 sums cannot be held against.
    """
    if plan.log and not plan.amin >= LEAST_AMIN:
        raise InputError(f"the front end in C needs an amin of at least {LEAST_AMIN:.0e}, got {plan.amin:g}")
    unit = DB_PER_OCTAVE if plan.log else 1.0
    low, _ = plan.limits
    return DeviceTables(
        plan,
        _float32(plan.window * 2.0**-16),
        _float32(quarter_cosine(plan.n_fft)),
        _float32(plan.ratio),
        _float32(plan.height),
        _float32(unit * plan.scale / plan.step),
        _float32(plan.offset / plan.step + plan.zero_point - low + 0.5),
        np.float32(plan.amin),
    )


def features(samples: np.ndarray, t: DeviceTables) -> np.ndarray:
    """Integers for the model's input.

    Args:
        samples: (n,) int16.
        t: from `tables`.

    Returns:
        (n_mels, frames) of the plan's dtype.
    """
    low, high = t.plan.limits
    units = log_power(samples, t) * t.factor[:, None]
    units = units + t.addend[:, None]
    units = np.minimum(np.maximum(units, np.float32(0)), np.float32(high - low))
    return (units.astype(np.int32) + low).astype(t.plan.dtype)


def log_power(samples: np.ndarray, t: DeviceTables) -> np.ndarray:
    """Mel power before normalisation, as log2 (or as it is, without `log`): (n_mels, frames) float32."""
    power = mel_power(samples, t)
    return log2(np.maximum(power, t.amin)) if t.plan.log else power


def mel_power(samples: np.ndarray, t: DeviceTables) -> np.ndarray:
    """Steps 1 to 4: (n_mels, frames) float32."""
    x = frames(samples, t.plan.n_fft, t.plan.hop_length).astype(np.float32) * mirrored(t.window)
    re, im = real_spectrum(x, t.cosine, np.multiply)
    power = (re * re + im * im).T  # (bins, frames)
    first, bands = t.plan.begin[0], []
    rise_before = np.zeros(len(x), np.float32)
    for s in range(t.plan.n_mels + 1):
        rise, fall = np.zeros((2, len(x)), np.float32)
        for k in range(t.plan.begin[s], t.plan.begin[s + 1]):
            part = power[k] * t.ratio[k - first]
            rise = rise + part
            fall = fall + (power[k] - part)
        if s:
            bands.append((rise_before + fall) * t.height[s - 1])
        rise_before = rise
    return np.stack(bands)


def log2(x: np.ndarray) -> np.ndarray:
    """Of positive normal float32 values, within 2.2e-6 beside the rounding of the result."""
    bits = x.view(np.int32)
    exponent = ((bits >> 23) - 127).astype(np.float32)
    f = ((bits & 0x7FFFFF) | 0x3F800000).view(np.float32) - np.float32(1)
    y = np.full_like(f, LOG2[-1])
    for c in LOG2[-2::-1]:
        y = y * f
        y = y + np.float32(c)
    return exponent + y * f


def _float32(values: np.ndarray) -> np.ndarray:
    return np.asarray(values, np.float64).astype(np.float32)
