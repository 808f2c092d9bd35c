from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest

from tinyasc.errors import InputError, ModelFileError
from tinyasc.frontend import FrontEnd, features, fit_length, log_mel, mel_filterbank, normalize

BASE = FrontEnd()

# One change at a time, and a few recipes of the field.
RECORDS = [
    FrontEnd(),
    FrontEnd(center=True),
    FrontEnd(mel_scale="htk"),
    FrontEnd(window="hamming"),
    FrontEnd(window="hamming", mel_scale="htk", center=True),
    FrontEnd(win_length=1400),
    FrontEnd(n_mels=256, n_fft=4096, win_length=4096),
    FrontEnd(fmin=50, fmax=14000),
    FrontEnd(amin=1e-5),
    FrontEnd(sample_rate=44100, clip_samples=44100, n_mels=128, hop_length=512),
    FrontEnd(sample_rate=8000, clip_samples=12345, n_fft=256, win_length=200, hop_length=80, n_mels=20),
    FrontEnd(
        sample_rate=16000,
        clip_samples=16001,
        n_fft=400,
        win_length=400,
        hop_length=160,
        n_mels=40,
        center=True,
    ),
    FrontEnd(sample_rate=32000, clip_samples=32000, n_fft=999, win_length=777, hop_length=333, n_mels=32),
    FrontEnd(sample_rate=32000, clip_samples=4096, n_fft=4096, win_length=4096, hop_length=4096),
]


def changes(front_end: FrontEnd) -> str:
    base = dataclasses.asdict(BASE)
    return ",".join(f"{k}={v}" for k, v in dataclasses.asdict(front_end).items() if v != base[k]) or "default"


def clip(front_end: FrontEnd, rng: np.random.Generator) -> np.ndarray:
    """Noise that falls with frequency, a tone, and a silent stretch: from loud bands to the log's floor."""
    samples = 0.1 * np.cumsum(rng.standard_normal(front_end.clip_samples)) / 30
    samples += 0.3 * np.sin(2 * np.pi * 0.07 * np.arange(len(samples)))
    samples[len(samples) // 2 : len(samples) * 3 // 4] = 0
    return samples.astype(np.float32)


@pytest.mark.parametrize("front_end", RECORDS, ids=changes)
def test_equals_librosa(front_end, rng):
    librosa = pytest.importorskip("librosa")
    samples = clip(front_end, rng)
    power = librosa.feature.melspectrogram(
        y=samples.astype(np.float64),
        sr=front_end.sample_rate,
        n_fft=front_end.n_fft,
        hop_length=front_end.hop_length,
        win_length=front_end.win_length,
        window=front_end.window,
        center=front_end.center,
        pad_mode="constant",
        n_mels=front_end.n_mels,
        fmin=front_end.fmin,
        fmax=front_end.fmax,
        htk=front_end.mel_scale == "htk",
        norm="slaney" if front_end.mel_scale == "slaney" else None,
        dtype=np.float64,
    )
    wanted = librosa.power_to_db(power, ref=1.0, amin=front_end.amin, top_db=None)
    mel = log_mel(samples, front_end)
    assert mel.dtype == np.float32
    assert mel.shape == wanted.shape == (front_end.n_mels, front_end.n_frames())
    assert np.abs(mel - wanted).max() <= 1e-4


@pytest.mark.parametrize("mel_scale", ["slaney", "htk"])
@pytest.mark.parametrize("hz", [200, 1000, 5000])
def test_a_tone_peaks_in_its_band(mel_scale, hz):
    front_end = dataclasses.replace(BASE, mel_scale=mel_scale)
    samples = 0.5 * np.sin(2 * np.pi * hz * np.arange(front_end.clip_samples) / front_end.sample_rate)
    mel = log_mel(samples, front_end).mean(axis=1)
    nearest_bin = round(hz * front_end.n_fft / front_end.sample_rate)
    assert mel.argmax() == mel_filterbank(front_end)[:, nearest_bin].argmax()


def test_twice_the_amplitude_is_6_db_more(rng):
    samples = rng.standard_normal(BASE.clip_samples)
    np.testing.assert_allclose(log_mel(2 * samples, BASE) - log_mel(samples, BASE), 20 * np.log10(2), atol=1e-4)


def test_silence_is_the_floor():
    assert (log_mel(np.zeros(BASE.clip_samples, np.float32), BASE) == -100).all()


def test_without_centring_a_stretch_of_the_clip_gives_a_stretch_of_the_frames(rng):
    samples = rng.standard_normal(BASE.clip_samples)
    whole, part = log_mel(samples, BASE), log_mel(samples[3 * BASE.hop_length :], BASE)
    np.testing.assert_array_equal(whole[:, 3:], part)


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.float16])
def test_any_float_type(dtype, rng):
    samples = (0.1 * rng.standard_normal(BASE.clip_samples)).astype(dtype)
    np.testing.assert_array_equal(log_mel(samples, BASE), log_mel(samples.astype(np.float64), BASE))


def test_band_normalization(rng):
    scale, offset = rng.uniform(0.5, 2, BASE.n_mels), rng.uniform(-5, 5, BASE.n_mels)
    front_end = BASE.with_normalization(scale, offset)
    samples = rng.standard_normal(BASE.clip_samples)
    mel = log_mel(samples, front_end)
    np.testing.assert_array_equal(mel, log_mel(samples, BASE))
    np.testing.assert_allclose(features(samples, front_end), mel * scale[:, None] + offset[:, None], atol=1e-3)
    assert features(samples, front_end).dtype == np.float32
    assert front_end.without_normalization() == BASE


def test_normalizations_append(rng):
    mel = rng.uniform(-100, 0, (3, BASE.n_mels, 7)).astype(np.float32)
    pairs = [(rng.uniform(0.5, 2, BASE.n_mels), rng.uniform(-5, 5, BASE.n_mels)) for _ in range(2)]
    both = BASE.with_normalization(*pairs[0]).with_normalization(*pairs[1])
    wanted = mel
    for scale, offset in pairs:
        wanted = wanted * scale[:, None] + offset[:, None]
    np.testing.assert_allclose(normalize(mel, both), wanted, atol=1e-3)


def test_normalization_by_mean_and_deviation_gives_zero_and_one(rng):
    mel = log_mel(rng.standard_normal(BASE.clip_samples), BASE)
    mean, deviation = mel.mean(axis=1), mel.std(axis=1)
    normal = normalize(mel, BASE.with_normalization(1 / deviation, -mean / deviation))
    np.testing.assert_allclose(normal.mean(axis=1), 0, atol=1e-4)
    np.testing.assert_allclose(normal.std(axis=1), 1, atol=1e-4)


@pytest.mark.parametrize(
    ("field", "value", "words"),
    [
        ("sample_rate", 0, "sample_rate must be positive"),
        ("sample_rate", -1, "sample_rate must be positive"),
        ("win_length", 0, "win_length"),
        ("win_length", 4096, "win_length"),
        ("hop_length", 0, "hop_length"),
        ("clip_samples", 2047, "clip_samples"),
        ("n_mels", 0, "n_mels"),
        ("fmin", -1.0, "fmin"),
        ("fmin", 16000.0, "fmin"),
        ("fmax", 16001.0, "fmax"),
        ("fmin", float("nan"), "fmin"),
        ("window", "kaiser", "window"),
        ("mel_scale", "bark", "mel_scale"),
        ("arithmetic", "posit", "arithmetic"),
        ("amin", 0.0, "amin"),
        ("band_scale", (1.0,), "band_scale"),
        ("band_offset", (1.0, 2.0), "band_offset"),
    ],
)
def test_bad_records_are_refused(field, value, words):
    with pytest.raises(InputError, match=words) as caught:
        dataclasses.replace(BASE, **{field: value})
    assert str(value) in str(caught.value) or field.startswith("band")


def test_samples_of_the_wrong_shape_are_refused():
    with pytest.raises(InputError, match="mix channels down"):
        log_mel(np.zeros((2, BASE.clip_samples)), BASE)
    with pytest.raises(InputError, match="fewer than one frame"):
        log_mel(np.zeros(BASE.n_fft - 1), BASE)


@pytest.mark.parametrize("front_end", [*RECORDS, BASE.with_normalization(np.ones(64), np.arange(64) / 3)], ids=changes)
def test_the_record_survives_json(front_end):
    values = json.loads(json.dumps(front_end.to_dict()))
    again = FrontEnd.from_dict(values)
    assert again == front_end
    assert hash(again) == hash(front_end)


@pytest.mark.parametrize(
    "damage",
    [
        {"n_mels": 0},
        {"n_mels": "64"},
        {"n_mels": None},
        {"sample_rate": []},
        {"band_scale": ["x"] * 64},
        {"band_scale": [1.0]},
        {"window": {}},
        {"n_fft": 1024.0},
        {"band_scale": [float("nan")] * 64},
        {"dither": 1},
    ],
    ids=str,
)
def test_a_damaged_record_is_refused(damage):
    with pytest.raises(ModelFileError, match=r"m\.tflite"):
        FrontEnd.from_dict(BASE.to_dict() | damage, where="m.tflite")


@pytest.mark.parametrize("field", [f.name for f in dataclasses.fields(FrontEnd)])
def test_a_missing_field_is_named(field):
    values = BASE.to_dict()
    del values[field]
    with pytest.raises(ModelFileError, match=field):
        FrontEnd.from_dict(values)


def test_fit_length():
    samples = np.arange(5)
    np.testing.assert_array_equal(fit_length(samples, 3), [0, 1, 2])
    np.testing.assert_array_equal(fit_length(samples, 7), [0, 1, 2, 3, 4, 0, 0])
    assert fit_length(np.ones((4, 5)), 8).shape == (4, 8)
    assert fit_length(np.zeros(0), 3).shape == (3,)


@pytest.mark.parametrize("center", [False, True])
@pytest.mark.parametrize("extra", [0, 1, 1023, 1024, 5000])
def test_n_frames_is_what_comes_out(center, extra):
    front_end = dataclasses.replace(BASE, center=center)
    n = BASE.n_fft + extra
    assert log_mel(np.zeros(n), front_end).shape[1] == front_end.n_frames(n)
    assert front_end.n_frames(0) == (1 if center else 0)
