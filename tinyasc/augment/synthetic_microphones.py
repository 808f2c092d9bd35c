"""Impulse responses of microphones that do not exist: for models that will hear microphones nobody has measured yet.

Drawn, not measured. The ranges are those of the 37 measured microphones on the training and bank lists of
configs/devices/micirp.yaml, rounded: a few dB up and down where sounds are, resonances, roll-offs at both ends.
"""

from __future__ import annotations

import numpy as np

RESPONSES = 64
TAPS_SECONDS = 0.046  # the deepest resonance below has died away by then
UNEVEN_DB = 6.0  # straight lines over log frequency between corners of that, either way
CORNERS = (3, 6)
LOW_HZ, HIGH_HZ = (40.0, 300.0), (3500.0, 14000.0)  # where the roll-offs begin
LOW_DB, HIGH_DB = (6.0, 24.0), (6.0, 40.0)  # per octave
RESONANCES = 3  # at most
RESONANCE_DB = (-10.0, 8.0)
RESONANCE_OCTAVES = (0.1, 0.5)  # standard deviation
FLOOR_DB = -80.0
LEAST_HZ = 20.0


def synthetic_microphones(sample_rate: int, *, responses: int = RESPONSES, seed: int = 0) -> np.ndarray:
    """Minimum-phase impulse responses; the same for the same arguments.

    Args:
        sample_rate: Hz.
        responses: how many.
        seed: of the draws; response i depends on (seed, i) alone, whatever the rate.

    Returns:
        (responses, taps) float32, each of unit energy.
    """
    taps = round(TAPS_SECONDS * sample_rate)
    size = 1 << (8 * taps - 1).bit_length()  # long, so that a cepstrum does not fold into itself
    frequencies = np.maximum(np.fft.rfftfreq(size, 1 / sample_rate), LEAST_HZ)
    bank = np.stack([_minimum_phase(_draw_db(frequencies, seed, i), taps) for i in range(responses)])
    return (bank / np.sqrt(np.square(bank).sum(axis=1, keepdims=True))).astype(np.float32)


def _draw_db(frequencies: np.ndarray, seed: int, index: int) -> np.ndarray:
    """The level at every frequency in dB."""
    rng = np.random.default_rng((seed, index))
    octave = np.log2(frequencies / 1000)
    lowest, highest = np.log2(LEAST_HZ / 1000), np.log2(24)
    inner = np.sort(rng.uniform(lowest, highest, rng.integers(CORNERS[0], CORNERS[1] + 1)))
    corners = np.concatenate(([lowest], inner, [highest]))
    db = np.interp(octave, corners, rng.uniform(-UNEVEN_DB, UNEVEN_DB, len(corners)))
    low, high = (2 ** rng.uniform(*np.log2(ends)) for ends in (LOW_HZ, HIGH_HZ))
    db -= rng.uniform(*LOW_DB) * np.maximum(0, np.log2(low / frequencies))
    db -= rng.uniform(*HIGH_DB) * np.maximum(0, np.log2(frequencies / high))
    for _ in range(rng.integers(RESONANCES + 1)):
        centre, width = rng.uniform(-3, 3.5), rng.uniform(*RESONANCE_OCTAVES)
        db += rng.uniform(*RESONANCE_DB) * np.exp(-(((octave - centre) / width) ** 2) / 2)
    return np.maximum(db, FLOOR_DB)


def _minimum_phase(db: np.ndarray, taps: int) -> np.ndarray:
    """The causal response of the shortest delay that has these levels: by the real cepstrum (Oppenheim & Schafer)."""
    cepstrum = np.fft.irfft(db * (np.log(10) / 20))
    half = len(cepstrum) // 2
    cepstrum[1:half] *= 2
    cepstrum[half + 1 :] = 0
    response = np.fft.irfft(np.exp(np.fft.rfft(cepstrum)))[:taps]
    return response * np.hanning(2 * taps)[taps:]  # no step at the end
