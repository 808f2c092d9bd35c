import numpy as np
import pytest
import torch

from tinyasc import augment
from tinyasc.augment.time_scale import scale_time

RATE = 16000


def tone(hz, seconds=0.5):
    return torch.sin(2 * torch.pi * hz * torch.arange(int(RATE * seconds), dtype=torch.float64) / RATE)


def frequency(x):
    """The peak of the spectrum in Hz, interpolated."""
    spectrum = np.abs(np.fft.rfft(x * np.hanning(len(x)), 1 << 18))
    return spectrum.argmax() * RATE / (1 << 18)


@pytest.mark.parametrize("factor", [0.8, 0.9, 1.0, 1.1, 1.25])
def test_a_longer_tone_is_a_lower_one(factor):
    x = tone(1000.0)[None]
    y, length = scale_time(x, torch.tensor([8000]), torch.tensor([factor], dtype=torch.float64), 10_000)
    assert int(length[0]) == int(8000 * factor)
    assert not y[0, int(length[0]) :].any()
    assert frequency(y[0, : int(length[0])].numpy()) == pytest.approx(1000 / factor, abs=0.5)


def test_scaling_is_linear_interpolation(rng):
    x = rng.standard_normal((4, 300))
    factors, lengths = [0.8, 0.93, 1.13, 1.25], [300, 250, 300, 200]
    y, longer = scale_time(torch.from_numpy(x), torch.tensor(lengths), torch.tensor(factors), 375)
    for row, signal, factor, length, n in zip(y.numpy(), x, factors, lengths, longer.tolist(), strict=True):
        assert n == int(np.float32(factor).astype(float) * length)
        # numpy holds the last sample beyond the end, too.
        wanted = np.interp(np.arange(n) / float(np.float32(factor)), np.arange(length), signal[:length])
        np.testing.assert_allclose(row[:n], wanted, atol=1e-9)
        assert not row[n:].any()


def test_factors_are_drawn_evenly_on_a_logarithmic_scale(seeded):
    x = torch.ones(2000, 400)
    _, lengths = augment.time_scale(x, torch.full((2000,), 400), seeded(), max_scale=1.25)
    exponent = (lengths.double() / 400).log() / np.log(1.25)
    assert exponent.min() < -0.98 and exponent.max() > 0.97
    assert abs(float(exponent.mean())) < 0.05 and abs(float((exponent.abs() < 0.5).double().mean()) - 0.5) < 0.04


def test_a_factor_of_one_changes_nothing(seeded):
    x = torch.randn(3, 50, generator=seeded(), dtype=torch.float64)
    y, lengths = scale_time(x, torch.full((3,), 50), torch.ones(3), 50)
    assert torch.equal(x, y) and lengths.tolist() == [50] * 3
