"""The front end as a board computes it: against the reference, the filterbank and exact arithmetic; what is refused."""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tinyasc.errors import InputError
from tinyasc.frontend import FrontEnd, features, log_mel, mel_filterbank
from tinyasc.frontend_device import board_features, int16_samples, plan
from tinyasc_export import frontend_device, frontend_fixed
from tinyasc_export.frontend_fft import quarter_cosine, real_spectrum
from tinyasc_export.frontend_plan import DB_PER_OCTAVE, mirrored

sys.path.insert(0, str(Path(__file__).parent / "export"))

from front_ends import plans, signals

RECORDS = [
    FrontEnd(clip_samples=10000),
    FrontEnd(sample_rate=16000, clip_samples=4000, n_fft=1024, win_length=640, hop_length=333, n_mels=40),
    FrontEnd(
        sample_rate=8000, clip_samples=3000, n_fft=512, win_length=512, hop_length=512, n_mels=20, mel_scale="htk"
    ),
    FrontEnd(sample_rate=44100, clip_samples=9000, n_fft=4096, win_length=4096, n_mels=128, window="hamming", fmin=60),
]


def of(front_end: FrontEnd, dtype: str = "int8"):
    step = 0.5 if dtype == "int8" else 0.5 / 256
    return plan(front_end, step=step, zero_point=5 if dtype == "int8" else 0, dtype=dtype)


def broadband(n: int, rng: np.random.Generator) -> np.ndarray:
    """Noise 40 dB louder at one end of the spectrum, with fades: what microphones give."""
    x = np.convolve(rng.standard_normal(n), [1, 0.9], "same") * np.geomspace(0.2, 2e-3, n)
    return int16_samples(x)


@pytest.mark.parametrize("front_end", RECORDS)
def test_the_triangles_are_the_filterbank(front_end):
    p = of(front_end)
    bank = np.zeros((p.n_mels, p.n_fft // 2 + 1))
    for s in range(p.n_mels + 1):
        for k in range(p.begin[s], p.begin[s + 1]):
            ratio = p.ratio[k - p.begin[0]]
            if s < p.n_mels:
                bank[s, k] += ratio * p.height[s]
            if s > 0:
                bank[s - 1, k] += (1 - ratio) * p.height[s - 1]
    np.testing.assert_allclose(bank, mel_filterbank(front_end), atol=1e-12)


@settings(max_examples=30, deadline=None)
@given(st.integers(4, 10), st.integers(0, 2**32 - 1))
def test_the_transform_is_numpys(log_n, seed):
    x = np.random.default_rng(seed).standard_normal((2, 2**log_n))
    re, im = real_spectrum(x, quarter_cosine(2**log_n), np.multiply)
    exact = 2 * np.fft.rfft(x)[:, :-1]
    half = 2**log_n // 4 + 1
    np.testing.assert_allclose(re, exact.real, atol=1e-11)
    np.testing.assert_allclose(np.abs(im), np.abs(exact.imag), atol=1e-11)
    np.testing.assert_allclose(im[:, : half - 1], exact.imag[:, : half - 1], atol=1e-11)
    np.testing.assert_allclose(im[:, half:], -exact.imag[:, half:], atol=1e-11)


def test_log2_is_within_its_bound():
    x = np.geomspace(1e-30, 1e30, 100001).astype(np.float32)
    exact = np.log2(x.astype(np.float64))
    assert np.all(np.abs(frontend_device.log2(x) - exact) < 2.3e-6 + np.spacing(np.abs(exact).astype(np.float32)))
    assert np.all(frontend_device.log2(2 ** np.arange(-20, 20, dtype=np.float32)) == np.arange(-20, 20))
    mantissa = np.linspace(2**30, 2**31 - 1, 100001).astype(np.int64)
    apart = frontend_fixed.log2(mantissa, np.zeros_like(mantissa)) / 65536 - np.log2(mantissa)
    assert np.abs(apart).max() < 7e-5


@given(st.integers(-(2**31) + 1, 2**31 - 1), st.integers(-(2**15), 2**15))
def test_products_in_halves_of_32_bits_are_exact(x, q15):
    """What C does instead of a 64-bit product, in Python's unbounded integers."""
    high, low = x >> 16, x & 0xFFFF
    second = low * q15 + 16384
    assert -(2**31) <= high * q15 < 2**31 and -(2**31) <= second < 2**31
    assert 2 * (high * q15) + (second >> 15) == int(frontend_fixed.multiply(np.int64(x), np.int64(q15)))


@pytest.mark.parametrize("front_end", RECORDS)
def test_decibels_lie_close_to_the_reference(front_end, rng):
    samples = broadband(front_end.clip_samples, rng)
    exact = log_mel(samples / 32768, front_end)[0]
    device = frontend_device.log_power(samples, frontend_device.tables(of(front_end))) * DB_PER_OCTAVE
    octaves = frontend_fixed.octaves(samples, frontend_fixed.tables(of(front_end))) / 65536
    assert np.abs(device - exact).max() < 2e-4
    assert np.abs(octaves * DB_PER_OCTAVE + 10 * np.log10(front_end.amin) - exact).max() < 0.02


@pytest.mark.parametrize("arithmetic", ["device", "fixed"])
@pytest.mark.parametrize("dtype", ["int8", "int16"])
def test_integers_are_the_quantised_features(arithmetic, dtype, rng):
    front_end = RECORDS[1].with_normalization(rng.uniform(0.02, 0.05, 40), rng.uniform(0, 3, 40))
    step, zero_point = (0.02, -7) if dtype == "int8" else (1e-4, 0)
    samples = broadband(front_end.clip_samples, rng)
    limits = np.iinfo(dtype)
    exact = features(samples / 32768, front_end)[0].astype(np.float64) / step + zero_point
    got = board_features(samples, plan(front_end, step=step, zero_point=zero_point, dtype=dtype), arithmetic)
    assert got.dtype == dtype and got.shape == front_end.shape[1:]
    apart = np.abs(got - np.clip(exact, limits.min, limits.max))
    # Half a unit is rounding; the rest is 0.02 dB in units, and the 16-bit factor's share.
    assert apart.max() <= 0.5 + 0.02 * 0.05 / step + (1.5 if dtype == "int16" else 0.02)


def test_features_without_logarithm(rng):
    front_end = dataclasses.replace(RECORDS[1], log=False)
    samples = broadband(front_end.clip_samples, rng)
    exact = log_mel(samples / 32768, front_end)[0]
    p = plan(front_end, step=float(exact.max()) / 200, zero_point=-100, dtype="int8")
    assert np.abs(board_features(samples, p, "device") - np.clip(exact / p.step - 100, -128, 127)).max() < 0.51
    with pytest.raises(InputError, match="log=true"):
        board_features(samples, p, "fixed")


def test_silence_gives_the_floor():
    p = of(RECORDS[0])
    floor = np.clip(np.rint(-100 / 0.5 + 5), -128, 127)
    for arithmetic in ("device", "fixed"):
        assert np.all(board_features(np.zeros(10000, np.int16), p, arithmetic) == floor)


@settings(max_examples=40, deadline=None)
@given(plans(), st.integers(0, 2**32 - 1))
def test_no_integer_leaves_32_bits(p, seed):
    """Of the fixed arithmetic's spectrum, whose bound `tables` proves: on the loudest samples."""
    try:
        t = frontend_fixed.tables(dataclasses.replace(p, log=True))
    except InputError as error:
        assert "leaves 32 bits" in str(error)
        return
    n = np.arange(p.n_fft)
    rng = np.random.default_rng(seed)
    worst = [np.where(np.cos(2 * np.pi * k * n / p.n_fft + rng.uniform(0, 6)) < 0, -32768, 32767) for k in (0, 1, 3)]
    for x in [*worst, *signals(p.n_fft, rng).values()]:
        re, im, raised = frontend_fixed.spectrum(np.asarray(x, np.int16), t)
        assert max(np.abs(re).max(), np.abs(im).max()) < 2**31 and set(raised.tolist()) <= set(range(16))
    assert np.all(mirrored(t.window)[1:] == mirrored(t.window)[:0:-1])


def test_samples_become_int16():
    x = [0, 1, -1, 2, -2, 0.5 / 32768, 1.5 / 32768, 32767 / 32768]
    assert int16_samples(np.array(x)).tolist() == [0, 32767, -32768, 32767, -32768, 0, 2, 32767]


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"stereo": True}, "stereo=true"),
        ({"deltas": 1}, "deltas=1"),
        ({"center": True}, "center=true"),
        ({"pre_emphasis": 0.97}, "pre_emphasis=0.97"),
        ({"n_fft": 1000, "win_length": 1000}, "power of two in 16..16384, got 1000"),
        ({"win_length": 2047}, "win_length=2047"),
        ({"win_length": 1400, "window": "hamming"}, "hamming of win_length=1400"),
    ],
)
def test_what_c_cannot_do_is_refused_by_name(change, says):
    with pytest.raises(InputError, match=says):
        of(dataclasses.replace(FrontEnd(), **change))


def test_other_inputs_are_refused():
    with pytest.raises(InputError, match="float32"):
        plan(FrontEnd(), step=1.0, zero_point=0, dtype="float32")
    with pytest.raises(InputError, match="amin"):
        frontend_device.tables(of(FrontEnd(amin=1e-40)))
    with pytest.raises(InputError, match="leaves 32 bits"):
        frontend_fixed.tables(plan(FrontEnd(), step=1e-9, zero_point=0, dtype="int8"))
    with pytest.raises(InputError, match="'posit'"):
        board_features(np.zeros(4096, np.int16), of(FrontEnd()), "posit")
    with pytest.raises(ValueError, match="at least 2048 int16"):
        board_features(np.zeros(2047, np.int16), of(FrontEnd()), "device")
    with pytest.raises(ValueError, match="float64"):
        board_features(np.zeros(4096), of(FrontEnd()), "device")
