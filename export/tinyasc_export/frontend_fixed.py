"""The front end in `fixed` arithmetic: integers from int16 samples to the model's input. This is the specification.

For cores without a floating-point unit. Nothing is wider than 32 bits but the mel sums, to which 32-bit numbers are
added; no product needs more than 32 bits when it is taken in two halves (`multiply`), so that a core whose multiplier
gives 32 bits (ARMv6-M) takes no library call. Values here are int64, and none leaves 32 bits but those sums.

One frame of N samples, M = N / 2:

1. samples are shifted left as far as the loudest one allows (one exponent per frame), times the window in Q16, with
   `fraction` bits kept below one: as many as can never overflow, whatever the samples (`tables`);
2. the FFT of `frontend_fft` in 32-bit integers with twiddles in Q15: no stage is scaled, products are rounded;
3. between two edges of the mel triangles, bins are shifted right until the loudest takes 16 bits with its sign, and
   squared; `frontend_plan` says how their power is split, by ratios in Q16, and summed;
4. a band's two sums, each with its exponent, become 31 bits and one exponent; their log2 comes from a table of 64
   steps with straight lines between them, in Q16, within 7e-5;
5. what lies above the logarithm of `amin`, times `factor`, plus `addend`, shifted right and cut to the integers.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from tinyasc_export.errors import InputError
from tinyasc_export.frontend_fft import quarter_cosine, real_spectrum
from tinyasc_export.frontend_plan import DB_PER_OCTAVE, FrontEndPlan, frames, mirrored

Q15, Q16 = 1 << 15, 1 << 16
LOG_STEPS = 64
# log2(1 + i / 64) in Q16
LOG2 = np.rint(np.log2(1 + np.arange(LOG_STEPS + 1) / LOG_STEPS) * Q16).astype(np.int64)
MOST_SHIFT = 20
# Rounding errors of all stages together stay below this many units per sample of the window.
ROUNDING = 32


@dataclass(frozen=True, eq=False)
class FixedTables:
    """A plan in integers.

    Args:
        plan: where the tables come from.
        fraction: bits below one of the windowed samples.
        window: (n_fft / 2 + 1,) Q16, below 65536.
        cosine: (n_fft / 4 + 1,) Q15 of 2 pi k / n_fft.
        ratio: Q16, one per bin, below 65536.
        floor: (n_mels,) Q16 log2 of `amin` in units of the sums.
        factor: (n_mels,) from Q16 octaves to units of the integers times 2^shift, in Q15; of 16 bits.
        addend: (n_mels,) the integer that `amin` gives, times 2^shift, with the half that makes flooring round.
        shift: bits below one of a feature before it is cut.
    """

    plan: FrontEndPlan
    fraction: int
    window: np.ndarray
    cosine: np.ndarray
    ratio: np.ndarray
    floor: np.ndarray
    factor: np.ndarray
    addend: np.ndarray
    shift: int


def tables(plan: FrontEndPlan) -> FixedTables:
    """Rounds a plan to integers, and proves that no frame can overflow.

    Raises:
        InputError: power without logarithm, or features that leave 32 bits.
    """
    if not plan.log:
        raise InputError("the front end in integers needs log=true; take the device arithmetic for mel power")
    window = np.minimum(np.rint(plan.window * Q16), Q16 - 1).astype(np.int64)
    whole = int(2 * window.sum() - window[0] - window[-1])
    fraction = 15
    # No value of the FFT or of the splitting exceeds twice the sum of all windowed samples.
    while (whole << fraction) + ROUNDING * plan.n_fft >= 1 << 31:
        fraction -= 1
    units = DB_PER_OCTAVE * plan.scale / plan.step  # per octave of power
    shift = min(MOST_SHIFT, int(np.floor(np.log2((Q15 - 1) / np.maximum(np.abs(units).max(), 1e-9)))) + 1)
    at_floor = (10 * np.log10(plan.amin) * plan.scale + plan.offset) / plan.step + plan.zero_point
    addend = np.rint((at_floor + 0.5) * 2.0**shift)
    if shift < 1 or np.abs(addend).max() >= 1 << 30:
        raise InputError("the front end's normalisation leaves 32 bits at this input scale; take the device arithmetic")
    # The FFT gives twice the spectrum of samples times 2^(15 + fraction).
    exponent = 2 * (16 + fraction)
    return FixedTables(
        plan,
        fraction,
        window,
        np.rint(quarter_cosine(plan.n_fft) * Q15).astype(np.int64),
        np.minimum(np.rint(plan.ratio * Q16), Q16 - 1).astype(np.int64),
        np.rint((np.log2(plan.amin) - np.log2(plan.height) + exponent) * Q16).astype(np.int64),
        np.rint(units * 2.0 ** (shift - 1)).astype(np.int64),
        addend.astype(np.int64),
        shift,
    )


def features(samples: np.ndarray, t: FixedTables) -> np.ndarray:
    """Integers for the model's input.

    Args:
        samples: (n,) int16.
        t: from `tables`.

    Returns:
        (n_mels, frames) of the plan's dtype.
    """
    low, high = t.plan.limits
    units = multiply(octaves(samples, t), t.factor[:, None]) + t.addend[:, None]
    return np.clip(units >> t.shift, low, high).astype(t.plan.dtype)


def octaves(samples: np.ndarray, t: FixedTables) -> np.ndarray:
    """log2 of the mel power above that of `amin`, in Q16: (n_mels, frames) int64, not negative."""
    re, im, raised = spectrum(samples, t)
    first, bands = t.plan.begin[0], []
    before = np.zeros(len(re), np.int64), np.zeros(len(re), np.int64)
    for s in range(t.plan.n_mels + 1):
        bins = slice(t.plan.begin[s], t.plan.begin[s + 1])
        rise, fall, exponent = _sums(re[:, bins], im[:, bins], t.ratio[bins.start - first : bins.stop - first])
        if s:
            mantissa, total = _add(before, _normal(fall, exponent))
            level = log2(mantissa, total) - (2 * raised << 16)
            bands.append(np.where(mantissa == 0, 0, np.maximum(level - t.floor[s - 1], 0)))
        before = _normal(rise, exponent)
    return np.stack(bands)


def spectrum(samples: np.ndarray, t: FixedTables) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Steps 1 and 2, and the splitting: twice the spectrum's bins 0 to M - 1.

    Returns:
        Real and imaginary parts, (frames, M) int64, times 2^(15 + fraction + raised); and `raised`, (frames,).
    """
    x = frames(samples, t.plan.n_fft, t.plan.hop_length).astype(np.int64)
    raised = 15 - bit_length(np.bitwise_or.reduce(x ^ (x >> 15), axis=1))
    down = 16 - t.fraction
    z = ((x << raised[:, None]) * mirrored(t.window) + (1 << (down - 1))) >> down
    return *real_spectrum(z, t.cosine, multiply), raised


def multiply(x: np.ndarray, q15: np.ndarray) -> np.ndarray:
    """Product x * q15 / 32768, rounded, halves up, for |x| < 2^31 and |q15| <= 2^15.

    With x = 65536 high + low it is `2 high q15 + ((low q15 + 16384) >> 15)`, in which nothing leaves 32 bits.
    """
    return (x * q15 + (1 << 14)) >> 15


def log2(mantissa: np.ndarray, exponent: np.ndarray) -> np.ndarray:
    """Of mantissa * 2^exponent, in Q16; the mantissa lies in 2^30..2^31, or is 0 and the result without meaning."""
    at, between = (mantissa >> 24) & (LOG_STEPS - 1), (mantissa >> 8) & 0xFFFF
    return ((exponent + 30) << 16) + LOG2[at] + (((LOG2[at + 1] - LOG2[at]) * between) >> 16)


def bit_length(x: np.ndarray) -> np.ndarray:
    """Of integers in 0..2^53."""
    return np.frexp(x.astype(np.float64))[1].astype(np.int64)


def _sums(re: np.ndarray, im: np.ndarray, ratio: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Rising and falling sums of the bins between two edges, and the power of two that they are short of."""
    largest = np.bitwise_or.reduce((re ^ (re >> 31)) | (im ^ (im >> 31)), axis=1)
    down = np.maximum(bit_length(largest) - 15, 0)
    half = (1 << down) >> 1
    re, im = (((v + half[:, None]) >> down[:, None]) for v in (re, im))
    power = re * re + im * im
    part = ((power >> 16) * ratio) + (((power & 0xFFFF) * ratio) >> 16)
    return part.sum(axis=1), (power - part).sum(axis=1), 2 * down


def _normal(total: np.ndarray, exponent: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """A sum as a mantissa in 2^30..2^31 and an exponent; zero stays zero."""
    down = bit_length(total) - 31
    return (total >> np.maximum(down, 0)) << np.maximum(-down, 0), exponent + down


def _add(a: tuple[np.ndarray, np.ndarray], b: tuple[np.ndarray, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Sum of two normal numbers, normal again."""
    exponent = np.where(a[0] == 0, b[1], np.where(b[0] == 0, a[1], np.maximum(a[1], b[1])))
    mantissa = (a[0] >> np.clip(exponent - a[1], 0, 31)) + (b[0] >> np.clip(exponent - b[1], 0, 31))
    over = mantissa >> 31
    return mantissa >> over, exponent + over
