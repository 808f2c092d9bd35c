"""A file that is read piece by piece answers as one that is read at once, and holds no more of it than some windows."""

import tracemalloc

import numpy as np
import pytest
import soundfile
import tiny_models as tiny
from hypothesis import given, settings
from hypothesis import strategies as st

from tinyasc import audio
from tinyasc.audio import read_audio, read_blocks, read_info, resampled_length
from tinyasc.errors import InputError
from tinyasc.infer import longclips
from tinyasc.infer.backends.litert_backend import LiteRtBackend
from tinyasc.infer.longclips import LongClip, predict_file
from tinyasc.infer.runner import Model, Plan
from tinyasc.infer.tta import parse_tta
from tinyasc.infer.windows import windows

CLIP = tiny.FRONT_END.clip_samples


@pytest.fixture(scope="module")
def model():
    return Model(LiteRtBackend(tiny.tflite()))


@pytest.fixture
def small(monkeypatch):
    """Blocks and a limit so small that a clip of seconds is a long one."""
    monkeypatch.setattr(audio, "BLOCK_VALUES", 1000)
    monkeypatch.setattr(longclips, "WHOLE_VALUES", 5000)


def sound(path, seconds=5.3, rate=tiny.RATE, channels=1, seed=0, **options):
    random = np.random.default_rng(seed)
    x = 0.2 * random.standard_normal((round(seconds * rate), channels))
    x[: len(x) // 3] += 0.3 * np.sin(2 * np.pi * 200 * np.arange(len(x) // 3) / rate)[:, None]
    soundfile.write(path, x, rate, **options)
    return path


FILES = {
    "same.wav": {},
    "rate.wav": {"rate": 44100},
    "up.wav": {"rate": 5512},
    "eight.wav": {"channels": 8, "rate": 16000},
    "u8.wav": {"subtype": "PCM_U8"},
    "double.wav": {"subtype": "DOUBLE", "rate": 192000, "seconds": 2.1},
    "clip.flac": {"channels": 2, "rate": 22050},
    "clip.ogg": {"channels": 2, "rate": 48000},
    "clip.mp3": {"rate": 44100},
}


def close(got, want, name):
    """Equal to the bit; but of MP3 the decoder itself gives other last bits of float32 when it is asked in pieces."""
    np.testing.assert_allclose(got, want, rtol=0, atol=1e-6 if name.endswith(".mp3") else 0)


@pytest.mark.parametrize("name", FILES)
def test_blocks_are_the_very_samples_of_the_file(tmp_path, small, name):
    path = sound(tmp_path / name, **FILES[name])
    whole = read_audio(path, tiny.RATE)
    blocks = list(read_blocks(path, tiny.RATE))
    assert len(blocks) > 5
    close(np.concatenate(blocks), whole, name)
    info = read_info(path)
    assert resampled_length(info.frames, info.sample_rate, tiny.RATE) == len(whole)


def test_blocks_of_stereo_keep_the_sides_apart(tmp_path, small):
    path = sound(tmp_path / "s.wav", channels=2, rate=11025)
    np.testing.assert_array_equal(
        np.concatenate(list(read_blocks(path, tiny.RATE, stereo=True)), axis=1),
        read_audio(path, tiny.RATE, stereo=True),
    )
    with pytest.raises(InputError, match="stereo is wanted and its channels are 1"):
        next(read_blocks(sound(tmp_path / "m.wav"), tiny.RATE, stereo=True))


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 20000), st.sampled_from([8000, 11025, 16000, 22050, 44100, 48000, 96000, 5512]), st.data())
def test_a_resampled_length_is_known_beforehand(frames, from_rate, data):
    import soxr

    to_rate = data.draw(st.sampled_from([8000, 16000, 22050, 32000, 44100]))
    got = soxr.resample(np.zeros(frames, np.float32), from_rate, to_rate, quality="HQ")
    assert resampled_length(frames, from_rate, to_rate) == len(got)


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"window_hop": 0.031, "aggregate": "max"},
        {"window_hop": 1.9},
        {"tta": 7, "seed": 4},
        {"tta": 30, "stop_early": True},
        {"tta": "s2-3crop"},
        {"tta": "s4-30"},
        {"tta": "9:roll+gain,zero-mask,shift+mean-mask,end"},
    ],
    ids=str,
)
def test_a_long_file_answers_as_its_samples_do(model, tmp_path, small, name, options):
    path = sound(tmp_path / name, **FILES[name])
    whole = model.predict(read_audio(path, tiny.RATE), **options)
    pieces = predict_file(model, path, **options)
    close(pieces.probabilities, whole.probabilities, name)
    assert (pieces.copies, pieces.planned, pieces.windows) == (whole.copies, whole.planned, whole.windows)
    assert pieces.windows > 1


@settings(max_examples=40, deadline=None)
@given(st.integers(CLIP + 1, 6 * CLIP), st.integers(1, 3 * CLIP), st.integers(500, 9000))
def test_windows_of_any_blocks_are_those_of_the_whole(tmp_path_factory, n, hop, block):
    path = tmp_path_factory.mktemp("long") / "x.wav"
    soundfile.write(path, np.arange(n) / 32768, tiny.RATE, "FLOAT")
    plan = Plan(parse_tta(1), 0, False, max(hop, 50), "mean")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(audio, "BLOCK_VALUES", block)
        got = list(LongClip(path, tiny.FRONT_END, n, plan).heard(parse_tta(1).draw(n, tiny.FRONT_END, 0)[0]))
    want = list(windows(read_audio(path, tiny.RATE), CLIP, plan.hop))
    assert len(got) == len(want)
    assert all(np.array_equal(a, b) for a, b in zip(got, want, strict=True))


def test_a_short_file_is_padded_as_in_training(model, tmp_path):
    path = sound(tmp_path / "short.wav", seconds=0.2)
    got = predict_file(model, path)
    np.testing.assert_array_equal(got.probabilities, model.predict(read_audio(path, tiny.RATE)).probabilities)
    assert got.windows == 1


def test_what_is_wrong_in_a_long_file_is_said_with_its_place(model, tmp_path, small):
    samples = np.zeros(40000, np.float32)
    samples[31234] = np.nan
    path = tmp_path / "nan.wav"
    soundfile.write(path, samples, tiny.RATE, "FLOAT")
    with pytest.raises(InputError) as pieces:
        predict_file(model, path)
    with pytest.raises(InputError) as whole:
        read_audio(path, tiny.RATE)
    assert "index 31234 (3.904 s)" in str(pieces.value) and str(whole.value).startswith(str(pieces.value)[:40])


def test_a_cut_off_long_file_is_refused(model, tmp_path, small):
    path = sound(tmp_path / "cut.flac")
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])
    with pytest.raises(InputError, match=r"cut.flac: (cut off|damaged)"):
        predict_file(model, path)


@pytest.mark.parametrize("other", [5.31, 5.2])
@pytest.mark.parametrize("tta", [1, 5, "s2-3crop"])
def test_a_file_that_changes_while_it_is_read_is_refused(model, tmp_path, small, monkeypatch, other, tta):
    path = sound(tmp_path / "a.wav")
    before = read_info(path)
    monkeypatch.setattr(longclips, "read_info", lambda _: before)
    sound(path, seconds=other)
    with pytest.raises(InputError, match=r"a.wav: changed while it was read"):
        predict_file(model, path, tta=tta)


def measured(model, path, **options):
    """The answer, and the most bytes that were held on the way."""
    tracemalloc.start()
    answer = predict_file(model, path, **options)
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    return answer, most


def test_memory_does_not_grow_with_the_file(model, tmp_path):
    """At real block sizes: 10 and 40 minutes of two channels, 77 and 307 MB as float32."""
    peaks = []
    for seconds in (600, 2400):
        path = tmp_path / f"{seconds}.wav"
        with soundfile.SoundFile(path, "w", 16000, 2, "PCM_U8") as file:
            for _ in range(seconds // 10):
                file.write(np.tile(tiny.tone("low", 160000, 16000)[:, None], 2))
        peaks.append(measured(model, path, window_hop=5.0, tta=6)[1])
    assert peaks[1] < 1.1 * peaks[0] and peaks[1] < 24e6, peaks


@pytest.mark.slow
def test_ten_hours_are_answered_in_flat_memory(model, tmp_path):
    path = tmp_path / "night.flac"
    with soundfile.SoundFile(path, "w", tiny.RATE, 1, "PCM_16") as file:
        for hour in range(10):
            minute = tiny.tone("high" if hour == 7 else "low", 60 * tiny.RATE)
            for _ in range(60):
                file.write(minute)
    answer, most = measured(model, path, window_hop=2.0, aggregate="vote")
    assert most < 24e6
    assert answer.windows == 18001 and answer.probabilities[2] == pytest.approx(0.1, abs=0.001)
