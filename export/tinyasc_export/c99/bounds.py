"""Proofs that no sum of a C net can leave its type, whatever the input. What cannot be proven is not written."""

from __future__ import annotations

import numpy as np

from tinyasc_export.errors import InputError

INT32 = 1 << 31


def largest_sums(weights: np.ndarray, bias: np.ndarray, extent: int) -> np.ndarray:
    """The largest size of each output channel's accumulator, at every step of its sum.

    Args:
        weights: (outputs, inputs) integers.
        bias: (outputs,) with the input's zero point folded in.
        extent: the largest size of a stored input, 128 or 32768.
    """
    return np.abs(weights.astype(np.int64)).sum(axis=1) * extent + np.abs(bias.astype(np.int64))


def check_sums(most: np.ndarray, where: str) -> None:
    """Refuses a layer whose 32-bit accumulator could overflow."""
    if most.max(initial=0) >= INT32:
        raise InputError(
            f"{where}: sums of up to {most.max():,} do not fit 32 bits; smaller biases or weights would, and so would "
            "a wider range of the input"
        )


def check_rescaled(most: np.ndarray, multiplier: np.ndarray, shift: np.ndarray, rounding: str, where: str) -> None:
    """Refuses a rescaling with an intermediate or a result that does not fit 32 bits.

    Args:
        most: the largest size of what is rescaled.
        multiplier: from `rounding.quantize_multiplier`, as is `shift`.
        shift: to the left.
        rounding: "tflite", which shifts to the left before it multiplies, or "single".
        where: the operator, for the error line.
    """
    most, shift = most.astype(np.float64), shift.astype(np.float64)
    # One for the rounding, and the output's zero point is added to it.
    results = most * multiplier * np.exp2(shift - 31) + 1 + 128
    shifted = most * np.exp2(np.maximum(shift, 0)) if rounding == "tflite" else most
    if max(results.max(initial=0), shifted.max(initial=0)) >= INT32:
        raise InputError(f"{where}: the output's scale is so small that a rescaled sum does not fit 32 bits")
