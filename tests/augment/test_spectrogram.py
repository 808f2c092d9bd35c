import inspect

import pytest
import torch

from tinyasc import augment

BATCH, BANDS, FRAMES = 64, 12, 20
SCALE = torch.linspace(0.1, 0.5, BANDS)

TRANSFORMS = {
    "roll_time": lambda x, g: augment.roll_time(x, g),
    "gain": lambda x, g: augment.gain(x, g, max_db=6.0, band_scale=SCALE),
    "mask_time": lambda x, g: augment.mask_time(x, g, width=5),
    "mask_frequency": lambda x, g: augment.mask_frequency(x, g, width=5),
}


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.fixture
def x():
    # No value is zero, so that a masked one shows; all differ, so that a move shows.
    return 1 + torch.arange(BATCH * BANDS * FRAMES, dtype=torch.float32).reshape(BATCH, 1, BANDS, FRAMES)


def test_every_public_transform_is_tested():
    assert {*TRANSFORMS, "mixup_weights"} == set(augment.__all__)


@pytest.mark.parametrize("name", TRANSFORMS)
def test_the_result_follows_from_the_generator_alone(x, name):
    before, state = x.clone(), torch.get_rng_state()
    first = TRANSFORMS[name](x, seeded(1))
    torch.manual_seed(99)
    again = TRANSFORMS[name](x, seeded(1))
    assert torch.equal(first, again)
    assert not torch.equal(first, TRANSFORMS[name](x, seeded(2)))
    assert torch.equal(x, before), "the input was changed"
    torch.set_rng_state(state)
    TRANSFORMS[name](x, seeded(1))
    assert torch.equal(torch.get_rng_state(), state), "the global generator was used"
    assert first.shape == x.shape and first.dtype == x.dtype


@pytest.mark.parametrize("name", TRANSFORMS)
def test_clips_draw_on_their_own(name):
    same = (1 + torch.arange(BANDS * FRAMES, dtype=torch.float32)).reshape(1, 1, BANDS, FRAMES).repeat(BATCH, 1, 1, 1)
    y = TRANSFORMS[name](same, seeded())
    assert len({tuple(clip.flatten().tolist()) for clip in y}) > 4


def test_roll_is_a_shift_along_time_that_wraps_around(x):
    y = augment.roll_time(x, seeded())
    shifts = []
    for before, after in zip(x, y, strict=True):
        fits = [s for s in range(FRAMES) if torch.equal(after, before.roll(s, dims=2))]
        assert len(fits) == 1
        shifts += fits
    assert min(shifts) < 4 and max(shifts) >= FRAMES - 4 and len(set(shifts)) > FRAMES // 2


def test_roll_draws_every_shift():
    x = torch.arange(5.0).expand(400, 1, 1, 5)
    starts = augment.roll_time(x, seeded())[:, 0, 0, 0]
    counts = torch.bincount(starts.long(), minlength=5)
    assert (counts > 50).all(), counts  # 80 expected


def test_gain_adds_one_gain_in_db_per_clip(x):
    db = (augment.gain(x.double(), seeded(), max_db=6.0, band_scale=SCALE.double()) - x.double()) / SCALE[:, None]
    per_clip = db.flatten(1)
    assert torch.allclose(per_clip, per_clip[:, :1].expand_as(per_clip), atol=1e-6)
    gains = per_clip[:, 0]
    assert gains.abs().max() <= 6.0 and gains.min() < -4 and gains.max() > 4
    assert abs(float(gains.mean())) < 3 * 6 / 3**0.5 / BATCH**0.5


@pytest.mark.parametrize(("transform", "axis"), [(augment.mask_time, 3), (augment.mask_frequency, 2)])
@pytest.mark.parametrize("width", [0, 1, 5, 1000])
def test_masks_zero_one_stripe_and_nothing_else(x, transform, axis, width):
    y = transform(x, seeded(), width=width)
    size = x.shape[axis]
    widths, starts = [], []
    for before, after in zip(x, y, strict=True):
        zero = after == 0
        assert torch.equal(after[~zero], before[~zero])
        along = zero.any(dim=0).any(dim=1 if axis == 2 else 0)
        everywhere = zero.all(dim=0).all(dim=1 if axis == 2 else 0)
        assert torch.equal(along, everywhere), "the stripe spans the other axis"
        where = along.nonzero().flatten()
        widths.append(len(where))
        if len(where):
            starts.append(int(where[0]))
            assert int(where[-1]) - int(where[0]) + 1 == len(where), "one stripe"
    assert max(widths) == min(width, size) if width < 10 else max(widths) <= size
    if width:
        assert min(widths) == 0 or width > size  # U{0..width}
        assert len(set(starts)) > 3


def test_masks_reach_both_edges():
    x = torch.ones(500, 1, 4, 8)
    y = augment.mask_time(x, seeded(), width=2)
    masked = (y[:, 0, 0] == 0).float().mean(dim=0)
    assert (masked > 0).all()


def test_mixup_weights():
    partner, weight = augment.mixup_weights(1000, seeded(), alpha=0.3)
    assert sorted(partner.tolist()) == list(range(1000))
    assert partner.tolist() != list(range(1000))
    assert weight.shape == (1000,) and float(weight.min()) >= 0.5 and float(weight.max()) <= 1.0
    assert len(weight.unique()) > 900
    # E max(w, 1 - w) of Beta(a, a): 0.5 + E |w - 0.5|, from draws of torch's own distribution.
    torch.manual_seed(0)
    draws = torch.distributions.Beta(0.3, 0.3).sample((100_000,))
    expected = float((0.5 + (draws - 0.5).abs()).mean())
    assert float(weight.mean()) == pytest.approx(expected, abs=0.02)
    again = augment.mixup_weights(1000, seeded(), alpha=0.3)
    assert torch.equal(again[0], partner) and torch.equal(again[1], weight)
    other = augment.mixup_weights(1000, seeded(1), alpha=0.3)
    assert not torch.equal(other[0], partner) and not torch.equal(other[1], weight)


@pytest.mark.parametrize("alpha", [1e-6, 1e-3, 1.0, 1e3])
def test_mixup_weights_of_extreme_alphas_are_finite(alpha):
    _, weight = augment.mixup_weights(500, seeded(), alpha=alpha)
    assert torch.isfinite(weight).all() and float(weight.min()) >= 0.5 and float(weight.max()) <= 1.0


def test_a_generator_is_asked_for():
    for name in augment.__all__:
        parameter = inspect.signature(getattr(augment, name)).parameters["generator"]
        assert parameter.default is inspect.Parameter.empty
