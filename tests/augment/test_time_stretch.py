import librosa
import numpy as np
import pytest
import torch

from tinyasc import augment
from tinyasc.augment.time_stretch import stretch_time

RATE = 16000


@pytest.mark.parametrize("factor", [0.8, 1.25])
def test_a_stretched_tone_keeps_its_pitch_and_changes_its_length(factor):
    x = torch.sin(2 * torch.pi * 1000 * torch.arange(RATE) / RATE)[None]
    y, length = stretch_time(x, torch.tensor([RATE]), torch.tensor([factor]), 20_000)
    n = int(length[0])
    assert n == round(RATE * factor) and not y[0, n:].any()
    middle = y[0, 2048 : n - 2048].numpy()
    spectrum = np.abs(np.fft.rfft(middle * np.hanning(len(middle)), 1 << 17))
    assert spectrum.argmax() * RATE / (1 << 17) == pytest.approx(1000, abs=1)
    assert np.sqrt((middle**2).mean()) == pytest.approx(0.5**0.5, rel=0.15)


@pytest.mark.parametrize("factor", [0.8, 0.95, 1.25])
def test_stretching_is_librosas(factor):
    rng = np.random.default_rng(0)
    t = np.arange(RATE) / RATE
    x = np.sin(2 * np.pi * 300 * t * (1 + t)) + 0.1 * rng.standard_normal(RATE)
    y, length = stretch_time(
        torch.from_numpy(x)[None], torch.tensor([RATE]), torch.tensor([factor], dtype=torch.float64), 20_000
    )
    wanted = librosa.effects.time_stretch(x, rate=1 / factor)
    n = int(length[0])
    assert n == len(wanted)
    # The end differs: librosa's last frames stop where ours go on into silence.
    inner = slice(0, n - 2048)
    np.testing.assert_allclose(y[0, :n].numpy()[inner], wanted[inner], atol=1e-6)


def test_each_clip_has_its_own_factor_and_float32_suffices(seeded):
    x = torch.randn(3, 30_000, generator=seeded())
    lengths = torch.tensor([30_000, 30_000, 20_000])
    factors = torch.tensor([0.8, 1.0, 1.2])
    together, longer = stretch_time(x, lengths, factors, 36_000)
    assert longer.tolist() == [24_000, 30_000, 24_000]
    for i in range(3):
        alone, _ = stretch_time(x[i : i + 1].double(), lengths[i : i + 1], factors[i : i + 1], 36_000)
        assert torch.allclose(together[i].double(), alone[0], atol=2e-3)
    assert torch.allclose(together[1, :30_000], x[1], atol=1e-4)


def test_factors_are_drawn_on_both_sides(seeded):
    _, lengths = augment.time_stretch(torch.zeros(200, 2100), torch.full((200,), 2100), seeded(), max_stretch=1.25)
    assert lengths.min() < 1720 and lengths.max() > 2580
