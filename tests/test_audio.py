from __future__ import annotations

import os
import struct
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile

from tinyasc.audio import AudioInfo, read_audio, read_info, read_segments
from tinyasc.errors import InputError

RATE = 16000


def one_line(path: Path, *words: str, rate: int = RATE) -> str:
    """The message that reading gives: one line that starts with the path and holds the words."""
    with pytest.raises(InputError) as caught:
        read_audio(path, rate)
    message = str(caught.value)
    assert "\n" not in message
    assert message.startswith(str(path))
    assert caught.value.exit_code == 2
    for word in words:
        assert word in message
    return message


def tone(hz: float, rate: int, seconds: float = 1.0) -> np.ndarray:
    return 0.5 * np.sin(2 * np.pi * hz * np.arange(int(rate * seconds)) / rate)


@pytest.fixture
def wav(tmp_path: Path) -> Path:
    soundfile.write(tmp_path / "clip.wav", tone(440, RATE), RATE, subtype="PCM_16")
    return tmp_path / "clip.wav"


def set_data_size(path: Path, size: int, *, riff_size: int | None = None) -> None:
    data = bytearray(path.read_bytes())
    at = data.index(b"data") + 4
    data[at : at + 4] = struct.pack("<I", size)
    if riff_size is not None:
        data[4:8] = struct.pack("<I", riff_size)
    path.write_bytes(data)


@pytest.mark.parametrize(
    ("subtype", "step"),
    [
        ("PCM_U8", 2**-7),
        ("PCM_16", 2**-15),
        ("PCM_24", 2**-23),
        ("PCM_32", 2**-23),
        ("FLOAT", 1e-7),
        ("DOUBLE", 1e-7),
    ],
)
def test_every_sample_width_gives_the_same_samples(tmp_path, subtype, step):
    wanted = tone(440, RATE)
    soundfile.write(tmp_path / "x.wav", wanted, RATE, subtype=subtype)
    samples = read_audio(tmp_path / "x.wav", RATE)
    assert samples.dtype == np.float32 and samples.shape == wanted.shape and samples.flags.c_contiguous
    assert np.abs(samples - wanted).max() <= step


@pytest.mark.parametrize("channels", [2, 3, 6])
def test_channels_are_averaged(tmp_path, rng, channels):
    many = rng.uniform(-1, 1, (1000, channels)).astype(np.float32)
    soundfile.write(tmp_path / "x.wav", many, RATE, subtype="FLOAT")
    np.testing.assert_allclose(read_audio(tmp_path / "x.wav", RATE), many.mean(axis=1), atol=1e-6)


def test_stereo_keeps_left_and_right_apart(tmp_path):
    left, right = tone(440, RATE), 0.3 * tone(1000, RATE)
    soundfile.write(tmp_path / "x.wav", np.stack([left, right], axis=1), RATE, subtype="FLOAT")
    samples = read_audio(tmp_path / "x.wav", RATE, stereo=True)
    assert samples.dtype == np.float32 and samples.flags.c_contiguous
    np.testing.assert_allclose(samples, [left, right], atol=1e-7)
    # Resampled, each side is what it would be alone.
    soundfile.write(tmp_path / "right.wav", right, RATE, subtype="FLOAT")
    other = read_audio(tmp_path / "x.wav", RATE // 2, stereo=True)
    np.testing.assert_allclose(other[1], read_audio(tmp_path / "right.wav", RATE // 2), atol=1e-6)


@pytest.mark.parametrize("channels", [1, 3, 6])
def test_stereo_of_other_channels_is_refused(tmp_path, channels):
    soundfile.write(tmp_path / "x.wav", np.zeros((10, channels)), RATE)
    with pytest.raises(InputError, match=f"stereo is wanted and its channels are {channels}; give a stereo") as caught:
        read_audio(tmp_path / "x.wav", RATE, stereo=True)
    assert str(tmp_path / "x.wav") in str(caught.value)


def test_the_mean_of_huge_channels_does_not_overflow(tmp_path):
    soundfile.write(tmp_path / "x.wav", np.full((10, 2), 3e38, np.float32), RATE, subtype="FLOAT")
    np.testing.assert_allclose(read_audio(tmp_path / "x.wav", RATE), 3e38, rtol=1e-6)


@pytest.mark.parametrize("rate", [8000, 22050, 44100, 48000, 96000])
def test_another_rate_is_resampled(tmp_path, rate):
    soundfile.write(tmp_path / "x.wav", tone(1000, rate), rate, subtype="FLOAT")
    samples = read_audio(tmp_path / "x.wav", RATE)
    assert samples.dtype == np.float32 and abs(len(samples) - RATE) <= 1
    inner = slice(RATE // 10, -RATE // 10)  # the ends ring
    assert np.abs(samples[inner] - tone(1000, RATE)[: len(samples)][inner]).max() < 1e-3


def test_what_lies_above_half_the_new_rate_is_gone(tmp_path):
    soundfile.write(tmp_path / "x.wav", tone(11000, 48000), 48000, subtype="FLOAT")
    assert np.abs(read_audio(tmp_path / "x.wav", RATE)[1000:-1000]).max() < 1e-3


@pytest.mark.parametrize("suffix", ["flac", "ogg", "mp3", "aiff"])
def test_other_containers(tmp_path, suffix):
    soundfile.write(tmp_path / f"x.{suffix}", tone(440, RATE), RATE)
    samples = read_audio(tmp_path / f"x.{suffix}", RATE)
    spectrum = np.abs(np.fft.rfft(samples[:RATE]))
    assert abs(int(spectrum.argmax()) - 440) <= 1


def test_silence_is_audio(tmp_path):
    soundfile.write(tmp_path / "x.wav", np.zeros(100), RATE)
    assert not read_audio(tmp_path / "x.wav", RATE).any()


def test_info(tmp_path):
    soundfile.write(tmp_path / "x.wav", np.zeros((22050, 2)), 44100)
    info = read_info(tmp_path / "x.wav")
    assert info == AudioInfo(sample_rate=44100, channels=2, frames=22050)
    assert info.seconds == 0.5


def test_missing(tmp_path):
    one_line(tmp_path / "nothing.wav", "no such file")


def test_folder(tmp_path):
    one_line(tmp_path, "is a folder")


@pytest.mark.skipif(os.name != "posix", reason="named pipes are a POSIX thing")
def test_named_pipe_does_not_hang(tmp_path):
    os.mkfifo(tmp_path / "pipe.wav")
    one_line(tmp_path / "pipe.wav", "not a regular file")


def test_no_permission(wav, monkeypatch):
    # chmod says nothing to root, who runs the tests in containers.
    def refuse(*_args, **_kwargs):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("builtins.open", refuse)
    one_line(wav, "no permission", "chmod")


def test_a_name_that_no_file_can_have(tmp_path):
    one_line(tmp_path / "a\0b.wav", "null byte")


@pytest.mark.skipif(os.name != "posix", reason="file names are bytes on POSIX alone")
def test_a_name_that_is_not_utf8(wav):
    odd = wav.with_name(os.fsdecode(b"caf\xe9.wav"))
    wav.rename(odd)
    assert len(read_audio(odd, RATE)) == RATE


def test_empty(tmp_path):
    (tmp_path / "x.wav").touch()
    one_line(tmp_path / "x.wav", "empty")


@pytest.mark.parametrize("name", ["x.wav", "x.flac", "x.raw", "x"])
def test_text_under_another_name(tmp_path, name):
    (tmp_path / name).write_text("these are words, not sound\n" * 100)
    one_line(tmp_path / name, "libsndfile")


@pytest.mark.parametrize("kept", [4, 12, 20, 30, 40])
def test_wav_cut_off_in_its_header(wav, kept):
    wav.write_bytes(wav.read_bytes()[:kept])
    one_line(wav)


@pytest.mark.parametrize("kept", [44, 45, 1000, 32042])
def test_wav_cut_off_in_its_samples(wav, kept):
    wav.write_bytes(wav.read_bytes()[:kept])
    one_line(wav, "cut off", "32000 bytes", f"{kept - 44} are there")


def test_rf64_cut_off(tmp_path):
    path = tmp_path / "x.wav"
    soundfile.write(path, tone(440, RATE), RATE, format="RF64")
    assert len(read_audio(path, RATE)) == RATE
    path.write_bytes(path.read_bytes()[:9000])
    one_line(path, "cut off")


def test_big_endian_wav(tmp_path):
    path = tmp_path / "x.wav"
    soundfile.write(path, tone(440, RATE), RATE, format="WAV", endian="BIG", subtype="PCM_16")
    assert path.read_bytes()[:4] == b"RIFX"
    assert len(read_audio(path, RATE)) == RATE
    path.write_bytes(path.read_bytes()[:9000])
    one_line(path, "cut off")


@pytest.mark.parametrize("suffix", ["flac", "mp3"])
def test_other_container_cut_off(tmp_path, rng, suffix):
    path = tmp_path / f"x.{suffix}"
    soundfile.write(path, 0.1 * rng.standard_normal(RATE), RATE)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    one_line(path, "cut off")


def test_damaged_flac(tmp_path, rng):
    path = tmp_path / "x.flac"
    soundfile.write(path, 0.1 * rng.standard_normal(RATE), RATE)
    data = bytearray(path.read_bytes())
    data[len(data) // 3 : len(data) // 2] = bytes(len(data) // 2 - len(data) // 3)
    path.write_bytes(data)
    one_line(path, "damaged")


@pytest.mark.parametrize("size", [0, 0xFFFFFFFF, 0x80000000, 0x7FFFF000])
def test_wav_written_to_a_pipe(wav, size):
    wanted = read_audio(wav, RATE)
    set_data_size(wav, size, riff_size=min(size + 36, 0xFFFFFFFF))
    np.testing.assert_array_equal(read_audio(wav, RATE), wanted)
    assert read_info(wav).frames == RATE


def test_chunks_around_the_samples(wav):
    data = wav.read_bytes()
    at = data.index(b"data")
    odd = b"note" + struct.pack("<I", 5) + b"hello\0"  # an odd chunk is padded to even
    wav.write_bytes(data[:at] + odd + data[at:] + odd)
    set_data_size(wav, 32000, riff_size=len(data) + 2 * len(odd) - 8)
    assert len(read_audio(wav, RATE)) == RATE
    data = wav.read_bytes()
    wav.write_bytes(data[: at + len(odd) + 8 + 30000])
    one_line(wav, "cut off", "30000 are there")


def test_no_samples(tmp_path):
    soundfile.write(tmp_path / "x.wav", np.zeros(0), RATE)
    one_line(tmp_path / "x.wav", "no samples")


def test_no_samples_but_a_chunk_after_them(tmp_path):
    path = tmp_path / "x.wav"
    soundfile.write(path, np.zeros(0), RATE)
    data = path.read_bytes() + b"LIST" + struct.pack("<I", 4) + b"INFO"
    path.write_bytes(data[:4] + struct.pack("<I", len(data) - 8) + data[8:])
    one_line(path, "no samples")


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("channels", [1, 2])
def test_not_finite(tmp_path, value, channels):
    samples = np.zeros((RATE, channels), np.float32)
    samples[[8000, 9000, 9001], -1] = value
    soundfile.write(tmp_path / "x.wav", samples, RATE, subtype="FLOAT")
    one_line(tmp_path / "x.wav", "3 of its samples", "NaN or infinite", "index 8000 (0.500 s)")


def test_random_damage_never_gives_another_exception(wav, rng):
    whole = wav.read_bytes()
    for _ in range(300):
        data = bytearray(whole)
        for at in rng.integers(0, 60, 3):
            data[at] = rng.integers(256)
        wav.write_bytes(data[: rng.integers(1, len(data) + 1)])
        try:
            samples = read_audio(wav, RATE)
        except InputError:
            continue
        assert samples.ndim == 1 and np.isfinite(samples).all()


def test_soxr_is_loaded_only_to_resample(wav):
    code = (
        "import sys; from tinyasc.audio import read_audio; "
        f"read_audio({str(wav)!r}, {RATE}); assert 'soxr' not in sys.modules; "
        f"read_audio({str(wav)!r}, 8000); assert 'soxr' in sys.modules; "
        "assert not {'torch', 'librosa', 'scipy', 'pandas'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize("share", [0.3, 0.5, 0.9])
def test_a_cut_ogg_is_refused(tmp_path, share):
    noise = np.random.default_rng(0).standard_normal(80000).astype(np.float32)
    soundfile.write(tmp_path / "whole.ogg", 0.1 * noise, 16000)
    whole = (tmp_path / "whole.ogg").read_bytes()
    (tmp_path / "cut.ogg").write_bytes(whole[: int(share * len(whole))])
    assert len(read_audio(tmp_path / "whole.ogg", 16000)) == 80000
    with pytest.raises(InputError, match=r"cut\.ogg: cut off"):
        read_audio(tmp_path / "cut.ogg", 16000)


@pytest.mark.parametrize("rate", [8000, 11025])
@pytest.mark.parametrize("channels", [1, 2])
def test_segments_equal_files_of_their_own(tmp_path, rng, rate, channels):
    sound = 0.3 * rng.standard_normal((3 * 8000, channels))
    soundfile.write(tmp_path / "whole.wav", sound, 8000, "FLOAT")
    parts = [(0.0, 1.0), (0.25, 2.75), (2.0, 3.0)]
    found = read_segments(tmp_path / "whole.wav", rate, [*parts, None])
    for i, (start, end) in enumerate(parts):
        soundfile.write(tmp_path / f"{i}.wav", sound[round(start * 8000) : round(end * 8000)], 8000, "FLOAT")
        np.testing.assert_array_equal(found[i], read_audio(tmp_path / f"{i}.wav", rate))
    np.testing.assert_array_equal(found[3], read_audio(tmp_path / "whole.wav", rate))


@pytest.mark.parametrize("segment", [(2.5, 3.5), (4.0, 5.0), (-1.0, 1.0), (1.0, 1.0)])
def test_segments_outside_the_file(tmp_path, segment):
    soundfile.write(tmp_path / "whole.wav", np.zeros(24000), 8000)
    with pytest.raises(InputError, match=r"whole\.wav: seconds .* are no part of it, it holds 3\.000 s; mend"):
        read_segments(tmp_path / "whole.wav", 8000, [(0, 1), segment])
