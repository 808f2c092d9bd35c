"""The torch front end against its numpy definition."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tinyasc.errors import InputError
from tinyasc.frontend import FrontEnd, features, fit_length
from tinyasc.frontend_torch import LogMel

BASE = {"sample_rate": 16000, "clip_samples": 8000, "n_fft": 512, "win_length": 512, "hop_length": 256, "n_mels": 40}


def record(**options) -> FrontEnd:
    return FrontEnd(**(BASE | options))


def normalization(n_mels: int) -> dict[str, tuple[float, ...]]:
    rng = np.random.default_rng(3)
    return {
        "band_scale": tuple(map(float, rng.uniform(0.02, 0.2, n_mels))),
        "band_offset": tuple(map(float, rng.uniform(-3, 3, n_mels))),
    }


def sounds(length: int) -> np.ndarray:
    """Noise, faint noise, and tones in noise. (clips, length) float64."""
    rng = np.random.default_rng(4)
    noise = rng.standard_normal((3, length))
    t = np.arange(length) / 16000
    tones = sum(0.3 / n * np.sin(2 * np.pi * 220 * n * t) for n in range(1, 20))
    return np.stack([0.3 * noise[0], 1e-3 * noise[1], tones + 1e-2 * noise[2]])


def assert_twins(front_end: FrontEnd, samples: np.ndarray, dtype: torch.dtype, atol: float) -> None:
    module = LogMel(front_end).to(dtype)
    actual = module(torch.from_numpy(samples).to(dtype))
    assert actual.dtype == dtype
    expected = np.stack([features(clip, front_end) for clip in samples])
    assert actual.shape == expected.shape == (len(samples), front_end.n_mels, front_end.n_frames(samples.shape[1]))
    np.testing.assert_allclose(actual.numpy(), expected, rtol=0, atol=atol)


@pytest.mark.parametrize(("dtype", "atol"), [(torch.float64, 1e-4), (torch.float32, 1e-3)])
@pytest.mark.parametrize("normalized", [False, True])
@pytest.mark.parametrize("mel_scale", ["slaney", "htk"])
@pytest.mark.parametrize("center", [False, True])
def test_twin_equals_numpy(center, mel_scale, normalized, dtype, atol):
    front_end = record(center=center, mel_scale=mel_scale, **(normalization(40) if normalized else {}))
    assert_twins(front_end, sounds(8000), dtype, atol)


@settings(max_examples=25, deadline=None)
@given(st.data())
def test_any_record(data):
    n_fft = data.draw(st.sampled_from((256, 400, 511, 512)))
    front_end = record(
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
    )
    assert_twins(front_end, sounds(data.draw(st.integers(n_fft, 3000))), torch.float64, 1e-4)


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
    assert LogMel(front_end)(torch.randn(1, 512)).shape == (1, 40, 1)
    assert LogMel(record(center=True))(torch.randn(1, 2)).shape == (1, 40, 1)


def test_a_clip_is_the_same_alone_and_in_a_batch():
    samples = torch.from_numpy(fit_length(sounds(7000), 8000)).float()
    module = LogMel(record())
    torch.testing.assert_close(module(samples)[1], module(samples[1:2])[0])


@pytest.mark.parametrize("shape", [(8000,), (1, 1, 8000), (1, 511), (2, 0)])
def test_other_shapes_are_refused(shape):
    with pytest.raises(InputError, match="batch, samples"):
        LogMel(record())(torch.zeros(shape))


def test_gradients_reach_the_samples():
    samples = torch.randn(1, 1024, requires_grad=True)
    LogMel(record())(samples).sum().backward()
    assert samples.grad is not None and samples.grad.isfinite().all() and (samples.grad != 0).any()


def test_nothing_of_it_is_saved():
    """The record rebuilds the buffers, so that checkpoints do not hold them."""
    assert LogMel(record()).state_dict() == {}
