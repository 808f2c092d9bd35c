"""Sound files as they come: every width, rate, count of channels and container, and files that are none or change."""

import io
import os
import struct
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
import soundfile
import tiny_models as tiny
from click.testing import CliRunner

from tinyasc import audio
from tinyasc.audio import MAX_VALUES, read_audio
from tinyasc.cli.main import cli
from tinyasc.errors import InputError

# format, subtype, rate, channels; GSM knows one rate, Opus five.
CONTAINERS = [
    ("WAV", "PCM_U8", 8000, 1),
    ("WAV", "PCM_S8", 8000, 1),
    ("WAV", "PCM_16", 192000, 8),
    ("WAVEX", "PCM_24", 44100, 8),
    ("WAV", "PCM_32", 11025, 2),
    ("WAV", "FLOAT", 96000, 1),
    ("WAV", "DOUBLE", 192000, 8),
    ("RF64", "DOUBLE", 48000, 1),
    ("WAV", "ULAW", 8000, 1),
    ("WAV", "ALAW", 16000, 2),
    ("WAV", "IMA_ADPCM", 22050, 1),
    ("WAV", "MS_ADPCM", 22050, 2),
    ("WAV", "GSM610", 8000, 1),
    ("W64", "PCM_16", 44100, 2),
    ("AIFF", "PCM_24", 44100, 2),
    ("AU", "PCM_16", 8000, 1),
    ("CAF", "PCM_16", 44100, 1),
    ("FLAC", "PCM_24", 192000, 8),
    ("OGG", "VORBIS", 44100, 2),
    ("OGG", "OPUS", 48000, 1),
    ("MP3", "MPEG_LAYER_III", 44100, 2),
]


@pytest.fixture
def folder(tmp_path, monkeypatch):
    (tmp_path / "m.tflite").write_bytes(tiny.tflite_int8())
    monkeypatch.chdir(tmp_path)
    return tmp_path


def peak_rss(*, fresh=True):
    """The most memory held so far, KiB; with `fresh` counted from now on."""
    if fresh:
        Path("/proc/self/clear_refs").write_text("5")
    (line,) = [line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM")]
    return int(line.split()[1])


def infer(*args):
    short = () if "--json" in args else ("--top", "1")
    result = CliRunner().invoke(cli, ["infer", "--model", "m.tflite", *short, *map(str, args)])
    print(result.output)
    assert result.exception is None or isinstance(result.exception, SystemExit)
    return result


def refused(name, says):
    """The clip is refused in one line within a moment."""
    start = time.monotonic()
    result = infer(name)
    (line,) = result.stderr.splitlines()
    assert result.exit_code == 2 and result.stdout == ""
    assert line.startswith(f"error: {name}: ") and says in line
    assert time.monotonic() - start < 30


@pytest.mark.parametrize(("form", "subtype", "rate", "channels"), CONTAINERS)
def test_every_container_and_width_is_heard(folder, form, subtype, rate, channels):
    if subtype not in soundfile.available_subtypes(form):
        pytest.skip(f"this libsndfile does not write {form} {subtype}")
    sound = np.stack([tiny.tone("middle", rate // 2, rate)] * channels, axis=1)
    soundfile.write("clip.x", sound, rate, format=form, subtype=subtype)
    result = infer("clip.x")
    assert result.exit_code == 0 and result.stderr == ""
    assert result.stdout.splitlines()[-1].split()[0] == "middle"


@pytest.mark.parametrize(
    ("samples", "rate"), [(1, 8000), (2, 8000), (511, 8000), (1, 4000), (13, 192000), (511, 192000)]
)
def test_a_few_samples_are_heard(folder, samples, rate):
    soundfile.write("clip.wav", tiny.tone("low", samples, rate), rate)
    result = infer("clip.wav")
    assert (result.exit_code, result.stderr) == (0, "")


@pytest.mark.skipif("MP3" not in soundfile.available_formats(), reason="this libsndfile writes no MP3")
def test_notes_of_the_mp3_decoder_stay_off_standard_error(folder):
    """It says "Note: Illegal Audio-MPEG-Header" and goes on at the next frame."""
    soundfile.write("clip.mp3", tiny.tone("middle", 40000), 8000)
    whole = (folder / "clip.mp3").read_bytes()
    (folder / "clip.mp3").write_bytes(whole[: len(whole) // 2] + bytes(100) + whole[len(whole) // 2 :])
    command = [sys.executable, "-m", "tinyasc.cli.main", "infer", "--model", "m.tflite", "clip.mp3", "gone.wav"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 2 and done.stderr == "error: gone.wav: no such file; check the path\n"
    noise = subprocess.run(
        [sys.executable, "-c", "import soundfile; soundfile.read('clip.mp3')"], capture_output=True, text=True
    )
    assert "Illegal Audio-MPEG-Header" in noise.stderr  # otherwise this tests nothing


def test_less_than_a_sample_is_said(folder):
    soundfile.write("clip.wav", tiny.tone("low", 1, 192000), 192000)
    refused("clip.wav", "too short, 1 samples at 192000 Hz are not one at 8000 Hz")


def test_silence_and_clips_of_all_lengths_together(folder):
    for i, samples in enumerate((3, 4096, 5000, 40000)):
        soundfile.write(f"{i}.wav", np.zeros(samples) if i % 2 else tiny.tone("high", samples), 8000)
    result = infer("--json", ".")
    assert result.exit_code == 0 and len(result.stdout.splitlines()) == 4


@pytest.mark.skipif(os.name != "posix", reason="POSIX names of files")
def test_what_is_no_file_is_refused_at_once(folder):
    os.mkfifo("pipe.wav")
    refused("pipe.wav", "not a regular file")
    refused("/dev/zero", "not a regular file")
    (folder / "empty").mkdir()
    refused("empty", "holds no wav")
    (folder / "loop.wav").symlink_to("loop.wav")
    refused("loop.wav", "cannot be read")


@pytest.mark.skipif(os.name != "posix" or os.geteuid() == 0, reason="root may read everything")
def test_no_permission(folder):
    soundfile.write("mine.wav", tiny.tone("low"), 8000)
    os.chmod("mine.wav", 0)
    refused("mine.wav", "no permission")


@pytest.mark.parametrize(("rate", "channels"), [(0, 1), (2**31, 1), (8000, 0), (8000, 60000)])
def test_headers_of_nonsense_are_refused(folder, rate, channels):
    content = io.BytesIO()
    soundfile.write(content, tiny.tone("low"), 8000, format="WAV", subtype="PCM_16")
    whole = bytearray(content.getvalue())
    struct.pack_into("<HI", whole, 22, channels, rate)
    (folder / "odd.wav").write_bytes(whole)
    refused("odd.wav", "; ")


def sparse_rf64(path, frames, rate, channels, bits=64):
    """An RF64 file of zeros, of which the file system keeps the header alone."""
    block = channels * bits // 8
    size = frames * block
    form = struct.pack("<4sIHHIIHH", b"fmt ", 16, 1 if bits == 8 else 3, channels, rate, rate * block, block, bits)
    body = (
        struct.pack("<4sIQQQI", b"ds64", 28, size + 72, size, frames, 0)
        + form
        + struct.pack("<4sI", b"data", 2**32 - 1)
    )
    with open(path, "wb") as file:
        file.write(struct.pack("<4sI4s", b"RF64", 2**32 - 1, b"WAVE") + body)
        try:
            file.truncate(12 + len(body) + size)
        except OSError as error:
            pytest.skip(f"no sparse file of {size} bytes here: {error}")


def test_ten_hours_of_eight_channels_are_not_read_into_memory(folder):
    sparse_rf64("long.wav", 10 * 3600 * 192000, 192000, 8)
    before = peak_rss()
    with pytest.raises(InputError, match=r"long\.wav: 6912000000 frames of 8 channels are more than is read at once"):
        read_audio("long.wav", 8000)
    assert peak_rss(fresh=False) - before < 50_000


def test_a_header_that_promises_too_much_takes_no_memory(folder, monkeypatch):
    """libsndfile believes the 2**36 - 1 samples of a FLAC header until it decodes."""
    soundfile.write("clip.flac", tiny.tone("low"), 8000)
    whole = bytearray((folder / "clip.flac").read_bytes())
    whole[21] |= 0x0F  # the count's highest bits, in STREAMINFO
    whole[22:26] = b"\xff" * 4
    (folder / "clip.flac").write_bytes(whole)
    refused("clip.flac", "damaged or cut off")  # read piece by piece, it ends before its count
    with pytest.raises(InputError, match=f"{2**36 - 1} frames of 1 channels are more than is read at once"):
        read_audio("clip.flac", 8000)
    monkeypatch.setattr(audio, "MAX_VALUES", 2**40)
    with pytest.raises(InputError, match="; "):
        read_audio("clip.flac", 8000)
    assert MAX_VALUES < 2**36


def wav(samples, data_size=None):
    """(samples,) int16 as a WAV file whose header says `data_size`."""
    data = samples.astype("<i2").tobytes()
    size = len(data) if data_size is None else data_size
    form = struct.pack("<4sIHHIIHH", b"fmt ", 16, 1, 1, 8000, 16000, 2, 16)
    return (
        struct.pack("<4sI4s", b"RIFF", min(36 + size, 2**32 - 1), b"WAVE")
        + form
        + struct.pack("<4sI", b"data", size)
        + data
    )


@pytest.mark.parametrize("data_size", [0, None, 2**32 - 1])
def test_a_file_that_grows_while_it_is_read(folder, data_size):
    """A recorder at work: what is read is the beginning of what it writes, whatever its header says meanwhile."""
    ramp = np.arange(-20000, 20000)
    path = folder / "growing.wav"
    path.write_bytes(wav(ramp[:1000], data_size))
    stop = threading.Event()

    def record():
        with path.open("ab", buffering=0) as file:
            for start in range(1000, len(ramp), 50):
                file.write(ramp[start : start + 50].astype("<i2").tobytes())
                if stop.wait(0.0005):
                    return

    recorder = threading.Thread(target=record)
    recorder.start()
    try:
        for _ in range(40):
            samples = read_audio(path, 8000)
            assert len(samples) >= 1000 and (data_size is not None or len(samples) == 1000)
            np.testing.assert_array_equal(samples * 32768, ramp[: len(samples)])
    finally:
        stop.set()
        recorder.join()


@pytest.mark.parametrize("data_size", [0, None])
def test_a_file_that_shrinks_while_it_is_read(folder, monkeypatch, data_size):
    path = folder / "shrinking.wav"
    path.write_bytes(wav(np.arange(20000), data_size))
    opened, opens = soundfile.SoundFile, []

    def shrink(*args, **kwargs):
        sound = opened(*args, **kwargs)
        opens.append(sound)
        if len(opens) == 2:  # the first looks at the header alone
            os.truncate(path, 20000)
        return sound

    monkeypatch.setattr(audio.soundfile, "SoundFile", shrink)
    refused("shrinking.wav", "cut off")


def test_a_recording_without_its_size_is_read_from_the_disk_and_not_copied(folder):
    """32 MiB, of which libsndfile reads blocks."""
    path = folder / "killed.wav"
    ramp = np.resize(np.arange(-30000, 30000), 1 << 24)
    path.write_bytes(wav(ramp, 0))
    with audio._open(path) as sound:
        assert sound.frames == len(ramp)
        sound.seek(12_345_678)
        np.testing.assert_array_equal(sound.read(1000, dtype="int16"), ramp[12_345_678 : 12_345_678 + 1000])
