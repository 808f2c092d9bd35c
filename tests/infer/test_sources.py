import io
import os
import sys
import threading
import time
import types

import numpy as np
import pytest

from tinyasc.errors import InputError, TinyascError
from tinyasc.infer.pcm import PcmLayout
from tinyasc.infer.sources import Block, BlockQueue, Microphone, PipeSource, load_sounddevice

LAYOUT = PcmLayout(1000, 1, "s16le")


def numbered(i, lost=None):
    return Block(np.full((1000, 1), i, np.float32), 1000, lost)


def drained(source):
    blocks = []
    while (block := source.get(5)) is not None:
        blocks.append(block)
    return blocks


def test_a_full_live_queue_drops_the_oldest_and_counts_it():
    queue = BlockQueue(3, live=True)
    for i in range(10):
        queue.put(numbered(i))
        assert queue.waiting_seconds() <= 3
    queue.close()
    blocks = drained(queue)
    assert [int(block.samples[0, 0]) for block in blocks] == [7, 8, 9]
    assert [block.lost for block in blocks] == [7000, None, None]
    assert queue.waiting_seconds() == 0


def test_losses_add_up_across_dropped_blocks():
    queue = BlockQueue(1, live=True)
    queue.put(numbered(0, lost=5))
    queue.put(numbered(1, lost=0))
    queue.put(numbered(2, lost=30))
    queue.close()
    (block,) = drained(queue)
    assert block.lost == 5 + 1000 + 0 + 1000 + 30


def test_a_waiting_queue_holds_its_source_back_and_loses_nothing():
    queue, put = BlockQueue(2, live=False), []

    def fill():
        for i in range(20):
            queue.put(numbered(i))
            put.append(i)
        queue.close()

    threading.Thread(target=fill, daemon=True).start()
    time.sleep(0.1)
    assert put == [0, 1] and queue.waiting_seconds() == 0
    blocks = drained(queue)
    assert [int(block.samples[0, 0]) for block in blocks] == list(range(20))
    assert all(block.lost is None for block in blocks)


def test_a_block_longer_than_the_queue_still_passes():
    queue = BlockQueue(0.5, live=True)
    queue.put(numbered(1))
    assert len(queue.get(0).samples) == 1000


def test_an_empty_queue_times_out_and_an_error_comes_after_the_sound():
    queue = BlockQueue(5, live=True)
    with pytest.raises(TimeoutError):
        queue.get(0.01)
    queue.put(numbered(1))
    queue.close(TinyascError("unplugged"))
    queue.close()
    assert queue.get(0).lost is None
    for _ in range(2):
        with pytest.raises(TinyascError, match="unplugged"):
            queue.get(0)


def test_a_pipe_is_read_in_blocks_of_a_tenth_of_a_second(rng):
    data = rng.integers(-30000, 30000, 1234).astype("<i2")
    source = PipeSource(io.BytesIO(data.tobytes() + b"x").read, LAYOUT, live=False)
    blocks = drained(source)
    assert [len(block.samples) for block in blocks] == [100] * 12 + [34]
    np.testing.assert_array_equal(np.concatenate([b.samples for b in blocks])[:, 0], data / 2**15)
    assert source.reader is not None and source.reader.torn_bytes == 1


def test_a_refused_stream_and_a_broken_one_are_errors_of_the_source():
    with pytest.raises(InputError, match="is FLAC"):
        PipeSource(io.BytesIO(b"fLaC" + bytes(100)).read, LAYOUT, live=True).get(5)

    def fails(n):
        raise OSError(5, "Input/output error")

    with pytest.raises(TinyascError, match="standard input cannot be read: Input/output error"):
        PipeSource(fails, LAYOUT, live=True).get(5)


@pytest.mark.skipif(os.name != "posix", reason="a pipe of the system")
def test_a_live_pipe_drops_only_when_its_queue_is_full():
    """The writer of a pipe never waits: what is not fetched is lost, the newest two seconds are at hand."""
    reading, writing = os.pipe()
    source = PipeSource(lambda n: os.read(reading, n), LAYOUT, live=True, seconds=2)
    for i in range(50):
        os.write(writing, np.full(100, i, "<i2").tobytes())
    os.close(writing)
    deadline = time.monotonic() + 5
    while source._queue._end is False and time.monotonic() < deadline:
        time.sleep(0.01)
    blocks = drained(source)
    os.close(reading)
    assert blocks[0].lost == 5000 - sum(len(block.samples) for block in blocks) == 3000
    assert [round(2**15 * float(b.samples[0, 0])) for b in blocks] == list(range(30, 50))


class PortAudioError(Exception):
    pass


class FakeStream:
    """What sounddevice's stream is to us: a callback that is called with lent memory."""

    def __init__(self, **settings):
        self.settings = settings
        if settings["samplerate"] not in FakeStream.rates:
            raise PortAudioError("Invalid sample rate")
        FakeStream.last = self

    rates = (32000, 44100)
    last: "FakeStream"
    closed = False

    def start(self):
        pass

    def close(self, ignore_errors=False):
        self.closed = True

    def send(self, samples, overflow=False):
        self.settings["callback"](samples, len(samples), None, types.SimpleNamespace(input_overflow=overflow))


@pytest.fixture
def fake_sounddevice(monkeypatch):
    module = types.ModuleType("sounddevice")

    def query_devices(device=None, kind=None):
        if device == "nothing":
            raise ValueError("No input device matching 'nothing'")
        return {"name": f"mic {device}", "default_samplerate": 44100.0}

    def check_input_settings(**settings):
        if settings["samplerate"] not in FakeStream.rates:
            raise PortAudioError("Invalid sample rate")

    for name, value in {
        "PortAudioError": PortAudioError,
        "query_devices": query_devices,
        "check_input_settings": check_input_settings,
        "InputStream": FakeStream,
    }.items():
        setattr(module, name, value)
    monkeypatch.setitem(sys.modules, "sounddevice", module)
    return module


def test_a_microphone_gives_copies_and_says_where_sound_was_lost(fake_sounddevice):
    microphone = Microphone(None, 32000, 1, "3")
    assert (microphone.name, microphone.rate) == ("mic 3", 32000)
    settings = FakeStream.last.settings
    assert settings["device"] == 3 and settings["channels"] == 1 and settings["blocksize"] == 3200
    lent = np.ones((10, 1), np.float32)
    FakeStream.last.send(lent)
    lent[:] = 2
    FakeStream.last.send(lent, overflow=True)
    first, second = microphone.get(1), microphone.get(1)
    assert first is not None and second is not None
    assert first.samples.sum() == 10 and first.lost is None and second.lost == 0
    microphone.close()
    assert FakeStream.last.closed


def test_a_rate_that_the_microphone_lacks_gives_its_own(fake_sounddevice):
    assert Microphone(None, 16000, 1).rate == 44100
    assert Microphone(44100, 32000, 1).rate == 44100
    with pytest.raises(InputError, match="cannot record 2 channels at 8000 Hz: Invalid sample rate"):
        Microphone(8000, 32000, 2)


def test_a_microphone_that_is_not_there_or_goes_away_is_one_line(fake_sounddevice, monkeypatch):
    with pytest.raises(InputError, match="--device nothing: No input device"):
        Microphone(None, 32000, 1, "nothing")
    microphone = Microphone(None, 32000, 1)
    with pytest.raises(TimeoutError):
        microphone.get(0.01)
    monkeypatch.setattr("tinyasc.infer.sources.DEAF_SECONDS", 0.0)
    with pytest.raises(TinyascError, match="gave no sound for 0 s; is it unplugged"):
        microphone.get(0.01)
    FakeStream.last.settings["finished_callback"]()
    with pytest.raises(TinyascError, match="the device stopped recording"):
        microphone.get(1)

    def none_at_all(*args):
        raise PortAudioError("Error querying device -1")

    fake_sounddevice.query_devices = none_at_all
    with pytest.raises(TinyascError, match="no microphone: Error querying device -1; plug one in"):
        Microphone(None, 32000, 1)


def test_without_sounddevice_or_portaudio_it_says_how_to_get_them(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "sounddevice", None)
    with pytest.raises(TinyascError, match=r"pip install 'tinyasc\[listen\]'"):
        load_sounddevice()
    monkeypatch.delitem(sys.modules, "sounddevice")
    (tmp_path / "sounddevice.py").write_text("raise OSError('PortAudio library not found')")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(TinyascError, match=r"PortAudio library not found.*apt install libportaudio2"):
        load_sounddevice()
