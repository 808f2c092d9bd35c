import csv

import numpy as np
import pytest
import scipy.signal
import soundfile
import soxr
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tinyasc import augment
from tinyasc.augment.impulse_response import convolve
from tinyasc.errors import InputError


@settings(max_examples=40, deadline=None)
@given(samples=st.integers(1, 300), taps=st.integers(1, 400), seed=st.integers(0, 1000))
def test_convolution_is_numpys_cut_to_the_clip(samples, taps, seed):
    rng = np.random.default_rng(seed)
    x, h = rng.standard_normal((3, samples)), rng.standard_normal((3, taps))
    ours = convolve(torch.from_numpy(x), torch.from_numpy(h)).numpy()
    for row, signal, response in zip(ours, x, h, strict=True):
        np.testing.assert_allclose(row, np.convolve(signal, response)[:samples], atol=1e-10)


def test_each_clip_gets_one_response_at_its_own_level(seeded):
    x = torch.randn(40, 500, generator=seeded(1), dtype=torch.float64) * torch.logspace(-3, 0, 40)[:, None]
    bank = torch.randn(3, 60, generator=seeded(2), dtype=torch.float64)
    y = augment.impulse_response(x, seeded(), bank=bank, prob=1.0)
    assert torch.allclose(y.square().mean(dim=1), x.square().mean(dim=1))
    used = []
    for before, after in zip(x.numpy(), y.numpy(), strict=True):
        wet = [scipy.signal.convolve(before, h, method="direct")[:500] for h in bank.numpy()]
        matches = [abs(np.corrcoef(after, w)[0, 1] - 1) < 1e-9 for w in wet]
        assert sum(matches) == 1
        used.append(matches.index(True))
    assert set(used) == {0, 1, 2}


def test_probability_and_devices_choose_the_clips(seeded):
    x, bank = torch.randn(1000, 20, generator=seeded(1)), torch.tensor([[1.0, -0.9, 0.5]])
    allowed = torch.arange(1000) % 2 == 0
    y = augment.impulse_response(x, seeded(), bank=bank, prob=0.4, allowed=allowed)
    changed = (y != x).any(dim=1)
    assert not changed[~allowed].any()
    assert 0.34 < float(changed[allowed].float().mean()) < 0.46
    assert torch.equal(augment.impulse_response(x, seeded(), bank=bank, prob=0.0), x)
    nobody = torch.zeros(1000, dtype=torch.bool)
    assert torch.equal(augment.impulse_response(x, seeded(), bank=bank, prob=1.0, allowed=nobody), x)


def test_silence_stays_silent(seeded):
    y = augment.impulse_response(torch.zeros(3, 50), seeded(), bank=torch.ones(1, 5), prob=1.0)
    assert torch.equal(y, torch.zeros(3, 50))


def test_a_response_that_comes_after_the_clips_end_leaves_nothing(seeded):
    y = augment.impulse_response(1e4 * torch.ones(2, 5), seeded(), bank=torch.eye(1, 9).flip(1), prob=1.0)
    assert torch.isfinite(y).all()


def write(path, samples, rate=16000):
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, samples, rate, subtype="FLOAT")


def test_a_bank_is_resampled_padded_and_of_unit_energy(tmp_path, rng):
    short, long = rng.standard_normal(100).astype(np.float32), rng.standard_normal(441).astype(np.float32)
    write(tmp_path / "b.wav", short)
    write(tmp_path / "a" / "c.WAV", long, 44100)
    (tmp_path / "notes.txt").write_text("no audio")
    bank = augment.load_bank(tmp_path, 16000).numpy()
    resampled = soxr.resample(long, 44100, 16000, quality="HQ")
    assert bank.shape == (2, max(100, len(resampled)))
    np.testing.assert_allclose(bank[0, : len(resampled)], resampled / np.linalg.norm(resampled), atol=1e-6)
    np.testing.assert_allclose(bank[1, :100], short / np.linalg.norm(short), atol=1e-6)
    np.testing.assert_allclose(np.square(bank).sum(axis=1), 1.0, rtol=1e-5)


def test_lists_name_their_files(tmp_path, rng):
    for name in ("wav/a.wav", "wav/b.wav", "wav/c.wav"):
        write(tmp_path / name, rng.standard_normal(50))
    whole = augment.load_bank(tmp_path / "wav", 16000)
    (tmp_path / "train.txt").write_text("wav/c.wav\n\nwav/a.wav\n")
    assert torch.equal(augment.load_bank(tmp_path / "train.txt", 16000), whole[[2, 0]])
    with open(tmp_path / "manifest.csv", "w", newline="") as file:
        csv.writer(file).writerows([["sr", "filename"], [16000, "wav/b.wav"]])
    assert torch.equal(augment.load_bank(str(tmp_path / "manifest.csv"), 16000), whole[[1]])


@pytest.mark.parametrize(
    ("make", "source", "says"),
    [
        (lambda p: None, "missing", "no such folder or list of impulse responses; check augment.dirs"),
        (lambda p: (p / "empty").mkdir(), "empty", "holds no .wav or .flac file"),
        (lambda p: (p / "l.txt").write_text("gone.wav"), "l.txt", "gone.wav: no such file"),
        (lambda p: (p / "l.txt").write_text(" \n"), "l.txt", "lists no impulse response"),
        (lambda p: (p / "l.csv").write_text("file\nx.wav"), "l.csv", "has no column `filename`; its columns are file"),
        (lambda p: (p / "l.csv").write_text(""), "l.csv", "has no column `filename`"),
        (lambda p: (p / "l.txt").write_bytes(b"\xff\xfe\x00"), "l.txt", "cannot be read as a list"),
        (lambda p: write(p / "s" / "s.wav", np.zeros(9)), "s", "s.wav: an impulse response of silence"),
        (lambda p: write(p / "n" / "n.wav", [0.1, np.nan]), "n", "NaN"),
    ],
)
def test_a_bank_that_cannot_be_used_is_one_line(tmp_path, make, source, says):
    make(tmp_path)
    with pytest.raises(InputError, match=says) as caught:
        augment.load_bank(tmp_path / source, 16000)
    assert "\n" not in str(caught.value)


def test_the_measured_microphones_load(shared_audio):
    bank = augment.load_bank(shared_audio / "dirs_micirp" / "manifest.csv", 32000)
    assert len(bank) == 50 and bank.shape[1] < 32000 and torch.isfinite(bank).all()
    folder = augment.load_bank(shared_audio / "dirs_micirp", 32000)
    assert sorted(map(tuple, bank[:, :50].tolist())) == sorted(map(tuple, folder[:, :50].tolist()))
