"""Fixed-point arithmetic on whole arrays: how an accumulator is brought to another scale.

A real factor becomes a 31-bit multiplier and a power of two, `real = multiplier * 2^(shift - 31)`. Two roundings
have names. `tflite` is TensorFlow Lite Micro's default: a product is rounded twice, once when its high half is
taken and once when that is shifted down. `single` rounds once, halves up, which is exact and takes fewer
instructions; it is what TensorFlow Lite Micro does when built with TFLITE_SINGLE_ROUNDING. The two differ by at
most 1 (see `scale_once`). Sources of the first: tensorflow/lite/kernels/internal/common.h, quantization_util.cc
and gemmlowp/fixedpoint. All values are held in int64, which no intermediate of an int32 computation leaves.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

INT32_MAX = (1 << 31) - 1
INT32_MIN = -(1 << 31)


def quantize_multiplier(real: float) -> tuple[int, int]:
    """A real factor as (multiplier, shift): real = multiplier * 2^(shift - 31), multiplier of 31 bits."""
    if real == 0:
        return 0, 0
    fraction, shift = math.frexp(real)
    multiplier = round_half_away(fraction * (1 << 31))
    if multiplier == 1 << 31:
        multiplier, shift = multiplier // 2, shift + 1
    return (0, 0) if shift < -31 else (multiplier, shift)


def round_half_away(x: float) -> int:
    """C's round: halves away from zero, where Python's goes to even."""
    return math.floor(abs(x) + 0.5) * (-1 if x < 0 else 1)


def divide_toward_zero(x: np.ndarray, by: np.ndarray | int) -> np.ndarray:
    """C's integer division; numpy's rounds down."""
    return np.sign(x) * (np.abs(x) // by)


def high_mul(a: np.ndarray, b: np.ndarray | int, bits: int = 32) -> np.ndarray:
    """SaturatingRoundingDoublingHighMul: the product's upper half, doubled, halves rounded up."""
    product = np.asarray(a, np.int64) * b
    nudge = np.where(product >= 0, 1 << (bits - 2), 1 - (1 << (bits - 2)))
    return np.minimum(divide_toward_zero(product + nudge, 1 << (bits - 1)), (1 << (bits - 1)) - 1)


def shift_down(x: np.ndarray, exponent: np.ndarray | int) -> np.ndarray:
    """RoundingDivideByPOT: x / 2^exponent, halves away from zero."""
    mask = (np.int64(1) << exponent) - 1
    threshold = (mask >> 1) + (x < 0)
    return (x >> exponent) + ((x & mask) > threshold)


def scale(x: np.ndarray, multiplier: np.ndarray | int, shift: np.ndarray | int) -> np.ndarray:
    """MultiplyByQuantizedMultiplier: x * multiplier * 2^(shift - 31), rounded twice."""
    left, right = np.maximum(shift, 0), np.maximum(np.negative(shift), 0)
    return shift_down(high_mul(np.asarray(x, np.int64) << left, multiplier), right)


def scale_once(x: np.ndarray, multiplier: np.ndarray | int, shift: np.ndarray | int) -> np.ndarray:
    """The `single` rounding: x * multiplier * 2^(shift - 31), rounded once, halves up.

    With total = 31 - shift it is `(x * multiplier + (1 << (total - 1))) >> total`. For total >= 33 that equals
    `(hi32(x * multiplier) + (1 << (total - 33))) >> (total - 32)`, one high multiplication, an addition and a shift:
    the low half that is dropped cannot change a floor taken after an integer was added.

    It lies at most 1 from `scale`. One rounding errs by at most 1/2. `scale` errs by at most 1/2 where it does not
    shift down, and by at most 1/2 + 2^-(right + 1) where it shifts down by `right` >= 1 bits. Their difference is an
    integer of at most 1 + 1/4.

    Args:
        x: |x| < 2^31.
        multiplier: from `quantize_multiplier`.
        shift: at most 30.
    """
    total = 31 - np.asarray(shift, np.int64)
    return (np.asarray(x, np.int64) * multiplier + (np.int64(1) << (total - 1))) >> total


def scale_wide(x: np.ndarray, multiplier: np.ndarray | int, shift: np.ndarray | int) -> np.ndarray:
    """For 64-bit accumulators of int16x8: x * multiplier * 2^(shift - 31) with the multiplier cut to 16 bits.

    Rounded once, halves up, so that it serves both roundings. The cut errs by up to 2^-16 of the result.

    Args:
        x: |x| < 2^47.
        multiplier: from `quantize_multiplier`.
        shift: at most 7; the result must fit 32 bits, or C would wrap it (`limits.least_output_scale`).
    """
    total = 15 - np.asarray(shift, np.int64)
    return (np.asarray(x, np.int64) * reduced_multiplier(multiplier) + (np.int64(1) << (total - 1))) >> total


def reduced_multiplier(multiplier: np.ndarray | int) -> np.ndarray:
    """A multiplier cut to 16 bits, as `scale_wide` takes it."""
    multiplier = np.asarray(multiplier, np.int64)
    return np.where(multiplier < 0x7FFF0000, (multiplier + (1 << 15)) >> 16, 0x7FFF)


Rescale = Callable[[np.ndarray, "np.ndarray | int", "np.ndarray | int"], np.ndarray]
ROUNDINGS: dict[str, Rescale] = {"tflite": scale, "single": scale_once}


def saturate(x: np.ndarray, bits: int) -> np.ndarray:
    """Clips to the range of a signed integer of `bits` bits."""
    return np.clip(x, -(1 << (bits - 1)), (1 << (bits - 1)) - 1)


def logistic(x: np.ndarray) -> np.ndarray:
    """Gemmlowp's logistic: input with 4 integer bits (Q4.27), output Q0.31."""
    positive = _logistic_on_positive(np.abs(x))
    result = np.where(x > 0, positive, INT32_MAX - positive)
    return np.where(x == 0, 1 << 30, result)


def _logistic_on_positive(x: np.ndarray) -> np.ndarray:
    return _one_over_one_plus(_exp_on_negative(-x))


def _exp_on_negative(x: np.ndarray) -> np.ndarray:
    """e^x for x <= 0 in Q4.27: a polynomial on [-1/4, 0), then one factor per bit of the rest."""
    quarter = 1 << 25
    remainder = (x & (quarter - 1)) - quarter
    y = _exp_on_quarter(remainder << 4)
    rest = remainder - x
    for exponent, factor in enumerate(_EXP_FACTORS, start=-2):
        y = np.where(rest & (1 << (27 + exponent)), high_mul(y, factor), y)
    return np.where(x == 0, INT32_MAX, y)


# e^-(2^k) in Q0.31 for k = -2 to 3
_EXP_FACTORS = (1672461947, 1302514674, 790015084, 290630308, 39332535, 720401)


def _exp_on_quarter(a: np.ndarray) -> np.ndarray:
    """e^a for a in [-1/4, 0) in Q0.31, a Taylor polynomial around -1/8."""
    constant, third = 1895147668, 715827883
    x = a + (1 << 28)
    x2 = high_mul(x, x)
    x3 = high_mul(x2, x)
    x4 = high_mul(x2, x2)
    x4_4 = shift_down(x4, 2)
    series = shift_down(high_mul(x4_4 + x3, third) + x2, 1)
    return np.minimum(constant + high_mul(x + series, constant), INT32_MAX)


def _one_over_one_plus(a: np.ndarray) -> np.ndarray:
    """1 / (1 + a) for a in [0, 1] in Q0.31: three Newton-Raphson steps on the half sum."""
    half = shift_away(a + INT32_MAX)
    x = 1515870810 + high_mul(half, -1010580540)  # 48/17 - 32/17 * half, in Q2.29
    for _ in range(3):
        product = high_mul(half, x)
        correction = (1 << 29) - product
        x = x + saturate(high_mul(x, correction) << 2, 32)
    return saturate(x << 1, 32)


def shift_away(total: np.ndarray) -> np.ndarray:
    """RoundingHalfSum's division by two, halves away from zero."""
    return divide_toward_zero(total + np.where(total >= 0, 1, -1), 2)


def logistic_parameters(scale: float) -> tuple[int, int]:
    """How the int16 logistic brings its input to 1 / (3 * 4096): (factor, right shift).

    The factor has 15 bits and is cut, not rounded. Scales within 2^(+-1/1000) of 1/4096 count as 1/4096.

    Args:
        scale: of the input, float32.
    """
    log2 = np.log(np.float32(scale)) * (np.float32(1) / np.log(np.float32(2)))
    if round_half_away(float(log2)) == -12 and abs(log2 + np.float32(12)) < np.float32(1e-3):
        return 3, 0
    factor, shift = scale * 4096 * 3, 0
    while factor <= 32767 / 2 and shift <= 30:
        factor, shift = factor * 2, shift + 1
    return int(factor), shift


def _sigmoid_table() -> np.ndarray:
    """sigmoid(i / 24) in Q0.16 for i = 0 to 255, raised by half of what a straight line to the next entry lacks midway.

    That rule gives TensorFlow Lite's table, but for its last entry, which is the largest of 16 bits.
    """
    at, midway, following = (65536 / (1 + np.exp(-(np.arange(256) + i) / 24)) for i in (0.0, 0.5, 1.0))
    table = np.floor(at + (midway - (at + following) / 2) / 2 + 0.5).astype(np.int64)
    table[-1] = 65535
    return table


SIGMOID_TABLE = _sigmoid_table()


def logistic_int16(x: np.ndarray, factor: int, shift: int) -> np.ndarray:
    """The logistic of int16 values by a table of 256 entries and straight lines between them, in Q0.15.

    Args:
        x: int16 values, zero point 0.
        factor: from `logistic_parameters`, as is `shift`.
        shift: to the right.
    """
    x = (x * factor + ((1 << shift) >> 1)) >> shift
    at, between = np.abs(x) >> 9, np.abs(x) & 511
    low = SIGMOID_TABLE[np.minimum(at, 255)]
    high = SIGMOID_TABLE[np.minimum(at + 1, 255)]
    y = np.where(at >= 255, 0x7FFF << 10, (low << 9) + between * (high - low))
    return np.where(x >= 0, y + 512, (1 << 25) - y + 511) >> 10


def inverse_sqrt(value: int) -> tuple[int, int]:
    """1 / sqrt(value) as (multiplier, shift) for a positive integer: five Newton-Raphson steps from 1 in Q3.28."""
    if value <= 1:
        return INT32_MAX, 0
    # Scaled by powers of four into [2^27, 2^29), so that the root's scale is a power of two.
    pairs = (31 - value.bit_length()) // 2 - 1
    exponent = 11 - pairs
    half = shift_down(np.array(value << (2 * pairs), np.int64) >> 1, 1)
    x = np.array(1 << 28, np.int64)
    for _ in range(5):
        cube = saturate(high_mul(high_mul(x, x), x) << 6, 32)
        x = saturate((high_mul(x, (1 << 28) + (1 << 27)) - high_mul(half, cube)) << 3, 32)
    root = int(high_mul(x, 1518500250))  # sqrt(2) / 2 in Q0.31
    return (root << -exponent, 0) if exponent < 0 else (root, -exponent)
