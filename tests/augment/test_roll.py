import torch

from tinyasc import augment


def shifts(before, after):
    """By how many steps each clip was rolled; fails where none or several fit."""
    found = []
    for a, b in zip(before, after, strict=True):
        fits = [s for s in range(a.shape[-1]) if torch.equal(b, a.roll(s, dims=-1))]
        assert len(fits) == 1
        found += fits
    return found


def test_roll_is_a_shift_along_time_that_wraps_around(maps, seeded):
    found = shifts(maps, augment.roll_time(maps, seeded()))
    assert min(found) < 4 and max(found) >= 16 and len(set(found)) > 10


def test_roll_draws_every_shift(seeded):
    x = torch.arange(5.0).expand(400, 1, 1, 5)
    starts = augment.roll_time(x, seeded())[:, 0, 0, 0]
    counts = torch.bincount(starts.long(), minlength=5)
    assert (counts > 50).all(), counts  # 80 expected


def test_a_normal_roll_has_its_deviation_in_frames(seeded):
    n = 1001
    x = torch.arange(float(n)).expand(2000, 1, 1, n)
    first = augment.roll_time(x, seeded(), sigma=10.0)[:, 0, 0, 0].double()
    shift = torch.where(first > n / 2, n - first, -first)
    assert abs(float(shift.mean())) < 3 * 10 / 2000**0.5
    assert abs(float(shift.std()) - 10) < 0.6
    assert abs(float((shift.abs() <= 10).double().mean()) - 0.7) < 0.04  # |rounded N(0, 10)| <= 10: P(|z| < 1.05)


def test_waveforms_roll_both_ways_within_the_limit(seeded):
    x = torch.arange(200.0).repeat(300, 1) + 1000 * torch.arange(300.0)[:, None]
    found = [s if s < 100 else s - 200 for s in shifts(x, augment.roll_samples(x, seeded(), max_samples=10))]
    assert set(found) == set(range(-10, 11))
