"""Fixed-point arithmetic as TensorFlow Lite Micro does it: the `tflite` rounding, on whole arrays.

A real factor becomes a 32-bit multiplier and a power of two; a product is rounded twice, once when the high
half of the product is taken and once when it is shifted down. Sources:
tensorflow/lite/kernels/internal/common.h, quantization_util.cc and gemmlowp/fixedpoint. All values are held
in int64, which no intermediate of an int32 computation leaves.
"""

from __future__ import annotations

import math

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
