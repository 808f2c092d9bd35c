"""The FFT of a board's front end, over float32 or integers: what may round is the one function that multiplies.

A real transform of N samples is a complex one of M = N / 2 points, then split. Every twiddle factor is found in one
quarter of a cosine.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

# A value times a table's value.
Multiply = Callable[[np.ndarray, np.ndarray], np.ndarray]
Points = tuple[np.ndarray, np.ndarray]


def quarter_cosine(n: int) -> np.ndarray:
    """cos(2 pi k / n) for k = 0..n/4, float64, its ends exact."""
    cosine = np.cos(2 * np.pi * np.arange(n // 4 + 1) / n)
    cosine[-1] = 0
    return cosine


def real_spectrum(samples: np.ndarray, cosine: np.ndarray, multiply: Multiply) -> Points:
    """Twice the spectrum of windowed samples, bins 0 to M - 1: real and imaginary parts, (frames, M) each.

    Imaginary parts from bin M / 2 on come with the other sign, as nobody asks for more than the power.

    Args:
        samples: (frames, N), N a power of two.
        cosine: (N / 4 + 1,) from `quarter_cosine`, as the arithmetic rounds it.
        multiply: of the arithmetic.
    """
    m = samples.shape[1] // 2
    order = _bit_reversed(m)
    re, im = _fft((samples[:, 0::2][:, order], samples[:, 1::2][:, order]), cosine, multiply)
    low, high = np.arange(1, m // 2 + 1), np.arange(m - 1, m // 2 - 1, -1)
    even = re[:, low] + re[:, high], im[:, low] - im[:, high]
    odd = im[:, low] + im[:, high], re[:, high] - re[:, low]
    turned = _twiddle(odd, low, cosine, multiply)
    out_re, out_im = np.empty_like(re), np.zeros_like(im)
    out_re[:, 0] = 2 * (re[:, 0] + im[:, 0])
    for out, a, t in ((out_re, even[0], turned[0]), (out_im, even[1], turned[1])):
        out[:, low], out[:, high] = a + t, a - t
    return out_re, out_im


def _fft(points: Points, cosine: np.ndarray, multiply: Multiply) -> Points:
    """Of (frames, M) points in bit-reversed order: a radix-2 stage where log2 M is odd, then radix-4 stages."""
    re, im = points
    count, m = re.shape
    length = 1  # of the transforms that are done
    if m.bit_length() % 2 == 0:
        re, im = (v.reshape(count, m // 2, 2) for v in (re, im))
        re, im = (np.stack([v[:, :, 0] + v[:, :, 1], v[:, :, 0] - v[:, :, 1]], axis=2) for v in (re, im))
        length = 2
    while length < m:
        re, im = (v.reshape(count, m // (4 * length), 4, length) for v in (re, im))
        a, c, b, d = ((re[:, :, i], im[:, :, i]) for i in range(4))  # bit reversal has swapped the inner two
        if length > 1:
            step = np.arange(length) * (m // (2 * length))
            b, c, d = (_twiddle(z, times * step, cosine, multiply) for z, times in ((b, 1), (c, 2), (d, 3)))
        re, im = _butterfly(a, b, c, d)
        length *= 4
    return re.reshape(count, m), im.reshape(count, m)


def _butterfly(a: Points, b: Points, c: Points, d: Points) -> Points:
    """Four-point transforms."""
    p_re, p_im, q_re, q_im = a[0] + c[0], a[1] + c[1], a[0] - c[0], a[1] - c[1]
    r_re, r_im, s_re, s_im = b[0] + d[0], b[1] + d[1], b[0] - d[0], b[1] - d[1]
    re = np.stack([p_re + r_re, q_re + s_im, p_re - r_re, q_re - s_im], axis=2)
    return re, np.stack([p_im + r_im, q_im - s_re, p_im - r_im, q_im + s_re], axis=2)


def _twiddle(z: Points, k: np.ndarray, cosine: np.ndarray, multiply: Multiply) -> Points:
    """Z times e^(-2 pi i k / N), k below 3 N / 4."""
    quarter = len(cosine) - 1
    quadrant, r = k // quarter, k % quarter
    c, s = cosine[r], cosine[quarter - r]
    c, s = np.select([quadrant == 0, quadrant == 1], [c, -s], -c), np.select([quadrant == 0, quadrant == 1], [s, c], -s)
    re, im = z
    return multiply(re, c) + multiply(im, s), multiply(im, c) - multiply(re, s)


def _bit_reversed(n: int) -> np.ndarray:
    """The order of an FFT's inputs: each index of 0..n-1 with its bits reversed."""
    order = np.zeros(1, np.int64)
    while len(order) < n:
        order = np.concatenate([2 * order, 2 * order + 1])
    return order
