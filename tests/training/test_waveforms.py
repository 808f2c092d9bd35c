"""Training from waveforms: what is cached, that it is the sound of the features, and that a kill changes nothing."""

import dataclasses
import os

import numpy as np
import pytest
import soundfile
import torch
from lightning.pytorch.callbacks import Callback

from tinyasc.audio import read_audio
from tinyasc.errors import InputError
from tinyasc.frontend_torch import LogMel
from tinyasc.training import fit as fit_module
from tinyasc.training.augmentation import AugmentedFeatures, gain_scale
from tinyasc.training.features import Part, loader, prepare
from tinyasc.training.fit import fit
from tinyasc.training.recipe import check_recipe
from tinyasc.training.run import Run
from tinyasc.training.waveforms import WaveformPart, cache_waveforms, with_waveforms

# A front end of one channel has no normalisation for two.
NO_SCALE = {"band_scale": (), "band_offset": ()}


def recipe(root, **augment):
    return check_recipe(
        {
            "name": "waves",
            "data": {"name": "tau2020", "root": str(root)},
            "front_end": {"sample_rate": 16000, "clip_seconds": 0.1, "n_fft": 128, "hop_length": 64, "n_mels": 16},
            "model": {"family": "sepconv_ca", "base_channels": 8},
            "training": {"epochs": 3, "batch_size": 8, "lr": 0.01},
            "augment": augment,
        },
        "",
    )


@pytest.fixture
def prepared(tau_root, tmp_path, monkeypatch):
    """A recipe's data with waveforms, cached below the test's folder."""
    monkeypatch.setenv("TINYASC_CACHE", str(tmp_path / "cache"))

    def get(**augment):
        r = recipe(tau_root, **augment)
        assert r.data is not None and r.front_end is not None
        return with_waveforms(prepare(r.data, r.front_end.record()), r), r

    return get


def test_a_recipe_without_waveform_transforms_holds_none(prepared, tmp_path):
    data, _ = prepared(roll=True, mixup_alpha=0.3)
    assert type(data.train) is Part
    assert not list((tmp_path / "cache").glob("waveforms-*"))


def test_the_cached_waveforms_are_the_clips_and_give_their_features(prepared):
    data, _ = prepared(wave_gain_db=3)
    assert isinstance(data.train, WaveformPart) and type(data.validation) is Part
    batches = list(loader(data.train, 5, seed=None))
    samples = torch.cat([b["waveform"] for b in batches])
    for row, clip in zip(samples, data.split.train, strict=True):
        assert np.array_equal(row.numpy(), read_audio(clip.path, 16000))
    assert torch.equal(torch.cat([b["label"] for b in batches]), torch.from_numpy(data.train.labels))
    features = LogMel(data.front_end).double()(samples)
    np.testing.assert_allclose(features.numpy(), data.train.features, atol=1e-4)


def test_nothing_is_decoded_twice_and_damage_is_mended(prepared, tmp_path, monkeypatch):
    data, _ = prepared(wave_gain_db=3)
    files = sorted((tmp_path / "cache").glob("waveforms-16000-*/*.npy"))
    assert len(files) == len(set(data.train.files)) == len(data.split.train)
    times = [f.stat().st_mtime_ns for f in files]
    whole = files[0].read_bytes()
    for damage in (whole[:-7], b"", b"\x93NUMPY rubbish"):
        files[0].write_bytes(damage)
        again, _ = prepared(wave_gain_db=3)
        assert files[0].read_bytes() == whole
        assert [f.stat().st_mtime_ns for f in files[1:]] == times[1:]
        assert again.identity == data.identity


def test_a_file_that_changed_is_decoded_again_and_one_that_went_is_named(prepared, tau_root, tmp_path):
    data, _ = prepared(wave_gain_db=3)
    path = data.split.train[3].path
    soundfile.write(path, 0.2 * np.ones(900), 8000)
    again, _ = prepared(wave_gain_db=3)
    assert [a == b for a, b in zip(data.train.files, again.train.files, strict=True)].count(False) == 1
    assert len(np.load(again.train.files[3])) == 1800 and again.identity != data.identity
    with pytest.raises(InputError, match=r"gone\.wav: cannot be read"):
        cache_waveforms([tmp_path / "gone.wav"], 16000, tmp_path)


def test_parts_of_a_recording_share_its_file(tau_root, tmp_path, monkeypatch):
    monkeypatch.setenv("TINYASC_CACHE", str(tmp_path / "cache"))
    rows = ["filename,label,fold,start,end"]
    for i, path in enumerate(sorted((tau_root / "audio").iterdir())):
        label = path.name.split("-")[0]
        rows += [f"tau/audio/{path.name},{label},{i % 3 + 1},{start},{start + 0.04}" for start in (0.0, 0.05)]
    root = tau_root.parent / "clips.csv"
    root.write_text("\n".join(rows).replace("tau/", f"{tau_root.name}/"))
    values = recipe(root, wave_gain_db=3.0).model_dump()
    r = check_recipe(values | {"data": {"name": "csv", "root": str(root)}}, "")
    data = with_waveforms(prepare(r.data, r.front_end.record()), r)
    clips = data.split.train
    assert len(set(data.train.files)) == len(clips) / 2 and all(clip.segment for clip in clips)
    (batch,) = loader(data.train, 1000, seed=None)
    for row, length, clip in zip(batch["waveform"], batch["length"], clips, strict=True):
        start, end = (round(16000 * second) for second in clip.segment)
        assert length == end - start == 640
        np.testing.assert_array_equal(row.numpy(), read_audio(clip.path, 16000)[start:end])


def test_final_runs_train_on_the_waveforms_of_both_sets(tau_root, tmp_path, monkeypatch):
    monkeypatch.setenv("TINYASC_CACHE", str(tmp_path / "cache"))
    mics = tmp_path / "mics"
    mics.mkdir()
    soundfile.write(mics / "m.wav", [1.0, 0.5], 16000)
    values = recipe(tau_root, dir_prob=0.5, dirs=str(mics), dir_devices=("a",)).model_dump()
    r = check_recipe(values | {"training": {"epochs": 1, "final": True, "select": "last"}}, "")
    data = with_waveforms(prepare(r.data, r.front_end.record()), r)
    both, clips = data.trained_on(final=True), (*data.split.train, *data.split.validation)
    assert len(both.labels) == len(clips) == len(both.features) == 16
    (batch,) = loader(both, 100, seed=None)
    for row, clip in zip(batch["waveform"], clips, strict=True):
        assert np.array_equal(row.numpy(), read_audio(clip.path, 16000))
    assert batch["label"].tolist() == [data.labels.index(clip.scene) for clip in clips]
    assert batch["dir_allowed"].tolist() == [clip.device == "a" for clip in clips]
    assert "train_loss" in fit(r, Run(tmp_path / "final"), data).validation


def test_mixed_lengths_are_padded_and_told(prepared, tau_root):
    path = tau_root / "audio/bus-lyon-0-a.wav"
    soundfile.write(path, 0.1 * np.ones(2000), 8000)
    data, _ = prepared(wave_crop=True)
    index = next(i for i, clip in enumerate(data.split.train + data.split.validation) if clip.path == path)
    if index >= len(data.split.train):
        pytest.skip("the longer clip fell into validation")
    other = (index + 1) % len(data.split.train)
    made = data.train.batch([index, other])
    assert made["length"].tolist() == [4000, 1600] and made["waveform"].shape == (2, 4000)
    assert not made["waveform"][1, 1600:].any() and made["waveform"][1, :1600].any()


def test_impulse_responses_go_to_the_named_devices_and_into_the_identity(prepared, tmp_path):
    mics = tmp_path / "mics"
    mics.mkdir()
    soundfile.write(mics / "m.wav", [1.0, 0.5], 16000)
    data, r = prepared(dir_prob=0.5, dirs=str(mics), dir_devices=["a"])
    assert data.train.dir_allowed.tolist() == [clip.device == "a" for clip in data.split.train]
    assert 0 < data.train.dir_allowed.sum() < len(data.split.train)
    every, _ = prepared(dir_prob=0.5, dirs=str(mics))
    assert every.train.dir_allowed.all() and every.identity != data.identity
    soundfile.write(mics / "n.wav", [1.0, -0.5], 16000)
    assert prepared(dir_prob=0.5, dirs=str(mics))[0].identity != every.identity
    with pytest.raises(InputError, match=r"no training clip is of device 'A'; the devices are a, b"):
        prepared(dir_prob=0.5, dirs=str(mics), dir_devices=["A"])
    nameless = dataclasses.replace(
        data,
        split=dataclasses.replace(data.split, train=tuple(dataclasses.replace(c, device="") for c in data.split.train)),
    )
    with pytest.raises(InputError, match="not named in this data set; leave dir_devices out"):
        with_waveforms(nameless, r)


class Stop(BaseException):
    """Ends training as abruptly as a kill."""


class StopIn(Callback):
    def __init__(self, epoch):
        self.epoch = epoch

    def on_train_epoch_start(self, trainer, *_):
        if trainer.current_epoch == self.epoch:
            raise Stop


ALL = {
    "time_scale": 1.25, "wave_crop": True, "wave_crop_padding": 0.5, "wave_roll_seconds": 0.01, "noise_prob": 0.5,
    "between_class": True, "wave_gain_db": 6, "roll_sigma": 2, "mixstyle_p": 0.5, "mixup_alpha": 0.3, "time_mask": 3,
    "freq_mask": 3, "mask_mode": "mixture",
}  # fmt: skip


def test_a_killed_training_from_waveforms_ends_with_the_same_bytes(prepared, tmp_path, monkeypatch):
    data, r = prepared(**ALL, mask_layers=["blocks.0"])
    fit(r, Run(tmp_path / "unbroken"), data)
    real = fit_module.L.Trainer
    with monkeypatch.context() as patch:
        patch.setattr(fit_module.L, "Trainer", lambda *, callbacks, **o: real(callbacks=[*callbacks, StopIn(2)], **o))
        with pytest.raises(Stop):
            fit(r, Run(tmp_path / "killed"), data)
    fit(r, Run(tmp_path / "killed"), data)
    first, second = ((tmp_path / name / "model.safetensors").read_bytes() for name in ("unbroken", "killed"))
    assert first == second


def test_a_crop_too_long_or_too_short_is_refused_before_training(prepared, tmp_path):
    data, r = prepared(crop_frames=30)
    with pytest.raises(InputError, match="cannot crop 30 frames out of 24"):
        fit(r, Run(tmp_path / "long"), data)
    data, r = prepared(crop_frames=1)
    with pytest.raises(InputError, match="cannot take 16 mels x 1 frames"):
        fit(r, Run(tmp_path / "short"), data)


def test_stereo_is_refused_before_anything_is_decoded(prepared, tmp_path):
    data, r = prepared()
    stereo = dataclasses.replace(data, front_end=dataclasses.replace(data.front_end, stereo=True, **NO_SCALE))
    r = r.model_copy(update={"augment": r.augment.model_copy(update={"wave_gain_db": 3.0})})
    with pytest.raises(InputError, match=r"take one channel and front_end\.stereo is on"):
        with_waveforms(stereo, r)
    assert not list((tmp_path / "cache").glob("waveforms-*"))


def test_deltas_of_waveforms_are_those_of_the_cached_features(prepared):
    _, r = prepared()
    r = r.model_copy(
        update={
            "front_end": r.front_end.model_copy(update={"deltas": 1}),
            "augment": r.augment.model_copy(update={"noise_prob": 1e-12}),
        }
    )
    data = with_waveforms(prepare(r.data, r.front_end.record()), r)
    (batch,) = loader(data.train, 100, seed=None)
    step = AugmentedFeatures(r.augment, band_scale=gain_scale(data.front_end), front_end=data.front_end)
    x, _ = step(batch, torch.Generator().manual_seed(0))
    assert x.shape[1] == 2
    np.testing.assert_allclose(x.numpy(), data.train.features, atol=1e-3)


def test_waveforms_of_files_that_swap_names(tmp_path, rng):
    files = [tmp_path / "a.wav", tmp_path / "b.wav"]
    for file in files:
        soundfile.write(file, 0.1 * rng.standard_normal(800), 16000)
        os.utime(file, ns=(10**18, 10**18))
    first = [np.load(f) for f in cache_waveforms(files, 16000, tmp_path / "cache")]
    files[0].rename(tmp_path / "x")
    files[1].rename(files[0])
    (tmp_path / "x").rename(files[1])
    second = [np.load(f) for f in cache_waveforms(files, 16000, tmp_path / "cache")]
    np.testing.assert_array_equal(second, first[::-1])
    assert not np.array_equal(*first)
