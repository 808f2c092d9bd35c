"""Distillation: its loss, how several teachers answer as one, and teachers that answer the augmented batches."""

import copy
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_training import BANDS, CLASSES, DATA, FRAMES, FRONT_END, Stop, journal, plain, recipe, weights

from tinyasc.augment.mixup import Mix
from tinyasc.errors import InputError
from tinyasc.frontend import FrontEnd, features
from tinyasc.models import build
from tinyasc.training.attention_transfer import attention_transfer, check_maps, outputs_of
from tinyasc.training.augmentation import AugmentedFeatures
from tinyasc.training.checkpoints import load_weights
from tinyasc.training.classifier import Classifier
from tinyasc.training.fit import fit
from tinyasc.training.recipe_parts import Augment, Distill
from tinyasc.training.run import Run
from tinyasc.training.teaching import LiveTeacher, LiveTeachers, join_logits
from tinyasc.training.waveforms import WaveformPart

PLAIN = {"roll": False, "gain_db": 0, "time_mask": 0, "freq_mask": 0, "mixup_alpha": 0}
RATE = FRONT_END.sample_rate


def log_softmax(z):
    return z - np.log(np.exp(z).sum(axis=-1, keepdims=True))


def classifier(module=None, teachers=None, front_end=FRONT_END, n_devices=0, **parts):
    module = torch.nn.Identity() if module is None else module
    return Classifier(
        module, recipe(**parts), n_classes=CLASSES, band_scale=torch.ones(1, BANDS), steps_per_epoch=1,
        front_end=front_end, n_devices=n_devices, teachers=teachers,
    )  # fmt: skip


class Recorder(torch.nn.Module):
    """Keeps what it hears, and answers by the mean of some bands."""

    def __init__(self):
        super().__init__()
        self.heard, self.told, self.mode = [], [], []
        self.weight = torch.nn.Parameter(torch.ones(1))

    def forward(self, x, device=None):
        self.heard.append(x.clone())
        self.told.append(device)
        self.mode.append((self.training, torch.is_grad_enabled()))
        return self.weight * x.mean(dim=(1, 3))[:, :CLASSES]


class Told(Recorder):
    reads_device = True


def batch(clips=12, seed=0):
    rng = np.random.default_rng(seed)
    labels = torch.arange(clips) % CLASSES
    return {"features": torch.from_numpy(rng.standard_normal((clips, 1, BANDS, FRAMES), np.float32)), "label": labels}


def waveforms(rate, clips=6, seed=0):
    rng = np.random.default_rng(seed)
    sound = 0.1 * rng.standard_normal((clips, rate)).astype(np.float32)
    labels = torch.arange(clips) % CLASSES
    return {"waveform": torch.from_numpy(sound), "length": torch.full((clips,), rate), "label": labels}


# The loss ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("reduction", ["batchmean", "mean"])
@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 10**6), share=st.floats(0, 1), t=st.floats(0.5, 8))
def test_the_loss_is_its_formula_with_either_reduction(reduction, seed, share, t):
    rng = np.random.default_rng(seed)
    student, teacher = rng.normal(0, 2, (2, 5, CLASSES))
    labels = rng.integers(0, CLASSES, 5)
    distill = {"temperature": t, "kd_lambda": share, "reduction": reduction}
    module = classifier(distill=distill, augment=PLAIN)
    made = {"features": torch.zeros(5, 1, BANDS, FRAMES), "label": torch.from_numpy(labels)}
    made["teacher"] = torch.from_numpy(teacher)
    _, target, soft, _ = module.augmented(made, torch.Generator())
    got = float(module.scene_loss(torch.from_numpy(student), target.double(), soft))
    hard = -log_softmax(student)[np.arange(5), labels].mean()
    p, q = log_softmax(teacher / t), log_softmax(student / t)
    kl = np.exp(p) * (p - q)
    kl = kl.sum(axis=1).mean() if reduction == "batchmean" else kl.mean()
    assert got == pytest.approx((1 - share) * hard + share * t * t * kl, rel=1e-6, abs=1e-9)


def test_the_papers_numbers_are_the_old_ones_for_ten_classes():
    """0.98 with the mean over classes weighs KL against CE as 0.83 does with their sum, to the digits given."""
    mean, summed = 0.98 / 0.02 / 10, 0.83 / 0.17
    assert mean == pytest.approx(summed, rel=5e-3) and 4 * mean == pytest.approx(19.6)


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 10**6), n=st.integers(1, 4), t=st.floats(0.5, 8), spread=st.floats(0.1, 300))
def test_teachers_are_joined_by_the_mean_of_logits_or_of_probabilities(seed, n, t, spread):
    z = np.random.default_rng(seed).normal(0, spread, (n, 4, 10))
    stable = z / t - (z / t).max(axis=-1, keepdims=True)
    by_probabilities = np.exp(log_softmax(stable)).mean(axis=0)
    mean = z.mean(axis=0) / t
    by_logits = np.exp(log_softmax(mean - mean.max(axis=-1, keepdims=True)))
    for ensemble, expected in (("probabilities", by_probabilities), ("logits", by_logits)):
        joined = join_logits(torch.from_numpy(z), Distill(temperature=t, ensemble=ensemble))
        np.testing.assert_allclose((joined / t).softmax(dim=-1).numpy(), expected, rtol=1e-9, atol=1e-12)
        assert joined.isfinite().all()
    alone = torch.from_numpy(z[:1].astype(np.float32))
    assert torch.equal(join_logits(alone, Distill()), alone[0])


def test_the_two_ways_to_join_differ():
    z = torch.tensor([[[8.0, 0.0, 0.0]], [[0.0, 2.0, 0.0]]])
    p, g = ((join_logits(z, Distill(ensemble=how)) / 2).softmax(dim=-1) for how in ("probabilities", "logits"))
    assert (p - g).abs().max() > 0.05


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"feature_layers": [["a", "b"]]}, "feature_layers has no meaning without features: attention"),
        ({"feature_weight": 2}, "feature_weight has no meaning"),
        ({"features": "attention", "teacher_on": "augmented"}, "needs feature_layers"),
        ({"features": "attention", "feature_layers": [["a", "b"]]}, "needs teacher_on: augmented"),
        ({"reduction": "sum"}, "reduction"),
        ({"ensemble": "vote"}, "ensemble"),
    ],
)
def test_settings_that_do_not_go_together(values, words):
    with pytest.raises(InputError, match=words):
        recipe(distill=values)


def test_focal_loss_without_a_loss_on_labels_is_refused():
    with pytest.raises(InputError, match="focal_gamma does nothing"):
        recipe(distill={"kd_lambda": 1}, training={"focal_gamma": 1.0})
    recipe(distill={"kd_lambda": 0.99}, training={"focal_gamma": 1.0})


# What live teachers hear ---------------------------------------------------------------------------------------------


def test_teachers_hear_the_very_batch_of_the_student():
    one, two, student = Recorder(), Recorder(), Recorder()
    module = classifier(
        student, LiveTeachers([LiveTeacher(one), LiveTeacher(two)]), distill={"teacher_on": "augmented"},
        augment={"mixstyle_p": 0.5, "crop_frames": 10},
    )  # fmt: skip
    module.train()
    loss = module.training_step(batch(), 0)
    (mine,) = student.heard
    assert mine.shape[-1] == 10 and not torch.equal(mine, batch()["features"][..., :10])
    assert torch.equal(one.heard[0], mine) and torch.equal(two.heard[0], mine)
    assert one.mode == [(False, False)] and student.mode == [(True, True)]
    loss.backward()
    assert one.weight.grad is None and student.weight.grad is not None


def test_teachers_of_whole_clips_hear_what_the_students_crop_is_of():
    teacher, student = Recorder(), Recorder()
    live = LiveTeachers([LiveTeacher(teacher)], whole=True)
    module = classifier(student, live, distill={"teacher_on": "augmented"}, augment={"crop_frames": 7})
    module.training_step(batch(), 0)
    whole, mine = teacher.heard[0], student.heard[0]
    assert whole.shape[-1] == FRAMES and mine.shape[-1] == 7
    for clip, crop in zip(whole, mine, strict=True):
        assert any(torch.equal(clip[..., i : i + 7], crop) for i in range(FRAMES - 6))
    # Masks and all came before: most of the clips are not what they were.
    assert not torch.equal(whole, batch()["features"])


OTHER = FrontEnd(
    sample_rate=RATE // 2, clip_samples=RATE // 2, n_fft=256, win_length=256, hop_length=160, n_mels=12, deltas=1
).with_normalization(np.full((2, 12), 0.1), np.full((2, 12), 0.3))
SAME_RATE = replace(OTHER, sample_rate=RATE, clip_samples=RATE)


@pytest.mark.parametrize("rate", [RATE, 2 * RATE])
def test_another_front_end_hears_the_same_augmented_waveform(rate):
    """With a gain, which is told from the sound itself, and a mix of two clips."""
    teacher, student, same = Recorder(), Recorder(), Recorder()
    parts = [LiveTeacher(teacher, OTHER), LiveTeacher(same)]
    module = classifier(
        student, LiveTeachers(parts, sample_rate=rate), distill={"teacher_on": "augmented"},
        augment=PLAIN | {"wave_gain_db": 20, "wave_roll_seconds": 0.2, "between_class": True, "mixup_alpha": 0.4},
    )  # fmt: skip
    made = waveforms(rate)
    step = module.augmentation
    seed = torch.Generator().manual_seed(module._seed(0) + 1)
    views = step.views(made, seed)
    module.training_step(made, 0)
    assert views.samples is not None and views.samples.shape == (6, rate) and views.feature_mix is not None
    assert not torch.equal(views.samples, made["waveform"])

    def by_numpy(front_end):
        import soxr

        sound = views.samples.numpy().astype(float)
        if rate != front_end.sample_rate:
            sound = [soxr.resample(clip, rate, front_end.sample_rate, quality="HQ") for clip in sound]
        made = [features(clip[: front_end.clip_samples], front_end) for clip in sound]
        return views.feature_mix(torch.from_numpy(np.stack(made))).numpy()

    for record, front_end in ((teacher, OTHER), (student, FRONT_END)):
        np.testing.assert_allclose(record.heard[0].numpy(), by_numpy(front_end), atol=2e-3)
    assert torch.equal(same.heard[0], student.heard[0])


def test_teachers_of_one_front_end_hear_once():
    live = LiveTeachers([LiveTeacher(Recorder(), SAME_RATE), LiveTeacher(Recorder(), SAME_RATE)], sample_rate=RATE)
    assert len(live.log_mels) == 1 and live.hears == [0, 0]


def test_teachers_are_told_their_own_numbers_of_the_devices():
    """The student's data numbers a, b, c; the teacher knows c and a. Mixed as the clips are."""
    teacher = Told()
    live = LiveTeachers([LiveTeacher(teacher, devices=("c", "a"))], devices=("a", "b", "c"))
    made = batch(4) | {"device": torch.tensor([0, 1, 2, -1])}
    step = classifier(None, live, n_devices=3, distill={"teacher_on": "augmented"}, augment=PLAIN)
    step.augmented(made, torch.Generator())
    assert teacher.told[0].tolist() == [[0, 1], [0, 0], [1, 0], [0, 0]]
    step = classifier(
        None, live, n_devices=3, distill={"teacher_on": "augmented"}, augment=PLAIN | {"mixup_alpha": 1.0}
    )
    views = step.augmentation.views(made, torch.Generator().manual_seed(5))
    step.augmented(made, torch.Generator().manual_seed(5))
    assert views.feature_mix is not None
    expected = views.feature_mix(torch.tensor([[0.0, 1], [0, 0], [1, 0], [0, 0]]))
    assert torch.allclose(teacher.told[1], expected)


def test_a_teacher_that_reads_no_device_learns_of_none():
    teacher = Recorder()
    made = batch(4) | {"device": torch.tensor([0, 1, 1, -1])}
    for live in (LiveTeachers([LiveTeacher(teacher)]), LiveTeachers([LiveTeacher(teacher)], devices=("a", "b"))):
        classifier(None, live, n_devices=2, distill={"teacher_on": "augmented"}).augmented(made, torch.Generator())
    assert teacher.told == [None, None]


def test_the_target_is_the_joined_answer_and_is_not_mixed_again():
    live = LiveTeachers([LiveTeacher(Recorder()), LiveTeacher(Recorder())])
    module = classifier(
        None, live, distill={"teacher_on": "augmented", "ensemble": "probabilities", "temperature": 3.0}, augment={}
    )
    x, _, soft, _ = module.augmented(batch(), torch.Generator().manual_seed(1))
    expected = (x.mean(dim=(1, 3))[:, :CLASSES] / 3).softmax(dim=1)  # both answer alike
    assert soft is not None and torch.allclose(soft, expected, atol=1e-6)


def test_features_without_waveform_transforms_are_those_of_the_clip():
    """The student's own, read from a waveform that a teacher of another front end needs."""
    step = AugmentedFeatures(Augment(), band_scale=torch.ones(1, BANDS), front_end=FRONT_END, wave_rate=RATE)
    made = waveforms(RATE)
    views = step.views(made, torch.Generator())
    expected = np.stack([features(clip.numpy().astype(float), FRONT_END) for clip in made["waveform"]])
    np.testing.assert_allclose(views.features.numpy(), expected, atol=1e-3)
    assert views.mixes == [] and isinstance(views.feature_mix, Mix | None)


# Training ------------------------------------------------------------------------------------------------------------


def cnn(seed, **shape):
    torch.manual_seed(seed)
    return build("atrous_cnn", n_classes=CLASSES, base_channels=4, head="average", **({"n_mels": BANDS} | shape)).eval()


def taught(**parts):
    return recipe(distill={"teacher_on": "augmented"} | parts.pop("distill", {}), **parts)


def test_a_killed_training_with_live_teachers_ends_with_the_same_bytes(tmp_path, stopping):
    def live():
        return LiveTeachers([LiveTeacher(cnn(1)), LiveTeacher(cnn(2))])

    whole, killed = Run(tmp_path / "whole"), Run(tmp_path / "killed")
    r = taught()
    fit(r, whole, DATA, teachers=live())
    with stopping(epoch=2), pytest.raises(Stop):
        fit(r, killed, DATA, teachers=live())
    fit(r, killed, DATA, teachers=live())
    assert weights(killed) == weights(whole) and plain(journal(killed)) == plain(journal(whole))
    fit(r, Run(tmp_path / "other"), DATA, teachers=LiveTeachers([LiveTeacher(cnn(3))]))
    assert weights(Run(tmp_path / "other")) != weights(whole)


@pytest.fixture
def sounds(tmp_path):
    """DATA from noise in files, a rate above the front end's."""
    rng = np.random.default_rng(3)
    files = []
    for i in range(24):
        files.append(tmp_path / f"{i}.npy")
        np.save(files[-1], 0.1 * rng.standard_normal(2 * RATE).astype(np.float32))
    part = DATA.train
    train = WaveformPart(
        part.features, part.labels, files=tuple(files), spans=(None,) * 24, dir_allowed=np.ones(24, bool)
    )
    return replace(DATA, train=train)


def test_a_killed_training_from_resampled_waveforms_ends_with_the_same_bytes(tmp_path, stopping, sounds):
    def live():
        return LiveTeachers([LiveTeacher(cnn(1), replace(FRONT_END, hop_length=300))], sample_rate=2 * RATE)

    r = taught(augment=PLAIN | {"wave_gain_db": 6, "mixup_alpha": 0.3}, training={"epochs": 2})
    whole, killed = Run(tmp_path / "whole"), Run(tmp_path / "killed")
    fit(r, whole, sounds, teachers=live())
    with stopping(epoch=1), pytest.raises(Stop):
        fit(r, killed, sounds, teachers=live())
    fit(r, killed, sounds, teachers=live())
    assert weights(killed) == weights(whole)


def test_teachers_are_frozen_and_in_no_checkpoint(tmp_path):
    teacher = cnn(1)
    before = copy.deepcopy(teacher.state_dict())
    run = Run(tmp_path / "run")
    fit(taught(training={"epochs": 1}), run, DATA, teachers=LiveTeachers([LiveTeacher(teacher)]))
    assert all(torch.equal(value, before[key]) for key, value in teacher.state_dict().items())
    student = build("sepconv_ca", n_classes=CLASSES, n_mels=BANDS, base_channels=8)
    kept, _ = load_weights(run.checkpoints / "last.ckpt")
    assert set(kept) == set(student.state_dict())
    assert b"_teachers" not in (run.checkpoints / "last.ckpt").read_bytes()


def test_mixed_precision_learns_from_live_teachers(tmp_path):
    r = taught(training={"epochs": 1, "precision": "bf16-mixed"})
    done = fit(r, Run(tmp_path), DATA, teachers=LiveTeachers([LiveTeacher(cnn(1))]))
    assert np.isfinite(done.validation["train_loss"])


# Attention transfer --------------------------------------------------------------------------------------------------


def test_attention_transfer_is_its_formula():
    rng = np.random.default_rng(0)
    s, t = rng.normal(size=(3, 5, 4, 6)), rng.normal(size=(3, 2, 8, 12))

    def attention(maps):
        strength = (maps**2).sum(axis=1)
        step = strength.shape[1] // 4
        pooled = strength.reshape(3, 4, step, 6, step).mean(axis=(2, 4)).reshape(3, -1)
        return pooled / np.linalg.norm(pooled, axis=1, keepdims=True)

    expected = ((attention(s) - attention(t)) ** 2).sum(axis=1).mean()
    assert float(attention_transfer(torch.from_numpy(s), torch.from_numpy(t))) == pytest.approx(expected, rel=1e-5)
    # Neither the number of channels, nor how strong a whole map is, plays a part.
    doubled = torch.from_numpy(np.concatenate([7 * s, 7 * s], axis=1))
    assert float(attention_transfer(doubled, torch.from_numpy(s))) == pytest.approx(0, abs=1e-10)


def first_map(module):
    return next(name for name, layer in module.named_modules() if isinstance(layer, torch.nn.Conv2d))


def test_the_features_loss_draws_the_students_maps_to_the_teachers(tmp_path):
    teacher = cnn(1)
    layer = first_map(teacher)
    distances = {}
    for weight in (1e-6, 100.0):
        layers = {"features": "attention", "feature_layers": [["blocks.0", layer]], "feature_weight": weight}
        r = taught(distill=layers | {"kd_lambda": 0.5}, augment=PLAIN, training={"select": "last", "epochs": 12})
        run = Run(tmp_path / str(weight))
        student = fit(r, run, DATA, teachers=LiveTeachers([LiveTeacher(teacher)])).module
        x = torch.from_numpy(DATA.train.features)
        with torch.inference_mode(), outputs_of(student, ["blocks.0"]) as own, outputs_of(teacher, [layer]) as theirs:
            student(x), teacher(x)
        distances[weight] = float(attention_transfer(own["blocks.0"], theirs[layer]))
    assert distances[100.0] < 0.7 * distances[1e-6]


def test_unknown_layers_and_layers_without_maps_are_refused_before_training(tmp_path):
    run = Run(tmp_path / "run")
    for layer, words in (("blocks.zero", "the student has no layer 'blocks.zero'; did you mean 'blocks"), ("", "''")):
        layers = {"features": "attention", "feature_layers": [[layer, "x"]]}
        with pytest.raises(InputError, match=words):
            fit(taught(distill=layers), run, DATA, teachers=LiveTeachers([LiveTeacher(cnn(1))]))
    assert not run.path.exists()
    teacher = cnn(1)
    linear = next(name for name, layer in teacher.named_modules() if isinstance(layer, torch.nn.Linear))
    with pytest.raises(InputError, match=rf"the teacher's '{linear}' puts out \(1, {CLASSES}\), no map"):
        check_maps(teacher, [linear], FRONT_END.shape, "teacher")
    assert not teacher.training and not any(layer._forward_hooks for layer in teacher.modules())
