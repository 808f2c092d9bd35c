import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_models import FRONT_END, other_front_end

from tinyasc.errors import InputError
from tinyasc.infer.tta import (
    BANDS,
    CHANGES,
    CROP_SHARE,
    FRAMES,
    GAIN_DB,
    MASK_SHARE,
    PRESETS,
    Copy,
    Stripe,
    Tta,
    crop,
    decided,
    parse_tta,
    roll,
)

CLIP = FRONT_END.clip_samples
LENGTHS = [1, 2, 3, CLIP // 2, CLIP, CLIP + 1, 3 * CLIP]


def ramp(n):
    """Samples that say where they came from."""
    return np.arange(n, dtype=np.float32)


def random(seed=0):
    return np.random.default_rng(seed)


def copies(clip, n, seed, changes="roll,crop"):
    return [c.sound(clip) for c in parse_tta(f"{n}:{changes}").draw(clip.shape[-1], FRONT_END, seed)]


def test_one_copy_is_the_plain_clip():
    clip = ramp(3 * CLIP)
    (only,) = copies(clip, 1, seed=5)
    assert only is clip


@pytest.mark.parametrize("length", LENGTHS)
def test_copies_have_a_length_and_only_samples_of_the_clip(length):
    clip = ramp(length)
    result = copies(clip, 7, seed=0)
    assert len(result) == 7
    for copy in result[1:]:
        assert copy.shape == (min(length, CLIP),) and copy.dtype == clip.dtype
        assert np.isin(copy, clip).all()


@pytest.mark.parametrize("length", LENGTHS)
def test_a_number_of_copies_gives_what_it_always_gave(length):
    """Scores that were published with `--tta` stay true: the draws are written out here as they were made first."""
    clip, got = ramp(length), copies(ramp(length), 9, seed=3)
    for i in range(1, 9):
        drawn = np.random.default_rng((3, i))
        if i % 2:
            start = int(drawn.integers(1, max(length, 2)))
            want = clip[(start + np.arange(min(length, CLIP))) % length]
        elif length > CLIP:
            start = int(drawn.integers(0, length - CLIP + 1))
            want = clip[start : start + CLIP]
        else:
            least = int(np.ceil(0.8 * length))
            part = int(drawn.integers(least, max(length, least + 1)))
            start = int(drawn.integers(0, length - part + 1))
            want = clip[start + np.arange(length) % part]
        np.testing.assert_array_equal(got[i], want)


@pytest.mark.parametrize("length", [2, 3, CLIP // 2, CLIP])
def test_a_roll_is_a_circular_permutation_and_not_the_clip(length):
    rolled = ramp(length)[roll(length, CLIP, random()).index()]
    assert not np.array_equal(rolled, ramp(length))
    assert np.array_equal(np.roll(rolled, int(rolled[0])), ramp(length))


def test_a_roll_of_a_long_clip_is_a_circular_window_from_anywhere():
    length = CLIP + 10
    starts = set()
    for seed in range(50):
        rolled = roll(length, CLIP, random(seed)).index()
        assert np.array_equal((rolled - rolled[0]) % length, np.arange(CLIP))
        starts.add(int(rolled[0]))
    assert max(starts) > length - CLIP, "no window wrapped round the end"


@pytest.mark.parametrize("length", [10, CLIP // 2, CLIP])
def test_a_crop_is_a_part_that_repeats_from_its_start(length):
    for seed in range(20):
        cropped = crop(length, CLIP, random(seed)).index()
        breaks = np.flatnonzero(np.diff(cropped) != 1)
        part = int(breaks[0]) + 1
        assert CROP_SHARE * length <= part < length
        assert np.array_equal(cropped, np.resize(cropped[:part], length))


def test_a_crop_of_a_long_clip_is_a_window_without_a_seam():
    starts = set()
    for seed in range(50):
        cropped = crop(CLIP + 3, CLIP, random(seed)).index()
        assert np.array_equal(cropped - cropped[0], np.arange(CLIP))
        starts.add(int(cropped[0]))
    assert starts == {0, 1, 2, 3}


@pytest.mark.parametrize("length", LENGTHS)
@pytest.mark.parametrize("changes", ["roll,crop", "shift+gain+mean-mask,end", "zero-mask"])
def test_both_sides_of_a_stereo_clip_stay_together(length, changes):
    clip = np.stack([ramp(length), 2 * ramp(length)])
    for copy, left in zip(copies(clip, 7, 0, changes), copies(clip[0], 7, 0, changes), strict=True):
        np.testing.assert_array_equal(copy[0], left)
        np.testing.assert_array_equal(copy[1], 2 * left)


def test_copies_differ_from_each_other():
    for a, b in itertools.combinations(copies(ramp(CLIP), 9, seed=0), 2):
        assert not np.array_equal(a, b)


@pytest.mark.parametrize("changes", ["roll,crop", "shift", "gain", "roll+gain+zero-mask,crop"])
def test_a_seed_gives_the_same_copies_and_more_begin_with_the_same(changes):
    few, many, others = (
        parse_tta(f"{n}:{changes}").draw(CLIP, FRONT_END, seed) for n, seed in ((4, 3), (9, 3), (4, 4))
    )
    assert few == many[:4]
    assert not any(a == b for a, b in zip(few[1:], others[1:], strict=True))


def test_changes_take_turns():
    plan = parse_tta("7:gain, zero-mask+crop").draw(CLIP, FRONT_END, 0)
    assert plan[0] == Copy()
    for copy in plan[1::2]:
        assert copy.gain_db and copy.cut is None and not copy.stripes
    for copy in plan[2::2]:
        assert not copy.gain_db and copy.cut is not None and len(copy.stripes) == 2


def test_a_gain_is_within_its_decibels_and_keeps_the_type():
    gains = []
    for seed in range(40):
        _, louder = parse_tta("2:gain").draw(CLIP, FRONT_END, seed)
        np.testing.assert_allclose(louder.sound(ramp(5))[1:] / ramp(5)[1:], 10 ** (louder.gain_db / 20), rtol=1e-6)
        assert louder.sound(ramp(5)).dtype == np.float32 and louder.sound(np.arange(5.0)).dtype == np.float64
        gains.append(louder.gain_db)
    assert -GAIN_DB <= min(gains) < -4 and 4 < max(gains) <= GAIN_DB


def test_masks_are_stripes_of_zero_or_of_the_mean():
    mel = np.random.default_rng(1).normal(3, 1, (2, 8, 20)).astype(np.float32)
    stripes = [(BANDS, 2, 3), (FRAMES, 15, 5)]
    for mean in (False, True):
        masked = Copy(stripes=tuple(Stripe(*s, mean) for s in stripes)).mask(mel)
        inside = np.zeros(mel.shape, bool)
        inside[:, 2:5], inside[:, :, 15:] = True, True
        np.testing.assert_array_equal(masked[~inside], mel[~inside])
        for channel in range(2):
            want = mel[channel].mean() if mean else 0
            np.testing.assert_allclose(masked[channel][inside[channel]], want, rtol=1e-6)
    assert Copy().mask(mel) is mel


def test_stripes_are_drawn_within_their_share_anywhere():
    record = other_front_end(n_mels=32, clip_samples=512 + 255 * 256, band_scale=(), band_offset=())
    assert record.shape == (1, 32, 256)
    drawn = [s for seed in range(200) for s in parse_tta("2:mean-mask").draw(1, record, seed)[1].stripes]
    for axis, size in ((BANDS, 32), (FRAMES, 256)):
        own = [s for s in drawn if s.axis == axis]
        assert {s.width for s in own} <= set(range(int(MASK_SHARE * size) + 1)) and len({s.width for s in own}) > 4
        assert all(s.start >= 0 and s.start + s.width <= size for s in own)
        assert min(s.start for s in own) < size / 8 and max(s.start + s.width for s in own) > 7 * size / 8


def test_s2_takes_the_start_the_middle_and_the_end():
    """Shim et al.: crops at 0, 2.5 and 5 s of a clip of 10 s, for an input of 5 s."""
    record = other_front_end(clip_samples=5 * FRONT_END.sample_rate)
    plan = PRESETS["s2-3crop"].draw(10 * FRONT_END.sample_rate, record, seed=7)
    taken = [copy.cut.index() for copy in plan if copy.cut]
    assert [int(index[0]) for index in taken] == [0, 2.5 * FRONT_END.sample_rate, 5 * FRONT_END.sample_rate]
    assert all(np.array_equal(index, index[0] + np.arange(record.clip_samples)) for index in taken)
    assert PRESETS["s2-3crop"].draw(record.clip_samples, record, 7) == [Copy()], "three times the same clip"


def test_s4_takes_thirty_shifted_and_masked_copies():
    record = other_front_end(clip_samples=4096 * 64)
    plan = PRESETS["s4-30"].draw(record.clip_samples, record, seed=0)
    assert len(plan) == 30 and all(len(copy.stripes) == 2 for copy in plan)
    assert all(stripe.mean for copy in plan for stripe in copy.stripes)
    plans = [copy for seed in range(20) for copy in PRESETS["s4-30"].draw(record.clip_samples, record, seed)]
    shifts = np.array([copy.cut.index()[0] for copy in plans if copy.cut]) / record.hop_length
    shifts = (shifts + record.clip_samples / record.hop_length / 2) % (record.clip_samples / record.hop_length)
    shifts -= record.clip_samples / record.hop_length / 2
    assert np.array_equal(shifts, np.rint(shifts)), "whole frames"
    assert abs(shifts.mean()) < 1.5 and 9 < shifts.std() < 11  # 600 draws of N(0, 10)


@pytest.mark.parametrize("changes", CHANGES)
def test_every_copy_of_a_long_clip_but_the_plain_one_is_one_window(changes):
    plain, *rest = parse_tta(f"4:{changes}").draw(3 * CLIP, FRONT_END, 0)
    assert plain == Copy()
    for copy in rest:
        assert copy.cut is not None
        index = copy.cut.index()
        assert np.array_equal((index - index[0]) % (3 * CLIP), np.arange(CLIP))


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (0, "at least 1"),
        ("-3", "at least 1"),
        ("1001", "at most 1000 copies, got 1001"),
        (10**12, "at most 1000"),
        ("many", "'many' is neither a number of copies .* nor one of s2-3crop, s4-30"),
        ("2.5", "neither a number"),
        ("s4-30:roll", "neither a number"),
        ("3:twist", "no change is named 'twist'; there are roll, shift"),
        ("3:", "no change is named ''"),
        ("3:roll,", "no change is named ''"),
        ("3:roll+crop", r"'roll\+crop' must be one place"),
        ("3:zero-mask+mean-mask", "one mask"),
        ("3:gain+gain", "at most once"),
    ],
)
def test_nonsense_is_refused(text, says):
    with pytest.raises(InputError, match=says):
        parse_tta(text)


def test_a_number_is_the_clip_with_rolls_and_crops():
    assert parse_tta(8) == parse_tta("8") == parse_tta("8:roll,crop") == parse_tta(Tta(8)) == Tta(8)
    assert parse_tta(None) == Tta(1) and parse_tta("s4-30") is PRESETS["s4-30"]


def test_a_negative_seed_and_no_turns_are_refused():
    with pytest.raises(InputError, match="seed"):
        Tta(2).draw(CLIP, FRONT_END, -1)
    with pytest.raises(InputError, match="at least one change"):
        Tta(2, ())


def vectors(k):
    """Probabilities of k classes, with many that are all or nothing, which is what turns a lead round the fastest."""
    one_hot = st.integers(0, k - 1).map(lambda i: np.eye(k)[i])
    soft = st.lists(st.floats(0, 1), min_size=k, max_size=k).map(lambda v: (np.array(v) + 1e-3) / (sum(v) + k * 1e-3))
    return one_hot | soft


@settings(max_examples=300, deadline=None)
@given(st.data(), st.integers(2, 5), st.integers(1, 12))
def test_what_is_decided_stays_decided(data, k, n):
    answers = data.draw(st.lists(vectors(k), min_size=n, max_size=n))
    final = int(np.sum(answers, axis=0).argmax())
    total = np.zeros(k)
    for used, answer in enumerate(answers, 1):
        total = total + answer
        if decided(total, n - used):
            assert int(total.argmax()) == final


@settings(max_examples=200, deadline=None)
@given(st.data(), st.integers(2, 5), st.integers(1, 12), st.integers(0, 12))
def test_what_is_undecided_could_still_turn(data, k, used, remaining):
    """The test is sharp: where it does not stop, the runner-up can catch up with what is left, or all but."""
    total = np.sum(data.draw(st.lists(vectors(k), min_size=used, max_size=used)), axis=0)
    if not decided(total, remaining):
        runner_up = int(np.argsort(total)[-2])
        assert total[runner_up] + remaining >= total.max() - 1e-6


def test_equal_leaders_are_never_decided():
    assert not decided(np.array([1.0, 1.0, 0.0]), 0)
    assert decided(np.array([1.0]), 5)
