import pytest
import torch

from tinyasc import augment
from tinyasc.errors import InputError


def test_a_crop_is_a_window_of_the_clip_at_every_place(maps, seeded):
    y = augment.crop_time(maps, seeded(), frames=15)
    starts = []
    for before, after in zip(maps, y, strict=True):
        fits = [s for s in range(6) if torch.equal(after, before[..., s : s + 15])]
        assert len(fits) == 1
        starts += fits
    assert set(starts) == set(range(6))


def test_a_crop_of_everything_is_the_clip_and_a_longer_one_is_refused(maps, seeded):
    assert torch.equal(augment.crop_time(maps, seeded(), frames=20), maps)
    for frames in (21, 0):
        with pytest.raises(InputError, match=rf"cannot crop {frames} frames out of 20; set it to 1\.\.20"):
            augment.crop_time(maps, seeded(), frames=frames)


def test_waveforms_are_cropped_within_their_own_length(seeded):
    lengths = torch.tensor([100, 60]).repeat(400)
    x = torch.where(torch.arange(100) < lengths[:, None], 1 + torch.arange(100.0), 0.0)
    y = augment.crop_samples(x, lengths, seeded(), samples=50)
    for length, last in ((100, 51), (60, 11)):
        firsts = y[lengths == length, 0]
        # No zeros: every window lies inside the sound, and every start is drawn.
        assert set(firsts.tolist()) == set(range(1, last + 1))
        assert torch.equal(y[lengths == length], firsts[:, None] + torch.arange(50.0))


def test_padding_lets_windows_hang_over_both_ends(seeded):
    x = 1 + torch.arange(100.0).repeat(2000, 1)
    y = augment.crop_samples(x, torch.full((2000,), 100), seeded(), samples=50, padding=0.5)
    zeros_before = (y == 0).cumprod(dim=1).sum(dim=1)
    zeros_after = (y == 0).flip(1).cumprod(dim=1).sum(dim=1)
    assert int(zeros_before.max()) == 25 and int(zeros_after.max()) == 25
    assert not ((zeros_before > 0) & (zeros_after > 0)).any()
    # Starts are uniform over -25..75, 25 of these 101 with zeros before.
    assert abs(float((zeros_before > 0).double().mean()) - 25 / 101) < 0.03
    assert abs(float((zeros_after > 0).double().mean()) - 25 / 101) < 0.03


def test_a_clip_shorter_than_the_window_lies_at_a_random_place_whole(seeded):
    x = 1 + torch.arange(30.0).repeat(500, 1)
    y = augment.crop_samples(x, torch.full((500,), 30), seeded(), samples=50)
    starts = (y == 1).int().argmax(dim=1)
    assert set(starts.tolist()) == set(range(21))
    for row, start in zip(y, starts.tolist(), strict=True):
        assert torch.equal(row[start : start + 30], x[0])
    assert (y.sum(dim=1) == x[0].sum()).all()
