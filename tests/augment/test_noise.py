import numpy as np
import pytest
import scipy.signal
import torch

from tinyasc import augment


@pytest.mark.parametrize("color", ["white", "pink"])
def test_noise_has_the_ratio_that_was_asked_for(color, seeded):
    x = torch.randn(50, 4000, generator=seeded(1), dtype=torch.float64) * torch.logspace(-4, 1, 50)[:, None]
    for snr in (-5.0, 20.0):
        noise = augment.add_noise(x, seeded(), snr_db=(snr, snr), color=color) - x
        measured = 10 * (x.square().mean(dim=1) / noise.square().mean(dim=1)).log10()
        assert torch.allclose(measured, torch.full_like(measured, snr), atol=1e-6)
    noise = augment.add_noise(x, seeded(), snr_db=(0.0, 30.0), color=color) - x
    measured = 10 * (x.square().mean(dim=1) / noise.square().mean(dim=1)).log10()
    assert measured.min() < 4 and measured.max() > 26 and measured.min() >= 0 and measured.max() <= 30


@pytest.mark.parametrize(("color", "slope"), [("white", 0.0), ("pink", -3.01)])
def test_the_colour_is_a_slope_per_octave(color, slope, seeded):
    x = torch.ones(64, 16384, dtype=torch.float64)
    noise = (augment.add_noise(x, seeded(), snr_db=(0, 0), color=color) - x).numpy()
    hz, density = scipy.signal.welch(noise, nperseg=2048, axis=1)
    used = slice(8, 900)
    fitted = np.polyfit(np.log2(hz[used]), 10 * np.log10(density.mean(axis=0)[used]), 1)[0]
    assert fitted == pytest.approx(slope, abs=0.1)
    if color == "pink":
        np.testing.assert_allclose(noise.mean(axis=1), 0, atol=1e-6)


@pytest.mark.parametrize("color", ["white", "pink"])
@pytest.mark.parametrize("samples", [1, 2, 3])
def test_the_shortest_clips_stay_finite(color, samples, seeded):
    y = augment.add_noise(1e4 * torch.ones(4, samples), seeded(), snr_db=(0, 0), color=color)
    assert torch.isfinite(y).all()


def test_only_some_clips_and_never_silence(seeded):
    x = torch.cat([torch.randn(1000, 30, generator=seeded(1)), torch.zeros(5, 30)])
    y = augment.add_noise(x, seeded(), snr_db=(0, 10), prob=0.3)
    changed = (y != x).any(dim=1)
    assert 0.25 < float(changed[:1000].float().mean()) < 0.35
    assert not augment.add_noise(x, seeded(), snr_db=(0, 10))[1000:].any()
