import librosa
import numpy as np
import pytest
import torch

from tinyasc.augment.a_weighting import a_weighting, loudest_level

# IEC 61672-1:2013, table 3: nominal frequencies, of which the exact ones are 1000 * 10^(n / 10), and A-weightings.
TABLE = {
    -20: -70.4, -17: -50.5, -15: -39.4, -12: -26.2, -9: -16.1, -6: -8.6, -3: -3.2, 0: 0.0,
    3: 1.2, 6: 1.0, 9: -1.1, 12: -6.6, 13: -9.3,
}  # fmt: skip


@pytest.mark.parametrize(("n", "db"), TABLE.items())
def test_the_weighting_is_the_standards_table(n, db):
    assert float(a_weighting(torch.tensor([1000 * 10 ** (n / 10)]))[0]) == pytest.approx(db, abs=0.051)


def test_the_weighting_is_librosas():
    hz = np.geomspace(10, 20_000, 300)
    ours = a_weighting(torch.from_numpy(hz)).numpy()
    np.testing.assert_allclose(ours, librosa.A_weighting(hz, min_db=None), atol=0.02)


def test_levels_of_tones_differ_by_amplitude_and_weighting():
    rate, t = 32000, torch.arange(32000) / 32000
    tones = torch.stack([a * torch.sin(2 * torch.pi * hz * t) for hz, a in ((1000, 1.0), (1000, 0.1), (125, 1.0))])
    level = loudest_level(tones, rate)
    assert float(level[0] - level[1]) == pytest.approx(20.0, abs=0.01)
    assert float(level[0] - level[2]) == pytest.approx(16.1, abs=0.2)


def test_the_loudest_moment_counts_and_silence_has_the_floor():
    rate = 16000
    x = torch.zeros(3, rate)
    x[0, 5000:8000] = torch.sin(2 * torch.pi * 1000 * torch.arange(3000) / rate)
    x[1] = torch.sin(2 * torch.pi * 1000 * torch.arange(rate) / rate)
    level = loudest_level(x, rate)
    assert float(level[0] - level[1]) == pytest.approx(0.0, abs=0.8)
    assert float(level[2]) == -80.0
    assert torch.isfinite(loudest_level(x[:, :10], rate)).all()  # shorter than a frame
