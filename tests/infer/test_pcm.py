import io
import struct

import numpy as np
import pytest
import soundfile
from hypothesis import given, settings
from hypothesis import strategies as st

from tinyasc.audio import read_audio
from tinyasc.errors import InputError
from tinyasc.infer.pcm import FORMATS, PcmLayout, PcmReader, decode

DEFAULT = PcmLayout(8000, 1, "s16le")
SUBTYPES = {
    "u8": "PCM_U8",
    "s16le": "PCM_16",
    "s24le": "PCM_24",
    "s32le": "PCM_32",
    "f32le": "FLOAT",
    "f64le": "DOUBLE",
}


def wav(samples, rate, name, container="WAV") -> bytes:
    file = io.BytesIO()
    soundfile.write(file, samples, rate, SUBTYPES[name], format=container)
    return file.getvalue()


def everything(reader, n=100):
    parts = []
    while len(part := reader.frames(n)):
        parts.append(part)
    return np.concatenate(parts) if parts else np.zeros((0, reader.layout.channels), np.float32)


def in_pieces(data, sizes):
    """A `read` that gives at most the sizes in turn, as a pipe gives what its writer wrote."""
    stream, turn = io.BytesIO(data), iter(range(10**9))
    return lambda n: stream.read(min(n, sizes[next(turn) % len(sizes)]))


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("channels", [1, 2, 3])
def test_samples_have_the_bits_that_libsndfile_reads(name, channels, rng, tmp_path):
    samples = np.clip(rng.normal(0, 0.5, (333, channels)), -1, 1)
    data = wav(samples, 8000, name)
    expected = soundfile.read(io.BytesIO(data), dtype="float32", always_2d=True)[0]
    reader = PcmReader(io.BytesIO(data).read, DEFAULT)
    assert reader.wav and reader.layout == PcmLayout(8000, channels, name)
    np.testing.assert_array_equal(everything(reader), expected)
    soundfile.write(tmp_path / "bare.raw", samples, 8000, SUBTYPES[name], format="RAW", endian="LITTLE")
    bare = (tmp_path / "bare.raw").read_bytes()
    np.testing.assert_array_equal(decode(bare, reader.layout), expected)
    if channels == 1:
        (tmp_path / "clip.wav").write_bytes(data)
        np.testing.assert_array_equal(expected[:, 0], read_audio(tmp_path / "clip.wav", 8000))


@settings(max_examples=50, deadline=None)
@given(
    data=st.binary(max_size=400),
    sizes=st.lists(st.integers(1, 50), min_size=1),
    name=st.sampled_from(sorted(FORMATS)),
    channels=st.integers(1, 3),
    n=st.integers(1, 20),
)
def test_the_writers_cuts_do_not_matter(data, sizes, name, channels, n):
    data = b"0123" + data  # no container's magic
    layout = PcmLayout(8000, channels, name)
    reader = PcmReader(in_pieces(data, sizes), layout)
    whole = len(data) // layout.frame_bytes * layout.frame_bytes
    np.testing.assert_array_equal(everything(reader, n), decode(data[:whole], layout))
    assert reader.torn_bytes == len(data) - whole


def test_what_is_given_beats_the_default():
    reader = PcmReader(io.BytesIO(bytes(64)).read, DEFAULT, rate=16000, channels=2, format="f32le")
    assert not reader.wav and reader.layout == PcmLayout(16000, 2, "f32le")
    assert everything(reader).shape == (8, 2)


def test_a_header_may_be_confirmed_but_not_contradicted(rng):
    data = wav(rng.normal(0, 0.1, 50), 44100, "s24le")
    PcmReader(io.BytesIO(data).read, DEFAULT, rate=44100, channels=1, format="s24le")
    for name, value in (("rate", 32000), ("channels", 2), ("format", "s16le")):
        with pytest.raises(InputError, match=f"44100 Hz, 1 channel, s24le, but --{name} says {value}"):
            PcmReader(io.BytesIO(data).read, DEFAULT, **{name: value})


@pytest.mark.parametrize("size", [0, 0x7FFFF000, 0x80000000, 0xFFFFFFFF])
def test_a_streamed_header_without_a_size_is_read_to_the_end(size, rng):
    data = bytearray(wav(rng.normal(0, 0.1, 50), 8000, "s16le"))
    at = data.index(b"data") + 4
    data[at : at + 4] = struct.pack("<I", size)
    assert len(everything(PcmReader(io.BytesIO(data).read, DEFAULT))) == 50


def test_chunks_around_the_samples_are_no_sound(rng):
    data = bytearray(wav(rng.normal(0, 0.1, 50), 8000, "s16le"))
    at = data.index(b"data")
    data[at:at] = b"LIST" + struct.pack("<I", 5) + b"hello\0"
    data += b"LIST" + struct.pack("<I", 300) + bytes(300)
    assert len(everything(PcmReader(io.BytesIO(data).read, DEFAULT))) == 50


def test_rf64_and_extensible_headers_are_read(rng):
    samples = rng.normal(0, 0.1, (50, 2))
    for container in ("RF64", "WAVEX"):
        reader = PcmReader(io.BytesIO(wav(samples, 48000, "s24le", container) + bytes(7)).read, DEFAULT)
        assert reader.layout == PcmLayout(48000, 2, "s24le"), container
        assert len(everything(reader)) == 50, container


def test_a_cut_off_wav_gives_what_is_there(rng):
    data = wav(rng.normal(0, 0.1, 50), 8000, "s16le")
    reader = PcmReader(io.BytesIO(data[:-11]).read, DEFAULT)
    assert len(everything(reader)) == 44 and reader.torn_bytes == 1


def fmt(code, channels, rate, frame_bytes, bits):
    chunk = struct.pack("<HHIIHH", code, channels, rate, 0, frame_bytes, bits)
    return b"RIFF" + bytes(4) + b"WAVEfmt " + struct.pack("<I", 16) + chunk + b"data" + bytes(4)


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b"RIFF" + bytes(4) + b"WAVE", "ended inside its WAV header"),
        (b"RIFF" + bytes(4) + b"WAVEdata" + bytes(8), "without a fmt chunk"),
        (b"RIFF" + bytes(4) + b"WAVEfmt " + struct.pack("<I", 3) + bytes(8), "a fmt chunk of 3 bytes"),
        (b"RIFF" + bytes(4) + b"WAVELIST\xff\xff\xff\xff", "a chunk of 4294967295 bytes"),
        (fmt(2, 1, 8000, 1, 4), "format 2, 4 bits"),
        (fmt(1, 2, 8000, 2, 16), "2 bytes per frame of 2 channels"),
        (fmt(1, 0, 8000, 0, 16), "1 to 64 channels, got 0"),
        (fmt(1, 1, 0, 2, 16), "the rate must lie in 1..768000 Hz, got 0"),
        (b"RIFX" + bytes(40), "is big-endian WAV, not PCM"),
        (b"fLaC" + bytes(40), "is FLAC, not PCM"),
        (b"OggS" + bytes(40), "is Ogg, not PCM"),
        (b"ID3\x03" + bytes(40), "is MP3, not PCM"),
        (b"FORM" + bytes(40), "is AIFF, not PCM"),
    ],
)
def test_what_is_no_pcm_is_refused(data, says):
    with pytest.raises(InputError, match=says):
        PcmReader(io.BytesIO(data).read, DEFAULT)


@settings(max_examples=200, deadline=None)
@given(data=st.binary(max_size=200), junk=st.booleans())
def test_no_header_ends_in_anything_but_a_refusal(data, junk):
    try:
        everything(PcmReader(io.BytesIO((b"RIFF1234WAVE" if junk else b"") + data).read, DEFAULT))
    except InputError as error:
        assert "\n" not in str(error)


@pytest.mark.parametrize(("rate", "channels", "name"), [(0, 1, "u8"), (1, 65, "u8"), (1, 1, "s8"), (10**6, 1, "u8")])
def test_layouts_out_of_range_are_refused(rate, channels, name):
    with pytest.raises(InputError, match="PCM: "):
        PcmLayout(rate, channels, name)
