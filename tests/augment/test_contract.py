"""What every transform promises: a function of its generator, of its own size, that leaves its input alone."""

import inspect

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tinyasc import augment

RATE = 8000
BANK = torch.nn.functional.normalize(torch.randn(9, 50, generator=torch.Generator().manual_seed(9)))


def lengths(x):
    return torch.full((len(x),), x.shape[1])


# Each as it is called, and the size that it gives for (batch, channels, bands, frames) or (batch, samples).
ON_FEATURES = {
    "roll_time": (lambda x, g: augment.roll_time(x, g), None),
    "roll_time sigma": (lambda x, g: augment.roll_time(x, g, sigma=5.0), None),
    "crop_time": (lambda x, g: augment.crop_time(x, g, frames=max(1, x.shape[3] // 2)), lambda n: max(1, n // 2)),
    "gain": (lambda x, g: augment.gain(x, g, max_db=6.0, band_scale=torch.linspace(0.1, 0.5, x.shape[2])), None),
    "filter_bands": (
        lambda x, g: augment.filter_bands(x, g, max_db=6.0, band_scale=torch.linspace(0.1, 0.5, x.shape[2])),
        None,
    ),
    "freq_mixstyle": (lambda x, g: augment.freq_mixstyle(x, g, p=1.0, alpha=0.4), None),
    "mixup": (lambda x, g: augment.mixup(len(x), g, alpha=0.3)(x), None),
    "mask_time": (lambda x, g: augment.mask_time(x, g, width=5, stripes=2), None),
    "mask_frequency": (lambda x, g: augment.mask_frequency(x, g, width=5), None),
    "mask_frequency mixture": (lambda x, g: augment.mask_frequency(x, g, width=5, mode="mixture"), None),
    "mask_time cut": (lambda x, g: augment.mask_time(x, g, width=5, mode="cut"), None),
}
ON_WAVEFORMS = {
    "time_scale": (lambda x, g: augment.time_scale(x, lengths(x), g, max_scale=1.25)[0], lambda n: -(-n * 5 // 4)),
    "time_stretch": (
        lambda x, g: augment.time_stretch(x, lengths(x), g, max_stretch=1.25)[0],
        lambda n: -(-n * 5 // 4),
    ),
    "crop_samples": (lambda x, g: augment.crop_samples(x, lengths(x), g, samples=700, padding=0.5), lambda n: 700),
    "roll_samples": (lambda x, g: augment.roll_samples(x, g, max_samples=300), None),
    "impulse_response": (lambda x, g: augment.impulse_response(x, g, bank=BANK, prob=0.6), None),
    "add_noise": (lambda x, g: augment.add_noise(x, g, snr_db=(0, 20)), None),
    "add_noise pink": (lambda x, g: augment.add_noise(x, g, snr_db=(0, 20), color="pink"), None),
    "between_class": (
        lambda x, g: augment.between_class(x, torch.arange(len(x)) % 3, g, sample_rate=RATE)[0],
        None,
    ),
    "gain_samples": (lambda x, g: augment.gain_samples(x, g, max_db=6.0), None),
}
TRANSFORMS = ON_FEATURES | ON_WAVEFORMS


def batch(name, n=32, seed=0):
    generator = torch.Generator().manual_seed(100 + seed)
    return torch.randn((n, 2, 12, 20) if name in ON_FEATURES else (n, 1000), generator=generator)


def test_every_public_transform_is_here():
    elsewhere = {"Mix", "hidden_masks", "load_bank"}
    assert {name.split()[0] for name in TRANSFORMS} == set(augment.__all__) - elsewhere


@pytest.mark.parametrize("name", TRANSFORMS)
def test_the_result_follows_from_the_generator_alone(name, seeded):
    transform, x = TRANSFORMS[name][0], batch(name)
    before, state = x.clone(), torch.get_rng_state()
    first = transform(x, seeded(1))
    torch.manual_seed(99)
    again = transform(x, seeded(1))
    assert torch.equal(first, again)
    assert not torch.equal(first, transform(x, seeded(2)))
    assert torch.equal(x, before), "the input was changed"
    torch.set_rng_state(state)
    transform(x, seeded(1))
    assert torch.equal(torch.get_rng_state(), state), "the global generator was used"


@pytest.mark.parametrize("name", sorted(set(TRANSFORMS) - {"mixup", "freq_mixstyle", "between_class"}))
def test_clips_draw_on_their_own(name, seeded):
    if name.endswith(("cut", "mixture")):
        pytest.skip("among equal clips another clip's stripe changes nothing")
    same = batch(name, n=1).repeat(64, *[1] * (batch(name).ndim - 1))
    y = TRANSFORMS[name][0](same, seeded())
    assert len({tuple(clip.flatten().tolist()) for clip in y}) > 4


@settings(max_examples=25, deadline=None)
@given(data=st.data())
@pytest.mark.parametrize("name", TRANSFORMS)
def test_any_size_gives_finite_values_of_the_promised_size(name, data):
    n, seed = data.draw(st.integers(1, 5)), data.draw(st.integers(0, 1000))
    generator = torch.Generator().manual_seed(seed)
    level = data.draw(st.sampled_from([0.0, 1e-6, 1.0, 1e4]))
    last = data.draw(st.integers(1, 40)) if name in ON_FEATURES else data.draw(st.integers(1, 3000))
    shape = (n, data.draw(st.integers(1, 3)), data.draw(st.integers(1, 9)), last) if name in ON_FEATURES else (n, last)
    x = level * torch.randn(shape, generator=generator)
    before = x.clone()
    transform, size = TRANSFORMS[name]
    y = transform(x, generator)
    assert y.shape == (*shape[:-1], size(last) if size else last)
    assert y.dtype == x.dtype and torch.isfinite(y).all()
    assert torch.equal(x, before)
    if name.startswith("roll"):
        assert torch.equal(y.sort(dim=-1).values, x.sort(dim=-1).values)


def test_a_generator_is_asked_for():
    for name in augment.__all__:
        if name not in ("Mix", "load_bank"):
            parameter = inspect.signature(getattr(augment, name)).parameters["generator"]
            assert parameter.default is inspect.Parameter.empty
