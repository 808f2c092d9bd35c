import itertools

import numpy as np
import pytest
from tiny_models import FRONT_END

from tinyasc.infer.tta import CROP_SHARE, copies, crop, roll

CLIP = FRONT_END.clip_samples
LENGTHS = [1, 2, 3, CLIP // 2, CLIP, CLIP + 1, 3 * CLIP]


def ramp(n):
    """Samples that say where they came from."""
    return np.arange(n, dtype=np.float32)


def random(seed=0):
    return np.random.default_rng(seed)


def test_one_copy_is_the_plain_clip():
    clip = ramp(3 * CLIP)
    (only,) = copies(clip, FRONT_END, 1, seed=5)
    assert only is clip


@pytest.mark.parametrize("length", LENGTHS)
def test_copies_have_a_length_and_only_samples_of_the_clip(length):
    clip = ramp(length)
    result = list(copies(clip, FRONT_END, 7, seed=0))
    assert len(result) == 7
    for copy in result[1:]:
        assert copy.shape == (min(length, CLIP),) and copy.dtype == clip.dtype
        assert np.isin(copy, clip).all()


@pytest.mark.parametrize("length", [2, 3, CLIP // 2, CLIP])
def test_a_roll_is_a_circular_permutation_and_not_the_clip(length):
    rolled = roll(ramp(length), CLIP, random())
    assert not np.array_equal(rolled, ramp(length))
    assert np.array_equal(np.roll(rolled, int(rolled[0])), ramp(length))


def test_a_roll_of_a_long_clip_is_a_circular_window_from_anywhere():
    length = CLIP + 10
    starts = set()
    for seed in range(50):
        rolled = roll(ramp(length), CLIP, random(seed))
        assert np.array_equal((rolled - rolled[0]) % length, np.arange(CLIP))
        starts.add(int(rolled[0]))
    assert max(starts) > length - CLIP, "no window wrapped round the end"


@pytest.mark.parametrize("length", [10, CLIP // 2, CLIP])
def test_a_crop_is_a_part_that_repeats_from_its_start(length):
    for seed in range(20):
        cropped = crop(ramp(length), CLIP, random(seed))
        breaks = np.flatnonzero(np.diff(cropped) != 1)
        part = int(breaks[0]) + 1
        assert CROP_SHARE * length <= part < length
        assert np.array_equal(cropped, np.resize(cropped[:part], length))


def test_a_crop_of_a_long_clip_is_a_window_without_a_seam():
    starts = set()
    for seed in range(50):
        cropped = crop(ramp(CLIP + 3), CLIP, random(seed))
        assert np.array_equal(cropped - cropped[0], np.arange(CLIP))
        starts.add(int(cropped[0]))
    assert starts == {0, 1, 2, 3}


@pytest.mark.parametrize("length", LENGTHS)
def test_both_sides_of_a_stereo_clip_stay_together(length):
    clip = np.stack([ramp(length), ramp(length) + 0.5])
    result = list(copies(clip, FRONT_END, 7, seed=0))
    alone = list(copies(clip[0], FRONT_END, 7, seed=0))
    for copy, left in zip(result, alone, strict=True):
        np.testing.assert_array_equal(copy[0], left)
        np.testing.assert_array_equal(copy[1], left + 0.5)


def test_copies_differ_from_each_other():
    for a, b in itertools.combinations(copies(ramp(CLIP), FRONT_END, 9, seed=0), 2):
        assert not np.array_equal(a, b)


def test_a_seed_gives_the_same_copies_and_more_begin_with_the_same():
    few = list(copies(ramp(CLIP), FRONT_END, 4, seed=3))
    many = list(copies(ramp(CLIP), FRONT_END, 9, seed=3))
    others = list(copies(ramp(CLIP), FRONT_END, 4, seed=4))
    assert all(np.array_equal(a, b) for a, b in zip(few, many, strict=False))
    assert not any(np.array_equal(a, b) for a, b in zip(few[1:], others[1:], strict=True))
