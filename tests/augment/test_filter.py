import numpy as np
import pytest
import torch

from tinyasc import augment
from tinyasc.augment.filter import FEWEST, MOST, NARROWEST

SCALE = torch.linspace(0.1, 0.5, 64, dtype=torch.float64)


def gains(x, seeded, max_db=6.0, scale=SCALE):
    return (augment.filter_bands(x, seeded(), max_db=max_db, band_scale=scale) - x) / scale[:, None]


def test_one_gain_per_clip_and_band(seeded):
    db = gains(torch.randn(32, 2, 64, 9, generator=seeded(3), dtype=torch.float64), seeded)
    assert torch.allclose(db, db[:, :1, :, :1].expand_as(db), atol=1e-6)
    ends = torch.cat([db[:, 0, 0, 0], db[:, 0, -1, 0]])
    assert db.abs().max() <= 6.0 and ends.min() < -4 and ends.max() > 4
    assert abs(float(ends.mean())) < 3 * 6 / 3**0.5 / 64**0.5


def test_straight_between_corners_that_keep_apart(seeded):
    """Corners are where the second difference is not zero; numpy draws the same lines through them."""
    numbers = set()
    for row in gains(torch.zeros(64, 1, 64, 1, dtype=torch.float64), seeded)[:, 0, :, 0].numpy():
        corners = [0, *(1 + np.flatnonzero(np.abs(np.diff(row, 2)) > 1e-5)), 63]
        assert np.interp(np.arange(64), corners, row[corners]) == pytest.approx(row, abs=1e-5)
        assert np.diff(corners).min() >= NARROWEST
        numbers.add(len(corners) - 1)
    assert numbers == set(range(FEWEST, MOST + 1))


@pytest.mark.parametrize("bands", [1, 2, 5, 13, 20])
def test_few_bands_have_fewer_corners(bands, seeded):
    db = gains(torch.zeros(40, 1, bands, 3), seeded, scale=torch.ones(bands))
    assert torch.isfinite(db).all() and 4 < db.abs().max() <= 6
