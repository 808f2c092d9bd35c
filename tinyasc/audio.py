"""Reading audio files: any rate, any channel count, any sample width in; mono or stereo float32 at one rate out.

What can be handled rightly is handled (stereo, other rates, silence, streamed WAV headers). What cannot is
refused in one line. libsndfile quietly returns fewer frames than a cut-off WAV promises, so RIFF headers are
read here.
"""

from __future__ import annotations

import contextlib
import io
import os
import stat
import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import soundfile

from tinyasc.errors import InputError

# Writers to a pipe cannot go back to fill in the size: ffmpeg leaves 0xFFFFFFFF, sox about 0x7FFFF000,
# arecord 0x80000000.
_UNKNOWN_SIZE = 0x7FFF0000
# Of one block of `read_blocks`: 1 MiB as float32.
BLOCK_VALUES = 1 << 18
# Of one file in memory: 4 GiB, three hours in stereo at 48 kHz. A few MB of FLAC can hold days of silence.
MAX_VALUES = 1 << 30


@dataclass(frozen=True)
class AudioInfo:
    """What a file holds, before mixing down and resampling.

    Args:
        sample_rate: Hz.
        channels: channels in the file.
        frames: samples per channel.
    """

    sample_rate: int
    channels: int
    frames: int

    @property
    def seconds(self) -> float:
        """Length in seconds."""
        return self.frames / self.sample_rate


def read_audio(path: str | Path, sample_rate: int, *, stereo: bool = False) -> np.ndarray:
    """Reads one file as mono or stereo samples at `sample_rate`.

    Args:
        path: a WAV, FLAC, Ogg, MP3 or other file that libsndfile opens.
        sample_rate: the wanted rate in Hz; soxr ("HQ") resamples when the file's rate differs.
        stereo: keep left and right apart.

    Returns:
        (samples,) float32, the mean of the channels, nominally in -1..1; in stereo (2, samples).

    Raises:
        InputError: the file is missing, unreadable, not audio, damaged, cut off or empty, or holds NaN or
            infinity; or stereo is wanted of another number of channels.
    """
    return read_segments(path, sample_rate, [None], stereo=stereo)[0]


def read_segments(
    path: str | Path, sample_rate: int, segments: Sequence[tuple[float, float] | None], *, stereo: bool = False
) -> list[np.ndarray]:
    """Reads parts of one file, which is decoded once.

    Each part is cut before it is resampled, so it equals what `read_audio` reads from a file of its own.

    Args:
        path: as `read_audio`.
        sample_rate: as `read_audio`.
        segments: (start, end) in seconds, rounded to the file's nearest samples; None is the whole file.
        stereo: as `read_audio`.

    Returns:
        (samples,) float32 of every part; in stereo (2, samples).

    Raises:
        InputError: as `read_audio`, or a part that ends after the file does.
    """
    samples, file_rate = _decode(path)
    _refuse_non_finite(path, samples, file_rate)
    _refuse_other_channels(path, samples.shape[1], stereo)
    parts = []
    for segment in segments:
        part = samples
        if segment is not None:
            start, end = (round(second * file_rate) for second in segment)
            if not 0 <= start < end <= len(samples):
                raise InputError(
                    f"{path}: seconds {segment[0]:g} to {segment[1]:g} are no part of it, it holds "
                    f"{len(samples) / file_rate:.3f} s; mend the list, or copy the file again"
                )
            part = samples[start:end]
        part = part if stereo else _mono(part)
        if file_rate != sample_rate:
            part = _resample(path, part, file_rate, sample_rate)
        parts.append(np.ascontiguousarray(part.T))
    return parts


def read_info(path: str | Path) -> AudioInfo:
    """Reads a file's rate, channels and length without decoding its samples.

    Raises:
        InputError: as `read_audio`, except for what only the samples show.
    """
    with _open(path) as sound:
        return AudioInfo(sample_rate=sound.samplerate, channels=sound.channels, frames=sound.frames)


def resampled_length(frames: int, from_rate: int, to_rate: int) -> int:
    """Samples that `frames` become at another rate: soxr's own count, the nearest whole number."""
    return (2 * frames * to_rate + from_rate) // (2 * from_rate)


def read_blocks(path: str | Path, sample_rate: int, *, stereo: bool = False) -> Iterator[np.ndarray]:
    """Reads one file piece by piece: together the very samples that `read_audio` gives (of MP3 but for the last bit).

    One block is held at a time, `BLOCK_VALUES` values of the file, and what soxr keeps of its own filter.

    Args:
        path: as `read_audio`.
        sample_rate: as `read_audio`.
        stereo: as `read_audio`.

    Yields:
        (samples,) float32, of varying length; in stereo (2, samples).

    Raises:
        InputError: as `read_audio`; what only later samples show is raised when they are read.
    """
    with _open(path) as sound:
        rate, frames, channels = sound.samplerate, sound.frames, sound.channels
        _refuse_other_channels(path, channels, stereo)
        stream = _resampler(path, rate, sample_rate, 2 if stereo else 1) if rate != sample_rate else None
        read = 0
        while read < frames or read == 0:
            try:
                samples = sound.read(max(1, BLOCK_VALUES // channels), dtype="float32", always_2d=True)
            except (soundfile.SoundFileError, RuntimeError, OSError) as error:
                raise InputError(f"{path}: damaged or cut off ({_reason(error)}); copy or convert it again") from None
            _refuse_missing(path, read + len(samples), frames, end=len(samples) == 0)
            _refuse_non_finite(path, samples, rate, read)
            read += len(samples)
            part = samples if stereo else _mono(samples)
            if stream is not None:
                part = stream.resample_chunk(part, last=read >= frames)
            yield np.ascontiguousarray(part.T)


def _decode(path: str | Path) -> tuple[np.ndarray, int]:
    """The file's samples, (frames, channels) float32, and its rate."""
    with _open(path) as sound:
        if sound.frames * sound.channels > MAX_VALUES:
            raise InputError(
                f"{path}: {sound.frames} frames of {sound.channels} channels are more than is read at once; cut it "
                "into shorter files"
            )
        try:
            # The count is named because soundfile does not look it up in files that cannot be wound back (GSM).
            samples = sound.read(sound.frames, dtype="float32", always_2d=True)
        except (soundfile.SoundFileError, RuntimeError, OSError) as error:
            raise InputError(f"{path}: damaged or cut off ({_reason(error)}); copy or convert it again") from None
        except (MemoryError, ValueError):
            raise InputError(f"{path}: {sound.frames} frames do not fit in memory; cut it into shorter files") from None
        _refuse_missing(path, len(samples), sound.frames, end=True)
        return samples, sound.samplerate


def _refuse_missing(path: str | Path, read: int, frames: int, *, end: bool) -> None:
    """Refuses a file that holds no samples, or whose samples end before its header says."""
    if not end:
        return
    if read == 0:
        raise InputError(f"{path}: holds no samples; record or export it again")
    if read < frames:
        raise InputError(
            f"{path}: cut off, its header promises {frames} frames but {read} are there; copy or export it again"
        )


def _refuse_other_channels(path: str | Path, channels: int, stereo: bool) -> None:
    if stereo and channels != 2:
        raise InputError(
            f"{path}: stereo is wanted and its channels are {channels}; give a stereo recording, or take a "
            "mono front end"
        )


def _mono(samples: np.ndarray) -> np.ndarray:
    """The mean of the channels, (frames,) float32, of (frames, channels)."""
    # The mean is taken in float64 so that two channels near the largest float32 do not overflow.
    return samples[:, 0] if samples.shape[1] == 1 else samples.mean(axis=1, dtype=np.float64).astype(np.float32)


@contextlib.contextmanager
def _open(path: str | Path) -> Iterator[soundfile.SoundFile]:
    """Opens a file whose existence, size and RIFF header have been checked, and closes it."""
    try:
        if not stat.S_ISREG((status := os.stat(path)).st_mode):
            kind = "a folder" if stat.S_ISDIR(status.st_mode) else "not a regular file"
            raise InputError(f"{path}: is {kind}; give the path of one audio file")
        with open(path, "rb") as stream:
            unfinished = _check_riff(path, stream, status.st_size)
            _check_ogg(path, stream, status.st_size)
    except FileNotFoundError:
        raise InputError(f"{path}: no such file; check the path") from None
    except PermissionError:
        raise InputError(f"{path}: no permission to read it; change its rights (chmod +r)") from None
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: cannot be read ({_reason(error)}); check the path and the disk") from None
    if status.st_size == 0:
        raise InputError(f"{path}: the file is empty (0 bytes); copy or export it again")
    with contextlib.ExitStack() as opened:
        if unfinished is not None:  # soundfile closes no file that it did not open itself
            opened.enter_context(unfinished)
        try:
            # Bytes on POSIX: soundfile encodes strings strictly, which fails on file names that are not UTF-8.
            name: Any = os.fsencode(path) if os.name == "posix" else str(path)
            sound = opened.enter_context(soundfile.SoundFile(name if unfinished is None else unfinished))
        except (soundfile.SoundFileError, RuntimeError, OSError, TypeError, ValueError) as error:
            raise InputError(
                f"{path}: no audio file that libsndfile can open ({_reason(error)}); convert it to WAV or FLAC"
            ) from None
        yield sound


class _Filled(io.FileIO):
    """A file of `size` bytes, as it was when it was looked at, that reads as if `patch` stood at byte `at`."""

    def __init__(self, path: str | Path, size: int, at: int, patch: bytes) -> None:
        super().__init__(path, "rb")
        self._size, self._at, self._patch = size, at, patch

    def readinto(self, buffer: Any) -> int:
        start = self.tell()
        view = memoryview(buffer).cast("B")
        count = super().readinto(view[: max(0, min(len(view), self._size - start))]) or 0
        low, high = max(start, self._at), min(start + count, self._at + len(self._patch))
        if low < high:
            view[low - start : high - start] = self._patch[low - self._at : high - self._at]
        return count

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        if whence == os.SEEK_END:
            offset, whence = self._size + offset, os.SEEK_SET
        return super().seek(offset, whence)


def _check_riff(path: str | Path, stream: BinaryIO, size: int) -> _Filled | None:
    """Refuses a WAV whose data chunk promises more than the file holds.

    Returns:
        The file with its size filled in where the header left it 0 (a recorder that was killed or wrote
        to a pipe), since libsndfile reads no samples from it; None for every other file.
    """
    head = stream.read(12)
    if head[:4] not in (b"RIFF", b"RIFX", b"RF64") or head[8:12] != b"WAVE":
        return None
    order = ">" if head[:4] == b"RIFX" else "<"
    riff_size = struct.unpack(order + "I", head[4:8])[0]
    long_size = None
    while len(chunk := stream.read(8)) == 8:
        length = struct.unpack(order + "I", chunk[4:])[0]
        start = stream.tell()
        if chunk[:4] == b"ds64" and len(sizes := stream.read(16)) == 16:
            long_size = struct.unpack("<QQ", sizes)[1]
        elif chunk[:4] == b"data":
            if length == 0xFFFFFFFF and long_size:
                length = long_size
            elif length >= _UNKNOWN_SIZE and start + length > size:
                return None
            if start + length > size:
                raise InputError(
                    f"{path}: cut off, its header promises {length} bytes of samples but "
                    f"{max(0, size - start)} are there; copy or export it again"
                )
            if length == 0 and size > start and riff_size + 8 != size:
                return _Filled(path, size, start - 4, struct.pack(order + "I", min(size - start, 0xFFFFFFFF)))
            return None
        stream.seek(start + length + length % 2)
    return None


def _check_ogg(path: str | Path, stream: BinaryIO, size: int) -> None:
    """Refuses an Ogg file whose last page is not marked as the end of its stream (RFC 3533, section 6)."""
    stream.seek(0)
    if stream.read(4) != b"OggS":
        return
    # A page is at most 65,307 bytes long.
    stream.seek(max(0, size - 65307))
    tail = stream.read()
    last = tail.rfind(b"OggS")
    if last < 0 or len(tail) < last + 6 or not tail[last + 5] & 4:
        raise InputError(f"{path}: cut off, its last page is not the end of the stream; copy or export it again")


def _refuse_non_finite(path: str | Path, samples: np.ndarray, rate: int, before: int = 0) -> None:
    """Names how many (frames, channels) values are NaN or infinite, and where the first is, `before` frames further."""
    finite = np.isfinite(samples)
    if finite.all():
        return
    first = before + int(np.flatnonzero(~finite.all(axis=1))[0])
    raise InputError(
        f"{path}: {finite.size - int(finite.sum())} of its samples are NaN or infinite, "
        f"the first at index {first} ({first / rate:.3f} s); export it again"
    )


def _resample(path: str | Path, samples: np.ndarray, from_rate: int, to_rate: int) -> np.ndarray:
    # Imported here: files at the right rate, the usual case on a device, do without it.
    import soxr

    try:
        resampled = soxr.resample(samples, from_rate, to_rate, quality="HQ")
    except (ValueError, RuntimeError, MemoryError) as error:
        raise InputError(f"{path}: cannot be resampled from {from_rate} to {to_rate} Hz ({_reason(error)})") from None
    if len(resampled) == 0:
        raise InputError(
            f"{path}: too short, {len(samples)} samples at {from_rate} Hz are not one at {to_rate} Hz; record it longer"
        )
    return resampled


def _resampler(path: str | Path, from_rate: int, to_rate: int, channels: int) -> Any:
    import soxr

    try:
        return soxr.ResampleStream(from_rate, to_rate, channels, dtype="float32", quality="HQ")
    except (ValueError, RuntimeError, MemoryError) as error:
        raise InputError(f"{path}: cannot be resampled from {from_rate} to {to_rate} Hz ({_reason(error)})") from None


def _reason(error: BaseException) -> str:
    """What libsndfile or the system says, on one line and without the path."""
    text = getattr(error, "error_string", None) or getattr(error, "strerror", None) or str(error)
    return " ".join(str(text).split()).rstrip(".") or type(error).__name__
