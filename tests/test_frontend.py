from __future__ import annotations

import dataclasses
import json
import warnings

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from tinyasc.errors import InputError, ModelFileError
from tinyasc.frontend import (
    ADDED_FIELDS,
    FrontEnd,
    band_frequencies,
    features,
    fit_length,
    frame_times,
    log_mel,
    mel_filterbank,
    normalize,
)
from tinyasc.training.recipe_parts import FrontEndPart

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
    FrontEnd(pre_emphasis=0.97),
    FrontEnd(pre_emphasis=0.97, center=True, log=False),
    FrontEnd(stereo=True),
    FrontEnd(log=False),
    FrontEnd(deltas=1),
    FrontEnd(deltas=2, center=True, mel_scale="htk"),
    FrontEnd(deltas=2, stereo=True, clip_samples=2048 + 8 * 1024),  # one frame
    FrontEnd(deltas=1, log=False, stereo=True, window="hamming", win_length=1764, pre_emphasis=0.95),
]
DB_TOLERANCE = 1e-4
POWER_TOLERANCE = 1e-6  # of the channel's largest value


def changes(front_end: FrontEnd) -> str:
    base = dataclasses.asdict(BASE)
    return ",".join(f"{k}={v}" for k, v in dataclasses.asdict(front_end).items() if v != base[k]) or "default"


def clip(front_end: FrontEnd, rng: np.random.Generator) -> np.ndarray:
    """Noise that falls with frequency, a tone, and a silent stretch: from loud bands to the log's floor."""
    samples = 0.1 * np.cumsum(rng.standard_normal((front_end.sides, front_end.clip_samples)), axis=1) / 30
    samples += 0.3 * np.sin(2 * np.pi * 0.07 * np.arange(front_end.clip_samples))
    samples[:, front_end.clip_samples // 2 : front_end.clip_samples * 3 // 4] = 0
    return (samples if front_end.stereo else samples[0]).astype(np.float32)


def by_librosa(samples: np.ndarray, front_end: FrontEnd) -> np.ndarray:
    """The same maps from librosa alone; of its deltas the frames that its edges do not touch."""
    librosa = pytest.importorskip("librosa")
    maps = []
    for side in np.atleast_2d(samples).astype(np.float64):
        power = librosa.feature.melspectrogram(
            y=librosa.effects.preemphasis(side, coef=front_end.pre_emphasis, zi=[0.0]),
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
        maps.append(librosa.power_to_db(power, ref=1.0, amin=front_end.amin, top_db=None) if front_end.log else power)
    orders = [np.stack(maps)]
    for _ in range(front_end.deltas):
        orders.append(librosa.feature.delta(orders[-1], width=5)[..., 2:-2])
        orders[:-1] = [x[..., 2:-2] for x in orders[:-1]]
    return np.concatenate(orders)


@pytest.mark.parametrize("front_end", RECORDS, ids=changes)
def test_equals_librosa(front_end, rng):
    samples = clip(front_end, rng)
    wanted = by_librosa(samples, front_end)
    mel = log_mel(samples, front_end)
    assert mel.dtype == np.float32
    assert mel.shape == wanted.shape == front_end.shape
    for got, expected in zip(mel, wanted, strict=True):
        tolerance = DB_TOLERANCE if front_end.log else POWER_TOLERANCE * np.abs(expected).max()
        assert np.abs(got - expected).max() <= tolerance


# The front ends of published systems: what their papers say of rate, frames and channels.
SECONDS_10 = {"sample_rate": 44100, "clip_seconds": 10.0}
PUBLISHED = {
    "S1": (SECONDS_10 | {"window": "hamming", "hop_length": 2048 - 672, "n_mels": 64}, (1, 64, 320)),
    "S2": (
        {
            "sample_rate": 44100,
            "clip_seconds": 5.0,
            "win_length": 44100 * 40 // 1000,
            "hop_length": 44100 * 20 // 1000,
            "center": True,
            "pre_emphasis": 0.97,
            "window": "hamming",
            "log": False,
            "n_mels": 256,
        },
        (1, 256, 251),
    ),
    "S3 mono, 44.1 kHz": (
        SECONDS_10 | {"n_mels": 128, "mel_scale": "htk", "center": True, "deltas": 2},
        (3, 128, 423),
    ),
    "S3 stereo, 48 kHz": (
        {
            "sample_rate": 48000,
            "clip_seconds": 10.0,
            "n_mels": 128,
            "mel_scale": "htk",
            "center": True,
            "deltas": 2,
            "stereo": True,
        },
        (6, 128, 461),
    ),
    "S3 without deltas, 48 kHz": (
        {"sample_rate": 48000, "clip_seconds": 10.0, "n_mels": 128, "mel_scale": "htk", "center": True},
        (1, 128, 469),
    ),
    "S4": ({"sample_rate": 44100, "clip_seconds": 1.0, "n_mels": 256, "center": True}, (1, 256, 44)),
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_the_front_ends_of_published_systems(name, rng):
    options, shape = PUBLISHED[name]
    front_end = FrontEndPart.model_validate(options).record()
    assert front_end.shape == shape
    samples = clip(front_end, rng)
    maps = features(samples, front_end)
    assert maps.shape == shape
    np.testing.assert_allclose(
        maps, by_librosa(samples, front_end), rtol=1e-5, atol=DB_TOLERANCE if front_end.log else 1e-9 * maps.max()
    )


def test_deltas_are_those_of_the_definition(rng):
    """d[t] = sum over n = 1, 2 of n (x[t+n] - x[t-n]) / 10, written out; valid frames only, and once more."""

    def delta(x: np.ndarray) -> np.ndarray:
        frames = range(2, x.shape[-1] - 2)
        return np.stack([sum(n * (x[..., t + n] - x[..., t - n]) for n in (1, 2)) / 10 for t in frames], axis=-1)

    front_end = dataclasses.replace(BASE, deltas=2, stereo=True)
    samples = clip(front_end, rng)
    plain = log_mel(samples, dataclasses.replace(front_end, deltas=0)).astype(np.float64)
    first = delta(plain)
    wanted = np.concatenate([plain[..., 4:-4], first[..., 2:-2], delta(first)])
    np.testing.assert_allclose(log_mel(samples, front_end), wanted, atol=1e-4)


def test_a_steady_rise_has_a_steady_delta():
    """A tone that grows by 1 dB a frame: delta 1, delta-delta 0, in the tone's band."""
    front_end = dataclasses.replace(BASE, deltas=2)
    n = np.arange(front_end.clip_samples)
    samples = 1e-4 * 10 ** (n / front_end.hop_length / 20) * np.sin(2 * np.pi * 1000 * n / front_end.sample_rate)
    plain, first, second = log_mel(samples, front_end)
    band = plain.mean(axis=1).argmax()
    np.testing.assert_allclose(first[band], 1, atol=1e-2)
    np.testing.assert_allclose(second[band], 0, atol=1e-2)


def test_left_and_right_are_kept_apart(rng):
    front_end = dataclasses.replace(BASE, stereo=True)
    left, right = rng.standard_normal((2, BASE.clip_samples))
    both = log_mel(np.stack([left, right]), front_end)
    np.testing.assert_array_equal(both, np.concatenate([log_mel(left, BASE), log_mel(right, BASE)]))


def test_pre_emphasis_weighs_by_its_frequency_response(rng):
    """|1 - a exp(-jw)|^2 in power: a tone at the first quarter of the spectrum gains 10 log10(1 + a^2 - 2 a cos w)."""
    front_end = dataclasses.replace(BASE, pre_emphasis=0.97)
    tone = np.sin(2 * np.pi * 4000 * np.arange(BASE.clip_samples) / BASE.sample_rate)
    plain, weighed = log_mel(tone, BASE)[0], log_mel(tone, front_end)[0]
    band = plain.mean(axis=1).argmax()
    wanted = 10 * np.log10(1 + 0.97**2 - 2 * 0.97 * np.cos(2 * np.pi * 4000 / BASE.sample_rate))
    np.testing.assert_allclose((weighed - plain)[band, 1:], wanted, atol=1e-2)


def test_power_is_the_log_undone(rng):
    samples = rng.standard_normal(BASE.clip_samples)
    power = log_mel(samples, dataclasses.replace(BASE, log=False))
    np.testing.assert_allclose(10 * np.log10(power), log_mel(samples, BASE), atol=1e-4)
    assert not log_mel(np.zeros(BASE.clip_samples), dataclasses.replace(BASE, log=False)).any()


@pytest.mark.parametrize("mel_scale", ["slaney", "htk"])
@pytest.mark.parametrize("hz", [200, 1000, 5000])
def test_a_tone_peaks_in_its_band(mel_scale, hz):
    front_end = dataclasses.replace(BASE, mel_scale=mel_scale)
    samples = 0.5 * np.sin(2 * np.pi * hz * np.arange(front_end.clip_samples) / front_end.sample_rate)
    mel = log_mel(samples, front_end)[0].mean(axis=1)
    nearest_bin = round(hz * front_end.n_fft / front_end.sample_rate)
    assert mel.argmax() == mel_filterbank(front_end)[:, nearest_bin].argmax()


def test_twice_the_amplitude_is_6_db_more(rng):
    samples = rng.standard_normal(BASE.clip_samples)
    np.testing.assert_allclose(log_mel(2 * samples, BASE) - log_mel(samples, BASE), 20 * np.log10(2), atol=1e-4)


def test_silence_is_the_floor():
    assert (log_mel(np.zeros(BASE.clip_samples, np.float32), BASE) == -100).all()


@pytest.mark.parametrize("options", [{}, {"deltas": 2}, {"deltas": 1, "stereo": True, "log": False}], ids=str)
def test_without_centring_a_stretch_of_the_clip_gives_a_stretch_of_the_frames(options, rng):
    front_end = dataclasses.replace(BASE, **options)
    samples = clip(front_end, rng)
    whole, part = log_mel(samples, front_end), log_mel(samples[..., 3 * BASE.hop_length :], front_end)
    np.testing.assert_array_equal(whole[..., 3:], part)


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
    mel = rng.uniform(-100, 0, (3, 1, BASE.n_mels, 7)).astype(np.float32)
    pairs = [(rng.uniform(0.5, 2, BASE.n_mels), rng.uniform(-5, 5, BASE.n_mels)) for _ in range(2)]
    both = BASE.with_normalization(*pairs[0]).with_normalization(*pairs[1])
    wanted = mel
    for scale, offset in pairs:
        wanted = wanted * scale[:, None] + offset[:, None]
    np.testing.assert_allclose(normalize(mel, both), wanted, atol=1e-3)


def test_normalization_by_mean_and_deviation_gives_zero_and_one(rng):
    mel = log_mel(rng.standard_normal(BASE.clip_samples), BASE)
    mean, deviation = mel.mean(axis=2), mel.std(axis=2)
    normal = normalize(mel, BASE.with_normalization(1 / deviation, -mean / deviation))
    np.testing.assert_allclose(normal.mean(axis=2), 0, atol=1e-4)
    np.testing.assert_allclose(normal.std(axis=2), 1, atol=1e-4)


def test_every_channel_has_its_own_normalization(rng):
    """(channels, n_mels) for each its own, (n_mels,) for all alike; both append."""
    front_end = dataclasses.replace(BASE, deltas=2)
    samples = rng.standard_normal(BASE.clip_samples)
    scale, offset = rng.uniform(0.5, 2, (3, BASE.n_mels)), rng.uniform(-5, 5, (3, BASE.n_mels))
    again, more = rng.uniform(0.5, 2, BASE.n_mels), rng.uniform(-5, 5, BASE.n_mels)
    normal = front_end.with_normalization(scale, offset).with_normalization(again, more)
    assert len(normal.band_scale) == len(normal.band_offset) == 3 * BASE.n_mels
    wanted = (log_mel(samples, front_end) * scale[..., None] + offset[..., None]) * again[:, None] + more[:, None]
    np.testing.assert_allclose(features(samples, normal), wanted, atol=1e-3)
    assert normal.without_normalization() == front_end


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
        ("pre_emphasis", 1.0, "pre_emphasis"),
        ("pre_emphasis", -0.1, "pre_emphasis"),
        ("pre_emphasis", float("nan"), "pre_emphasis"),
        ("deltas", 3, "deltas"),
        ("deltas", -1, "deltas"),
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
    stereo = dataclasses.replace(BASE, stereo=True)
    for shape in ((BASE.clip_samples,), (1, BASE.clip_samples), (3, BASE.clip_samples), (BASE.clip_samples, 2)):
        with pytest.raises(InputError, match="left and right"):
            log_mel(np.zeros(shape), stereo)
    with pytest.raises(InputError, match=r"fewer than one frame of features takes \(10240\)"):
        log_mel(np.zeros(10239), dataclasses.replace(BASE, deltas=2))
    assert log_mel(np.zeros(10240), dataclasses.replace(BASE, deltas=2)).shape == (3, 64, 1)


def test_a_clip_too_short_for_its_deltas_is_refused():
    with pytest.raises(InputError, match="takes 10240 samples, got 10239"):
        dataclasses.replace(BASE, deltas=2, clip_samples=10239)


def test_bands_without_an_fft_bin_are_refused():
    with pytest.raises(InputError, match=r"12 of 256 mel bands hold no FFT bin.*band 0.*lower n_mels, or raise n_fft"):
        FrontEnd(mel_scale="htk", n_mels=256, n_fft=1024, win_length=1024)


@settings(max_examples=100, deadline=None)
@given(
    st.sampled_from((8000, 16000, 22050, 44100, 48000)),
    st.sampled_from((256, 400, 511, 1024, 2048)),
    st.integers(1, 256),
    st.sampled_from((0.0, 20.0, 50.0, 300.0)),
    st.sampled_from((None, 3000.0)),
    st.booleans(),
)
def test_refused_are_the_records_of_which_librosa_has_empty_filters(rate, n_fft, n_mels, fmin, fmax, htk):
    librosa = pytest.importorskip("librosa")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # librosa's own, of the empty filters
        heights = librosa.filters.mel(
            sr=rate, n_fft=n_fft, n_mels=n_mels, fmin=fmin, fmax=fmax, htk=htk, norm=None, dtype=np.float64
        ).max(axis=1)
    assume(not ((heights > 0) & (heights < 1e-5)).any())  # a corner on a bin, but for rounding
    options = {"n_fft": n_fft, "win_length": n_fft, "n_mels": n_mels, "fmin": fmin, "fmax": fmax}
    options |= {"sample_rate": rate, "mel_scale": "htk" if htk else "slaney"}
    if (heights == 0).any():
        with pytest.raises(InputError, match=f"{(heights == 0).sum()} of {n_mels} mel bands hold no FFT bin"):
            FrontEnd(**options)
    else:
        FrontEnd(**options)


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
        {"stereo": 1},
        {"log": "yes"},
        {"deltas": 2.0},
        {"deltas": 5},
        {"pre_emphasis": "0.97"},
    ],
    ids=str,
)
def test_a_damaged_record_is_refused(damage):
    with pytest.raises(ModelFileError, match=r"m\.tflite"):
        FrontEnd.from_dict(BASE.to_dict() | damage, where="m.tflite")


# As model files held it before pre_emphasis, stereo, log and deltas.
OLD_RECORD = (
    '{"sample_rate": 16000, "clip_samples": 80000, "n_fft": 1024, "win_length": 1024, "hop_length": 640, '
    '"window": "hann", "center": false, "n_mels": 2, "fmin": 50.0, "fmax": null, "mel_scale": "slaney", '
    '"amin": 1e-10, "band_scale": [0.1, 0.2], "band_offset": [1.0, 2.0], "arithmetic": "reference"}'
)


def test_an_old_record_means_what_it_meant():
    old = FrontEnd.from_dict(json.loads(OLD_RECORD))
    assert (old.pre_emphasis, old.stereo, old.log, old.deltas) == (0.0, False, True, 0)
    assert old.shape == (1, 2, 124) and old.band_scale == (0.1, 0.2)


@pytest.mark.parametrize("field", [f.name for f in dataclasses.fields(FrontEnd) if f.name not in ADDED_FIELDS])
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


@pytest.mark.parametrize("deltas", [0, 1, 2])
@pytest.mark.parametrize("center", [False, True])
@pytest.mark.parametrize("extra", [0, 1, 1023, 1024, 5000])
def test_n_frames_is_what_comes_out(center, extra, deltas):
    front_end = dataclasses.replace(BASE, center=center, deltas=deltas)
    n = front_end.least_samples + extra
    assert log_mel(np.zeros(n), front_end).shape[2] == front_end.n_frames(n) == 1 + extra // 1024
    assert front_end.n_frames(front_end.least_samples - 1) == 0
    assert dataclasses.replace(BASE, center=center).n_frames(0) == (1 if center else 0)


@pytest.mark.parametrize("scale", ["slaney", "htk"])
def test_band_frequencies_are_librosas(scale):
    librosa = pytest.importorskip("librosa")
    front_end = dataclasses.replace(BASE, mel_scale=scale, fmin=50.0, fmax=8000.0)
    edges = librosa.mel_frequencies(n_mels=front_end.n_mels + 2, fmin=50.0, fmax=8000.0, htk=scale == "htk")
    np.testing.assert_allclose(band_frequencies(front_end), edges[1:-1], rtol=1e-6)


@pytest.mark.parametrize("deltas", [0, 2])
@pytest.mark.parametrize("center", [False, True])
def test_a_click_is_loudest_in_the_frame_of_its_time(center, deltas):
    front_end = dataclasses.replace(BASE, center=center, deltas=deltas)
    times = frame_times(front_end)
    assert len(times) == front_end.n_frames()
    for frame in (0, 7, len(times) - 1):
        click = np.zeros(front_end.clip_samples)
        click[round(times[frame] * front_end.sample_rate)] = 1
        assert log_mel(click, front_end)[0].sum(axis=0).argmax() == frame


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("fmax", {}),
        ("fmax", ""),
        ("fmax", False),
        ("amin", "1e-10"),
        ("amin", True),
        ("window", 7),
        ("sample_rate", 10**400),
        ("sample_rate", 2**31),
        ("n_fft", 2**20),
        ("n_mels", 2**20),
        ("clip_samples", 2**40),
        ("hop_length", 1),
        ("band_scale", [1e300] * 64),
        ("band_offset", "x" * 64),
        ("pre_emphasis", None),
    ],
)
def test_damaged_records_are_refused_and_take_no_memory(field, value):
    record = FrontEnd().to_dict() | {"clip_samples": 2**24} | {field: value}
    with pytest.raises(ModelFileError, match="its front-end record cannot be used"):
        FrontEnd.from_dict(record, "m")


def test_features_beyond_float32_are_refused_without_a_warning(recwarn):
    loud = np.full(FrontEnd().clip_samples, 3e38, np.float32)
    assert np.isfinite(features(loud, FrontEnd())).all()
    with pytest.raises(InputError, match="far beyond full scale"):
        features(loud, FrontEnd(log=False))
    assert not recwarn.list
