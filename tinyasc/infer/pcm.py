"""PCM that comes through a pipe: what its bytes mean, a WAV header in front of it, samples as float32.

Numbers are scaled as libsndfile scales a file's, so sound through a pipe and from a file has the same bits.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from tinyasc.errors import InputError

# Bytes of one sample, by ffmpeg's name of the format. s24le is packed: what ALSA calls S24_3LE.
FORMATS = {"u8": 1, "s16le": 2, "s24le": 3, "s32le": 4, "f32le": 4, "f64le": 8}
MAX_RATE, MAX_CHANNELS = 768_000, 64

_WAV_FORMATS = {(1, 8): "u8", (1, 16): "s16le", (1, 24): "s24le", (1, 32): "s32le", (3, 32): "f32le", (3, 64): "f64le"}
_EXTENSIBLE = 0xFFFE
# Writers to a pipe do not know the size: arecord leaves 0x80000000, sox about 0x7FFFF000, ffmpeg 0xFFFFFFFF, others 0.
_UNKNOWN_SIZE = 0x7FFF0000
_LONGEST_CHUNK = 1 << 20  # of a header; arecord, sox and ffmpeg write a few dozen bytes
# First bytes of other containers. MP3 without an ID3 tag begins like many a quiet recording and is not told apart.
_CONTAINERS = {
    b"RIFX": "big-endian WAV",
    b"fLaC": "FLAC",
    b"OggS": "Ogg",
    b"FORM": "AIFF",
    b"caff": "CAF",
    b"ID3": "MP3",
}

Read = Callable[[int], bytes]


@dataclass(frozen=True)
class PcmLayout:
    """What the bytes of a stream mean.

    Args:
        rate: frames per second, Hz.
        channels: samples per frame, interleaved.
        format: one of `FORMATS`.

    Raises:
        InputError: a value out of range.
    """

    rate: int
    channels: int
    format: str

    def __post_init__(self) -> None:
        if not 1 <= self.rate <= MAX_RATE:
            raise InputError(f"PCM: the rate must lie in 1..{MAX_RATE} Hz, got {self.rate}")
        if not 1 <= self.channels <= MAX_CHANNELS:
            raise InputError(f"PCM: there must be 1 to {MAX_CHANNELS} channels, got {self.channels}")
        if self.format not in FORMATS:
            raise InputError(f"PCM: the format must be one of {', '.join(FORMATS)}, got {self.format!r}")

    @property
    def frame_bytes(self) -> int:
        """Bytes of one sample of every channel."""
        return FORMATS[self.format] * self.channels

    def __str__(self) -> str:
        return f"{self.rate} Hz, {self.channels} channel{'s' if self.channels > 1 else ''}, {self.format}"


class PcmReader:
    """Whole frames from a stream of bytes, whichever way its writer cut them.

    Args:
        read: gives up to n bytes, and none at the end of the stream, as `os.read` on a pipe does.
        default: the layout of bare PCM where `rate`, `channels` or `format` are not given.
        rate: Hz; None is the default's, or the WAV header's.
        channels: the same.
        format: the same.

    Attributes:
        layout: what the bytes mean.
        wav: the stream began with a WAV header.
        torn_bytes: bytes of an unfinished frame at the end of the stream.

    Raises:
        InputError: a damaged WAV header, one that contradicts what was given, or another container.
    """

    def __init__(
        self,
        read: Read,
        default: PcmLayout,
        *,
        rate: int | None = None,
        channels: int | None = None,
        format: str | None = None,
    ) -> None:
        self._read, self.torn_bytes = read, 0
        self._left: int | None = None  # bytes of sound to come, where a WAV header says so
        self._head = b""  # bytes that were read to see what they are, and are sound
        given = {"rate": rate, "channels": channels, "format": format}
        self._head = self._exactly(12)
        self.wav = self._head[:4] in (b"RIFF", b"RF64") and self._head[8:] == b"WAVE"
        if self.wav:
            self._head = b""
            self.layout = self._wav_header()
            for name, value in given.items():
                stated = getattr(self.layout, name)
                if value not in (None, stated):
                    raise InputError(
                        f"standard input is a WAV stream of {self.layout}, but --{name} says {value}; leave it out"
                    )
            return
        for magic, name in _CONTAINERS.items():
            if self._head.startswith(magic):
                raise InputError(
                    f"standard input is {name}, not PCM; decode it first (ffmpeg -i - -f s16le -, or -f wav), or save "
                    "it and use `tinyasc infer`"
                )
        self.layout = PcmLayout(rate or default.rate, channels or default.channels, format or default.format)

    def frames(self, n: int) -> np.ndarray:
        """The next n frames, (frames, channels) float32; fewer at the end of the stream, none after it."""
        size = self.layout.frame_bytes
        data = self._exactly(n * size if self._left is None else min(n * size, self._left))
        if self._left is not None:
            self._left -= len(data)
        if torn := len(data) % size:
            self.torn_bytes = torn
            data = data[:-torn]
        return decode(data, self.layout)

    def _exactly(self, n: int) -> bytes:
        """The next n bytes; fewer only at the end of the stream."""
        parts, missing = [], n
        if self._head:
            parts, self._head = [self._head[:n]], self._head[n:]
            missing -= len(parts[0])
        while missing and (part := self._read(missing)):
            parts.append(part)
            missing -= len(part)
        return b"".join(parts)

    def _wav_header(self) -> PcmLayout:
        """Reads up to the samples; after them other chunks may follow, which are no sound."""
        layout = long_size = None
        while len(chunk := self._exactly(8)) == 8:
            name, length = chunk[:4], struct.unpack("<I", chunk[4:])[0]
            if name == b"data":
                if layout is None:
                    raise InputError("standard input: a WAV header without a fmt chunk; send raw PCM, or write it anew")
                length = long_size if length == 0xFFFFFFFF and long_size else length
                self._left = length if 0 < length < _UNKNOWN_SIZE or length == long_size else None
                return layout
            if length > _LONGEST_CHUNK:
                raise InputError(f"standard input: a WAV header with a chunk of {length} bytes; it is damaged")
            body = self._exactly(length + length % 2)[:length]
            if name == b"fmt ":
                layout = _layout_of(body)
            elif name == b"ds64" and len(body) >= 16:
                long_size = struct.unpack("<QQ", body[:16])[1]
        raise InputError("standard input: ended inside its WAV header; check what writes to it")


def decode(data: bytes, layout: PcmLayout) -> np.ndarray:
    """Bytes of whole frames to (frames, channels) float32; integers are scaled to -1..1."""
    kind = layout.format
    if kind == "u8":
        samples = (np.frombuffer(data, np.uint8).astype(np.float32) - 128) / 128
    elif kind == "s24le":
        words = np.zeros((len(data) // 3, 4), np.uint8)
        words[:, 1:] = np.frombuffer(data, np.uint8).reshape(-1, 3)
        samples = words.view("<i4")[:, 0].astype(np.float32) / 2.0**31
    elif kind in ("s16le", "s32le"):
        integers = np.frombuffer(data, f"<i{FORMATS[kind]}")
        samples = integers.astype(np.float32) / 2.0 ** (8 * integers.itemsize - 1)
    else:
        with np.errstate(over="ignore"):  # becomes infinite, and is counted as such
            samples = np.frombuffer(data, f"<f{FORMATS[kind]}").astype(np.float32)
    return samples.reshape(-1, layout.channels)


def _layout_of(fmt: bytes) -> PcmLayout:
    """The layout that a WAV's fmt chunk states."""
    if len(fmt) < 16:
        raise InputError(f"standard input: a WAV header with a fmt chunk of {len(fmt)} bytes; it is damaged")
    code, channels, rate, _, frame_bytes, bits = struct.unpack("<HHIIHH", fmt[:16])
    if code == _EXTENSIBLE and len(fmt) >= 26:
        code = struct.unpack("<H", fmt[24:26])[0]
    name = _WAV_FORMATS.get((code, bits))
    if name is None or frame_bytes != FORMATS[name] * channels:
        raise InputError(
            f"standard input: a WAV stream of format {code}, {bits} bits, {frame_bytes} bytes per frame of {channels} "
            "channels; send PCM of 8, 16, 24 or 32 bits, or floats"
        )
    return PcmLayout(rate, channels, name)
