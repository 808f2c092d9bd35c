"""The torch front end against its numpy definition."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from tinyasc.errors import InputError
from tinyasc.frontend import FrontEnd, features, fit_length, mel_filterbank, window
from tinyasc.frontend_torch import LogMel

# float64 against float64, both rounded to float32 at the end: dB, and a share of the largest power.
DB_TOLERANCE = 1e-4
POWER_TOLERANCE = 1e-6
BASE = {"sample_rate": 16000, "clip_samples": 8000, "n_fft": 512, "win_length": 512, "hop_length": 256, "n_mels": 40}


def record(**options) -> FrontEnd:
    return FrontEnd(**(BASE | options))


def normalized(front_end: FrontEnd) -> FrontEnd:
    rng = np.random.default_rng(3)
    shape = (front_end.channels, front_end.n_mels)
    return front_end.with_normalization(rng.uniform(0.02, 0.2, shape), rng.uniform(-3, 3, shape))


def sounds(length: int, *, stereo: bool = False) -> np.ndarray:
    """Noise, faint noise, and tones in noise. (clips, length) float64, or (clips, 2, length)."""
    rng = np.random.default_rng(4)
    noise = rng.standard_normal((3, length))
    t = np.arange(length) / 16000
    tones = sum(0.3 / n * np.sin(2 * np.pi * 220 * n * t) for n in range(1, 20))
    clips = np.stack([0.3 * noise[0], 1e-3 * noise[1], tones + 1e-2 * noise[2]])
    return np.stack([clips, 0.5 * clips[::-1]], axis=1) if stereo else clips


def assert_twins(front_end: FrontEnd, samples: np.ndarray, dtype: torch.dtype, atol: float) -> None:
    module = LogMel(front_end).to(dtype)
    actual = module(torch.from_numpy(samples).to(dtype))
    assert actual.dtype == dtype
    expected = np.stack([features(clip, front_end) for clip in samples])
    frames = front_end.n_frames(samples.shape[-1])
    assert actual.shape == expected.shape == (len(samples), front_end.channels, front_end.n_mels, frames)
    np.testing.assert_allclose(actual.numpy(), expected, rtol=0, atol=atol)


@pytest.mark.parametrize(("dtype", "atol"), [(torch.float64, DB_TOLERANCE), (torch.float32, 1e-3)])
@pytest.mark.parametrize("per_band", [False, True])
@pytest.mark.parametrize("mel_scale", ["slaney", "htk"])
@pytest.mark.parametrize(
    "options", [{}, {"center": True}, {"pre_emphasis": 0.97}, {"deltas": 2}, {"deltas": 1, "stereo": True}], ids=str
)
def test_twin_equals_numpy(options, mel_scale, per_band, dtype, atol):
    front_end = record(mel_scale=mel_scale, **options)
    assert_twins(normalized(front_end) if per_band else front_end, sounds(8000, stereo=front_end.stereo), dtype, atol)


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_any_record(data):
    n_fft = data.draw(st.sampled_from((256, 400, 511, 512)))
    options = dict(
        clip_samples=10000,
        n_fft=n_fft,
        win_length=data.draw(st.integers(n_fft // 2, n_fft)),
        hop_length=data.draw(st.integers(64, 600)),
        window=data.draw(st.sampled_from(("hann", "hamming"))),
        center=data.draw(st.booleans()),
        n_mels=data.draw(st.integers(1, 60)),
        fmin=data.draw(st.sampled_from((0.0, 50.0))),
        fmax=data.draw(st.sampled_from((None, 7000.0))),
        mel_scale=data.draw(st.sampled_from(("slaney", "htk"))),
        amin=data.draw(st.sampled_from((1e-10, 1e-4))),
        pre_emphasis=data.draw(st.sampled_from((0.0, 0.5, 0.97))),
        stereo=data.draw(st.booleans()),
        log=data.draw(st.booleans()),
        deltas=data.draw(st.integers(0, 2)),
    )
    try:
        front_end = record(**options)
    except InputError as error:
        assert "hold no FFT bin" in str(error)
        assume(False)
        return
    extra = data.draw(st.integers(0, 2000))
    samples = sounds(max(n_fft, front_end.least_samples) + extra, stereo=front_end.stereo)
    largest = max(np.abs(features(clip, front_end)).max() for clip in samples)
    atol = DB_TOLERANCE if front_end.log else POWER_TOLERANCE * largest
    assert_twins(front_end, samples, torch.float64, atol)
    if data.draw(st.booleans()):
        # numpy's are rounded to float32 behind the offsets, which may be larger than the features.
        scaled = normalized(front_end)
        rounding = np.spacing(max(np.abs(features(clip, scaled)).max() for clip in samples))
        assert_twins(scaled, samples, torch.float64, atol + rounding)


def test_a_pure_tone_in_double_precision():
    """Bands far from the tone hold the window's side lobes, down to the floor of -100 dB."""
    tone = np.sin(2 * np.pi * 1000 * np.arange(8000) / 16000)[None]
    assert_twins(record(), tone, torch.float64, 1e-4)


def test_silence_is_the_floor():
    for dtype in (torch.float32, torch.float64):
        out = LogMel(record()).to(dtype)(torch.zeros(2, 8000, dtype=dtype))
        np.testing.assert_allclose(out, -100, atol=1e-4)


def test_integer_and_half_samples_are_taken():
    module = LogMel(record())
    samples = torch.arange(-4000, 4000)[None]
    torch.testing.assert_close(module(samples), module(samples.float()))
    assert module(samples.half()).dtype == torch.float32


def test_one_frame_exactly():
    front_end = record()
    assert LogMel(front_end)(torch.randn(1, 512)).shape == (1, 1, 40, 1)
    assert LogMel(record(center=True))(torch.randn(1, 2)).shape == (1, 1, 40, 1)


def test_a_clip_is_the_same_alone_and_in_a_batch():
    samples = torch.from_numpy(fit_length(sounds(7000), 8000)).float()
    module = LogMel(record())
    torch.testing.assert_close(module(samples)[1], module(samples[1:2])[0])


@pytest.mark.parametrize("shape", [(8000,), (1, 1, 8000), (1, 511), (2, 0), (1, 2, 8000)])
def test_other_shapes_are_refused(shape):
    with pytest.raises(InputError, match="batch, samples"):
        LogMel(record())(torch.zeros(shape))


@pytest.mark.parametrize("shape", [(8000,), (2, 8000), (1, 1, 8000), (1, 3, 8000), (1, 2, 511)])
def test_other_shapes_are_refused_in_stereo(shape):
    with pytest.raises(InputError, match="batch, 2, samples"):
        LogMel(record(stereo=True))(torch.zeros(shape))


def test_double_precision_is_not_rounded_on_the_way():
    """Filters, window and normalisation are the record's in float64, also after a detour through float32."""
    front_end = normalized(record(deltas=1))
    module = LogMel(front_end).float().double()
    np.testing.assert_array_equal(module.filters, mel_filterbank(front_end))
    np.testing.assert_array_equal(module.window, window(front_end))
    np.testing.assert_array_equal(module.scale.flatten(), front_end.band_scale)
    np.testing.assert_array_equal(module.offset.flatten(), front_end.band_offset)
    assert LogMel(front_end).filters.dtype == torch.float32


def test_a_sequence_of_modules_moves_it_along():
    module = torch.nn.Sequential(LogMel(record())).double()
    assert module[0].filters.dtype == torch.float64
    np.testing.assert_array_equal(module[0].filters, mel_filterbank(record()))
    assert module.to("meta")[0].filters.is_meta


def test_gradients_reach_the_samples():
    samples = torch.randn(1, 1024, requires_grad=True)
    LogMel(record())(samples).sum().backward()
    assert samples.grad is not None and samples.grad.isfinite().all() and (samples.grad != 0).any()


def test_nothing_of_it_is_saved():
    """The record rebuilds the buffers, so that checkpoints do not hold them."""
    assert LogMel(record()).state_dict() == {}
