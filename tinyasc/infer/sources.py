"""Where `listen` hears: a pipe or a microphone, each with a queue between it and the model.

A *live* source goes on whether or not anybody reads. When its queue is full the oldest sound is dropped and counted, so
the newest is always at hand and memory is bounded. A source that *waits* (a file, a program that decodes one) is
read no quicker than it is answered, and loses nothing.
"""

from __future__ import annotations

import dataclasses
import threading
import time
from collections import deque
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from tinyasc.errors import InputError, TinyascError
from tinyasc.infer.pcm import PcmLayout, PcmReader, Read

BLOCK_SECONDS = 0.1
# What a live source may be late: some seconds of a model that is held up, but not so much that memory matters.
LIVE_SECONDS = 10.0
WAITING_SECONDS = 2.0
# A microphone that gives nothing for so long was unplugged.
DEAF_SECONDS = 5.0


@dataclass(frozen=True, eq=False)
class Block:
    """A stretch of sound.

    Args:
        samples: (frames, channels) float32.
        rate: Hz.
        lost: frames that were lost just before it; None where it follows the block before without a break, 0 where
            nobody knows how many.
    """

    samples: np.ndarray
    rate: int
    lost: int | None = None


class Source(Protocol):
    """What `listening.run` reads from."""

    def get(self, timeout: float) -> Block | None:
        """The next block; None at the end of the source.

        Raises:
            TimeoutError: none came within `timeout` seconds.
            TinyascError: the source failed.
        """
        ...

    def waiting_seconds(self) -> float:
        """How much sound a live source has waiting; 0 where it is the source that waits."""
        ...


class BlockQueue:
    """Blocks between a source's thread and the model's.

    Args:
        seconds: how much sound it holds.
        live: drop the oldest block when it is full; otherwise the source's thread waits.
    """

    def __init__(self, seconds: float, *, live: bool) -> None:
        self._capacity, self._live = seconds, live
        self._blocks: deque[Block] = deque()
        self._frames = 0
        self._rate = 1
        self._end = False
        self._error: TinyascError | None = None
        self._changed = threading.Condition()

    def put(self, block: Block) -> None:
        """Takes a block in; all are of one rate."""
        with self._changed:
            self._rate = block.rate
            while self._blocks and self._frames + len(block.samples) > self._capacity * self._rate:
                if not self._live:
                    self._changed.wait()
                    continue
                oldest = self._pop()
                lost = (oldest.lost or 0) + len(oldest.samples)
                if self._blocks:
                    self._blocks[0] = _after(lost, self._blocks[0])
                else:
                    block = _after(lost, block)
            self._blocks.append(block)
            self._frames += len(block.samples)
            self._changed.notify_all()

    def close(self, error: TinyascError | None = None) -> None:
        """No more blocks will come, for a reason or because the source is at its end."""
        with self._changed:
            self._end, self._error = True, self._error or error
            self._changed.notify_all()

    def get(self, timeout: float) -> Block | None:
        """As `Source.get`; what came before an error is given first."""
        with self._changed:
            if not self._changed.wait_for(lambda: self._blocks or self._end, timeout):
                raise TimeoutError
            if self._blocks:
                block = self._pop()
                self._changed.notify_all()
                return block
            if self._error is not None:
                raise self._error
            return None

    def waiting_seconds(self) -> float:
        """As `Source.waiting_seconds`."""
        with self._changed:
            return self._frames / self._rate if self._live else 0.0

    def _pop(self) -> Block:
        block = self._blocks.popleft()
        self._frames -= len(block.samples)
        return block


def _after(lost: int, block: Block) -> Block:
    return dataclasses.replace(block, lost=lost + (block.lost or 0))


class PipeSource:
    """PCM from a pipe, read by a thread of its own.

    Args:
        read: as `PcmReader`.
        default: as `PcmReader`.
        live: as `BlockQueue`.
        seconds: what its queue holds; None is 10 s live, and 2 s otherwise.
        given: `rate`, `channels` and `format` as `PcmReader`.

    Attributes:
        reader: what was found in the pipe; None until its first bytes have come.
    """

    def __init__(
        self, read: Read, default: PcmLayout, *, live: bool, seconds: float | None = None, **given: Any
    ) -> None:
        self.reader: PcmReader | None = None
        self._queue = BlockQueue(seconds or (LIVE_SECONDS if live else WAITING_SECONDS), live=live)
        self.get, self.waiting_seconds = self._queue.get, self._queue.waiting_seconds
        # A thread that waits in `read` cannot be woken: as a daemon it does not keep the process alive.
        threading.Thread(target=self._pump, args=(read, default, given), daemon=True).start()

    def _pump(self, read: Read, default: PcmLayout, given: dict[str, Any]) -> None:
        try:
            reader = PcmReader(read, default, **given)
            self.reader = reader
            rate = reader.layout.rate
            while len(samples := reader.frames(max(1, round(BLOCK_SECONDS * rate)))):
                self._queue.put(Block(samples, rate))
            self._queue.close()
        except TinyascError as error:
            self._queue.close(error)
        except (OSError, ValueError) as error:
            reason = getattr(error, "strerror", None) or str(error)
            self._queue.close(TinyascError(f"standard input cannot be read: {reason}; check what writes to it"))


class Microphone:
    """A sound card's input, through sounddevice and PortAudio.

    Args:
        rate: Hz; None asks the device for `default_rate` and takes its own where it has no such rate.
        default_rate: Hz, the front end's.
        channels: 1, or 2 for a stereo front end.
        device: its number or a part of its name; None is the system's default.

    Attributes:
        rate: Hz, what the device records at.
        name: the device's.

    Raises:
        InputError: no such device, or not with this rate and these channels.
        TinyascError: sounddevice or PortAudio is not installed, or there is no microphone.
    """

    def __init__(self, rate: int | None, default_rate: int, channels: int, device: str | None = None) -> None:
        sounddevice = load_sounddevice()
        which: int | str | None = int(device) if device is not None and device.isdecimal() else device
        try:
            found: Any = sounddevice.query_devices(which, "input")
        except (sounddevice.PortAudioError, ValueError) as error:
            if device is None:
                raise TinyascError(
                    f"no microphone: {_said(error)}; plug one in, or pipe PCM into `tinyasc listen -`"
                ) from None
            raise InputError(f"--device {device}: {_said(error)}; `tinyasc listen --devices` lists them") from None
        self.name, self.rate = str(found["name"]), rate or default_rate
        self._queue = BlockQueue(LIVE_SECONDS, live=True)
        self.waiting_seconds = self._queue.waiting_seconds
        self._last = time.monotonic()
        settings: dict[str, Any] = {"device": which, "channels": channels, "dtype": "float32"}
        try:
            if rate is None:
                try:
                    sounddevice.check_input_settings(samplerate=self.rate, **settings)
                except sounddevice.PortAudioError:
                    self.rate = int(found["default_samplerate"])
            self._stream = sounddevice.InputStream(
                samplerate=self.rate,
                blocksize=round(BLOCK_SECONDS * self.rate),
                latency="high",
                callback=self._take,
                finished_callback=self._ended,
                **settings,
            )
            self._stream.start()
        except (sounddevice.PortAudioError, ValueError) as error:
            raise InputError(
                f"{self.name}: cannot record {channels} channel{'s' if channels > 1 else ''} at {self.rate} Hz: "
                f"{_said(error)}; try --rate or another --device"
            ) from None

    def get(self, timeout: float) -> Block | None:
        """As `Source.get`; a microphone that falls silent as a device raises TinyascError after 5 s."""
        try:
            block = self._queue.get(timeout)
        except TimeoutError:
            if time.monotonic() - self._last > DEAF_SECONDS:
                raise TinyascError(f"{self.name}: gave no sound for {DEAF_SECONDS:g} s; is it unplugged?") from None
            raise
        self._last = time.monotonic()
        return block

    def close(self) -> None:
        """Lets go of the device."""
        self._stream.close(ignore_errors=True)

    def _take(self, samples: np.ndarray, frames: int, clock: Any, status: Any) -> None:
        """Called by PortAudio's thread; `samples` are only lent."""
        del frames, clock
        self._queue.put(Block(samples.copy(), self.rate, 0 if status.input_overflow else None))

    def _ended(self) -> None:
        self._queue.close(TinyascError(f"{self.name}: the device stopped recording; is it unplugged?"))


def load_sounddevice() -> Any:
    """The package, which only the microphone needs.

    Raises:
        TinyascError: it, or the PortAudio library that it calls, is not installed.
    """
    try:
        import sounddevice  # pyright: ignore[reportMissingImports]
    except ModuleNotFoundError:
        raise TinyascError(
            "the microphone needs sounddevice, which the bare install leaves out; install it with: "
            "pip install 'tinyasc[listen]', or pipe PCM into `tinyasc listen -`"
        ) from None
    except OSError as error:  # "PortAudio library not found"
        raise TinyascError(
            f"the microphone needs PortAudio ({_said(error)}); install it (Debian and Raspberry Pi OS: "
            "apt install libportaudio2), or pipe PCM into `tinyasc listen -`"
        ) from None
    return sounddevice


def _said(error: BaseException) -> str:
    """A library's complaint on one line."""
    return " ".join(str(error).split()).rstrip(".")[:200]
