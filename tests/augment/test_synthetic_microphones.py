import numpy as np
import pytest
import torch

from tinyasc import augment
from tinyasc.augment.impulse_response import bank_files
from tinyasc.augment.synthetic_microphones import RESPONSES, _draw_db, _minimum_phase, synthetic_microphones
from tinyasc.errors import InputError


def levels(bank, rate, size=1 << 15):
    """(responses, bins) dB, the mean of 300 Hz to 3 kHz at 0, and the frequencies."""
    frequencies = np.fft.rfftfreq(size, 1 / rate)
    db = 20 * np.log10(np.abs(np.fft.rfft(bank, size)) + 1e-9)
    middle = (frequencies > 300) & (frequencies < 3000)
    return db - db[:, middle].mean(axis=1, keepdims=True), frequencies


@pytest.mark.parametrize("rate", [4000, 8000, 32000, 44100, 192000])
def test_they_sound_like_microphones(rate):
    bank = synthetic_microphones(rate)
    assert bank.dtype == np.float32 and np.isfinite(bank).all()
    assert np.square(bank).sum(axis=1) == pytest.approx(1)
    db, f = levels(bank, rate)
    # Nearly even where sounds are; the ends fall, each microphone otherwise.
    assert np.abs(db[:, (f > 300) & (f < 3000)]).max() < 25
    assert np.median(db[:, (f > 25) & (f < 40)]) < -8
    if rate > 30000:
        high = db[:, (f > 14500) & (f < 15500)].mean(axis=1)
        assert np.median(high) < -10 and high.std() > 5
    # All their sound comes at once, as minimum phase has it.
    assert (np.abs(bank).argmax(axis=1) < 0.001 * rate).all()


def test_the_level_is_what_was_drawn():
    """The response's spectrum against the drawn curve: windowing smooths it by little."""
    rate, size = 32000, 1 << 15
    f = np.maximum(np.fft.rfftfreq(size, 1 / rate), 20)
    for i in range(8):
        drawn = _draw_db(f, 0, i)
        made = 20 * np.log10(np.abs(np.fft.rfft(_minimum_phase(drawn, 1472), size)) + 1e-9)
        off, heard = np.abs(made - drawn), (f < 12000) & (drawn > -50)
        assert off[heard & (f > 300)].max() < 0.25
        # 46 ms resolve 22 Hz: the corner of a steep roll-off at 100 Hz is rounded.
        assert off[heard & (f > 100)].max() < 2


def test_each_depends_on_its_number_alone():
    assert np.array_equal(synthetic_microphones(16000, responses=3), synthetic_microphones(16000)[:3])
    assert len(synthetic_microphones(16000)) == RESPONSES
    one, other = (synthetic_microphones(16000, responses=2, seed=seed) for seed in (0, 1))
    assert not np.array_equal(one, other) and not np.array_equal(one[0], one[1])


def test_the_word_names_them_and_a_folder_of_that_name_is_written_otherwise(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    bank = augment.load_bank("synthetic", 16000)
    assert torch.equal(bank, torch.from_numpy(synthetic_microphones(16000)))
    assert bank_files("synthetic") == []
    with pytest.raises(InputError, match="no such folder"):
        augment.load_bank("./synthetic", 16000)
