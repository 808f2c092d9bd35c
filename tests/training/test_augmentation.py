"""A recipe's `augment` part: what it switches on, in which order, and that the mixing of targets follows the clips'."""

import copy

import pytest
import soundfile
import torch
import torch.nn.functional as F

from tinyasc import augment
from tinyasc.errors import InputError
from tinyasc.frontend import FrontEnd
from tinyasc.frontend_torch import LogMel
from tinyasc.training.augmentation import (
    AugmentedFeatures,
    WaveformAugment,
    augment_features,
    masks_inside,
    needs_waveforms,
)
from tinyasc.training.classifier import Classifier
from tinyasc.training.recipe import check_recipe
from tinyasc.training.recipe_parts import Augment

FRONT_END = FrontEnd(sample_rate=8000, clip_samples=4000, n_fft=256, win_length=256, hop_length=128, n_mels=16)
SCALE = torch.linspace(0.1, 0.2, 16)[None]
FRAMES = FRONT_END.n_frames()

# Each switch alone; the rest of the keys only say how.
FEATURES = [
    {"roll": True}, {"roll_sigma": 4.0}, {"crop_frames": 20}, {"gain_db": 6.0}, {"filter_db": 12.0},
    {"mixstyle_p": 1.0}, {"mixup_alpha": 0.5}, {"time_mask": 9},
    {"freq_mask": 9, "mask_mode": "mixture", "freq_stripes": 2},
]  # fmt: skip
WAVEFORMS = [
    {"time_scale": 1.25}, {"time_stretch": 1.25}, {"wave_crop": True}, {"wave_crop": True, "wave_crop_padding": 0.5},
    {"wave_roll_seconds": 0.1}, {"noise_prob": 1.0}, {"between_class": True}, {"wave_gain_db": 6.0},
]  # fmt: skip


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def settings(**values):
    return Augment.model_validate(values)


def batch(n=12, samples=6000):
    lengths = torch.full((n,), samples)
    lengths[1] = 2500  # shorter than a clip
    waveform = torch.randn(n, samples, generator=seeded(7)) * (torch.arange(samples) < lengths[:, None])
    features = LogMel(FRONT_END)(waveform[:, :4000])
    return {"features": features, "waveform": waveform, "length": lengths, "label": torch.arange(n) % 3}


@pytest.mark.parametrize("values", FEATURES + WAVEFORMS, ids=str)
def test_every_key_acts_and_says_whether_it_needs_waveforms(values):
    assert needs_waveforms(settings(**values)) == (values in WAVEFORMS)
    step = AugmentedFeatures(settings(**values), band_scale=SCALE, front_end=FRONT_END)
    made = batch()
    first, _ = step(made, seeded(1))
    again, _ = step(made, seeded(1))
    assert torch.equal(first, again) and not torch.equal(first, step(made, seeded(2))[0])
    assert first.shape == (12, 1, 16, values.get("crop_frames", FRAMES)) and torch.isfinite(first).all()
    assert all(torch.equal(v, w) for v, w in zip(made.values(), batch().values(), strict=True))


def test_nothing_on_changes_nothing():
    made = batch()
    x, mixes = AugmentedFeatures(settings(), band_scale=SCALE)(made, seeded())
    assert x is made["features"] and mixes == []
    assert not needs_waveforms(settings())


def test_waveforms_become_the_features_of_the_clean_clips_when_nothing_changes_them():
    # Noise with probability next to nothing: the waveform path alone.
    step = AugmentedFeatures(settings(noise_prob=1e-12), band_scale=SCALE, front_end=FRONT_END)
    made = batch()
    x, mixes = step(made, seeded())
    assert mixes == [] and torch.allclose(x, made["features"], atol=1e-4)


def test_mixed_precision_leaves_the_features_of_waveforms_alone():
    step = AugmentedFeatures(settings(noise_prob=1e-12), band_scale=SCALE, front_end=FRONT_END)
    exact, _ = step(batch(), seeded())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == torch.bfloat16
        x, _ = step(batch(), seeded())
    assert torch.equal(x, exact)


def test_the_steps_follow_the_documented_order():
    s = settings(roll=True, crop_frames=20, gain_db=6, mixstyle_p=1.0, mixup_alpha=0.5, time_mask=9, freq_mask=5)
    x, mix = augment_features(batch()["features"], s, seeded(3), band_scale=SCALE)
    g, y = seeded(3), batch()["features"]
    y = augment.crop_time(augment.roll_time(y, g), g, frames=20)
    y = augment.freq_mixstyle(augment.gain(y, g, max_db=6, band_scale=SCALE), g, p=1.0, alpha=0.3)
    wanted = augment.mixup(12, g, alpha=0.5)
    y = augment.mask_frequency(augment.mask_time(wanted(y), g, width=9), g, width=5)
    assert torch.equal(x, y) and mix is not None and torch.equal(mix.partner, wanted.partner)


def test_waveform_steps_follow_the_documented_order(tmp_path):
    soundfile.write(tmp_path / "mic.wav", [1.0, -0.5, 0.2], 8000, subtype="FLOAT")
    s = settings(
        time_scale=1.25, wave_crop=True, wave_crop_padding=0.5, wave_roll_seconds=0.1, dir_prob=0.5, dirs=str(tmp_path),
        noise_prob=0.5, noise_snr_db=[0, 9], noise_color="pink", between_class=True, wave_gain_db=6,
    )  # fmt: skip
    made, allowed = batch(), torch.arange(12) < 9
    inputs = made["waveform"], made["length"], made["label"]
    x, mix = WaveformAugment(s, FRONT_END)(*inputs, seeded(3), dir_allowed=allowed)
    g = seeded(3)
    y, lengths = augment.time_scale(made["waveform"], made["length"], g, max_scale=1.25)
    y = augment.crop_samples(y, lengths, g, samples=4000, padding=0.5)
    y = augment.roll_samples(y, g, max_samples=800)
    y = augment.impulse_response(y, g, bank=augment.load_bank(tmp_path, 8000), prob=0.5, allowed=allowed)
    y = augment.add_noise(y, g, snr_db=(0, 9), color="pink", prob=0.5)
    y, wanted = augment.between_class(y, made["label"], g, sample_rate=8000)
    y = augment.gain_samples(y, g, max_db=6)
    assert x.shape == (12, 4000) and torch.equal(x, y)
    assert mix is not None and torch.equal(mix.weight, wanted.weight)


def classifier(values, module=None, **parts):
    recipe = check_recipe({"name": "t", "model": {"family": "x"}, "augment": values} | parts, "")
    return Classifier(
        module or torch.nn.Identity(), recipe, n_classes=3, band_scale=SCALE, steps_per_epoch=1, front_end=FRONT_END
    )


def test_targets_and_teacher_follow_both_mixes_in_turn():
    made = batch() | {"teacher": 60.0 * F.one_hot(torch.arange(12) % 3, 3)}
    module = classifier({"between_class": True, "mixup_alpha": 0.5}, distill={"temperature": 1.0})
    _, target, teacher, _ = module.augmented(made, seeded())
    g = seeded()
    _, first = augment.between_class(made["waveform"][:, :4000], made["label"], g, sample_rate=8000)
    second = augment.mixup(12, g, alpha=0.5)
    assert torch.allclose(target, second(first(F.one_hot(made["label"], 3).float())))
    assert teacher is not None and torch.allclose(teacher, target, atol=1e-6)
    assert torch.allclose(target.sum(dim=1), torch.ones(12)) and ((target > 0).sum(dim=1) > 1).sum() > 6


def test_nothing_of_the_augmentation_lies_in_a_checkpoint(tmp_path):
    soundfile.write(tmp_path / "mic.wav", [1.0, -0.5], 8000, subtype="FLOAT")
    module = classifier({"dir_prob": 0.5, "dirs": str(tmp_path)}, torch.nn.Linear(2, 2))
    assert set(module.state_dict()) == {"module.weight", "module.bias"}


def test_masks_inside_are_scaled_to_the_map():
    net = torch.nn.Sequential(torch.nn.AvgPool2d(4), torch.nn.Identity())
    x = torch.ones(200, 1, 16, 40)
    s = settings(time_mask=20, freq_mask=4, mask_layers=["0"])
    with masks_inside(net, s, seeded(), bands=16, frames=40):
        y = net(x)
    columns, rows = (y == 0).all(dim=2).sum(dim=2), (y == 0).all(dim=3).sum(dim=2)
    # Half of 10 frames, a quarter of 4 bands.
    assert int(columns.max()) == 5 and int(rows[columns < 10].max()) == 1
    with masks_inside(net, settings(time_mask=20), seeded(), bands=16, frames=40):
        assert torch.equal(net(x), torch.ones(200, 1, 4, 10))


def test_the_training_step_masks_the_layers_that_the_recipe_names():
    torch.manual_seed(0)
    net = torch.nn.Sequential(
        torch.nn.Conv2d(1, 2, 1), torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten(), torch.nn.Linear(2, 3)
    )

    def loss(layers):
        # The masks of the input are the same in every run, so the layers alone make a difference.
        module = classifier({"time_mask": 30, "mask_layers": layers}, copy.deepcopy(net))
        torch.manual_seed(0)
        return float(module.training_step(batch(), 0).detach())

    assert loss([]) == loss([]) != loss(["0"])
    with pytest.raises(InputError, match="no layer 'conv'"):
        classifier({"time_mask": 30, "mask_layers": ["conv"]}, net).training_step(batch(), 0)


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ({"roll": True, "roll_sigma": 3}, "choose one of them"),
        ({"dir_prob": 0.4}, "dir_prob needs `dirs`, a folder or list of impulse responses, or synthetic"),
        ({"wave_crop_padding": 0.5}, "no meaning without wave_crop, for example wave_crop: true"),
        ({"noise_prob": 1.0, "noise_snr_db": [20, 10]}, r"must be \[lowest, highest\]"),
        ({"mask_layers": ["0"]}, "mask_layers has no meaning without a width"),
        ({"dirs": "mics"}, "dirs has no meaning without dir_prob"),
        ({"dir_devices": ["a"]}, "dir_devices has no meaning without dir_prob"),
        ({"noise_snr_db": [0, 9]}, "noise_snr_db has no meaning without noise_prob"),
        ({"noise_color": "pink"}, "noise_color has no meaning without noise_prob"),
        ({"mixstyle_alpha": 0.4}, "mixstyle_alpha has no meaning without mixstyle_p"),
        ({"time_scale": 0.9}, "augment.time_scale"),
        ({"mixstyle_p": 1.1}, "augment.mixstyle_p"),
        ({"mixstyle_alpha": 0}, "augment.mixstyle_alpha"),
        ({"mask_mode": "mean"}, "augment.mask_mode"),
        ({"time_stripes": 0}, "augment.time_stripes"),
        ({"noise_color": "brown"}, "augment.noise_color"),
        ({"wave_gain": 3}, "did you mean 'wave_gain_db'"),
    ],
)
def test_values_out_of_range_are_refused(values, says):
    with pytest.raises(InputError, match=says):
        check_recipe({"name": "t", "model": {"family": "x"}, "augment": values}, "recipe.yaml")


def test_a_resolved_recipe_with_nothing_on_can_be_read_again():
    assert Augment.model_validate(settings().model_dump(mode="json")) == settings()


def test_impulse_responses_that_are_not_there_are_refused():
    with pytest.raises(InputError, match="nowhere: no such folder or list"):
        WaveformAugment(settings(dir_prob=0.5, dirs="nowhere"), FRONT_END)
