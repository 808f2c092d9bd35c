"""The feature cache: log-mel features on disk, one file per front end and audio content.

A second run decodes no audio, and hashes none whose size and time of change are as before. Files are written
under a temporary name and renamed, so a run may be killed at any moment, and two processes may fill one
cache. Every file ends with a checksum; a damaged one is computed again.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import tempfile
import time
import zlib
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import closing
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple, TypeVar

import numpy as np

from tinyasc.audio import read_audio
from tinyasc.data.table import Clip
from tinyasc.errors import InputError, TinyascError
from tinyasc.frontend import FrontEnd, fit_length, log_mel

# Goes up when `log_mel` or `read_audio` give other numbers for the same record.
FEATURE_VERSION = 1
_SAVE_INDEX_EVERY_S = 10.0
_STALE_AFTER_S = 3600.0

Progress = Callable[[int, int], None]
_T = TypeVar("_T")


class FileState(NamedTuple):
    """What an audio file was when it was hashed: size in bytes, time of change in ns, hash of its content."""

    size: int
    changed_ns: int
    content: str


class FeatureCache:
    """Features on disk, found by front end and audio content.

    Args:
        folder: made when it is not there. Holds `index.json` (path -> size, time of change, content hash) and
            a folder per front end with one `.npy` file per content, which `np.load` reads and maps.

    Raises:
        TinyascError: the folder cannot be made or written.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder).absolute()
        self._temporary = self.folder / "tmp"
        self._index = self.folder / "index.json"
        try:
            self._temporary.mkdir(parents=True, exist_ok=True)
            self._remove_stale()
        except OSError as error:
            raise TinyascError(
                f"{self.folder}: cannot hold the feature cache ({error.strerror}); choose another"
            ) from None
        self._known = self._read_index()
        self._added: dict[str, FileState] = {}

    def content_of(self, path: Path) -> str | None:
        """The content hash of an audio file that has not changed since it was hashed, else None."""
        known = self._known.get(str(path))
        return known.content if known and (known.size, known.changed_ns) == _size_and_change(path) else None

    def remember(self, path: Path, state: FileState) -> None:
        """Notes what a file is; `save_index` writes the notes."""
        self._known[str(path)] = self._added[str(path)] = state

    def save_index(self) -> None:
        """Writes what was noted, and keeps what others wrote; a lost note costs hashing, not decoding."""
        if not self._added:
            return
        self._known = self._read_index() | self._added
        self._write(self._index, json.dumps({"version": FEATURE_VERSION, "files": self._known}).encode())
        self._added = {}

    def entry(self, front_end: FrontEnd, content: str) -> Path:
        """The file of one front end and content."""
        return self.folder / front_end_key(front_end) / f"{content}.npy"

    def load(self, front_end: FrontEnd, content: str) -> np.ndarray | None:
        """The cached (channels, n_mels, frames) float32 features; None when absent or damaged."""
        try:
            data = self.entry(front_end, content).read_bytes()
            body, checksum = data[:-4], data[-4:]
            if zlib.crc32(body).to_bytes(4, "little") != checksum:
                return None
            mel = np.load(io.BytesIO(body), allow_pickle=False)
        except (OSError, ValueError, EOFError):
            return None
        right = mel.shape == front_end.shape and mel.dtype == np.float32
        return mel if right else None

    def store(self, front_end: FrontEnd, content: str, mel: np.ndarray) -> None:
        """Writes (channels, n_mels, frames) float32 features.

        Raises:
            TinyascError: the disk is full or cannot be written.
        """
        body = io.BytesIO()
        np.save(body, mel, allow_pickle=False)
        data = body.getvalue()
        self._write(self.entry(front_end, content), data + zlib.crc32(data).to_bytes(4, "little"))

    def _read_index(self) -> dict[str, FileState]:
        """The index on disk; empty when absent, damaged or of another version, as it only saves hashing."""
        try:
            values = json.loads(self._index.read_bytes())
            if values["version"] != FEATURE_VERSION:
                return {}
            return {
                path: FileState(int(size), int(changed), str(content))
                for path, (size, changed, content) in values["files"].items()
            }
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            return {}

    def _write(self, path: Path, data: bytes) -> None:
        try:
            path.parent.mkdir(exist_ok=True)
            handle, name = tempfile.mkstemp(dir=self._temporary)
            try:
                with os.fdopen(handle, "wb") as stream:
                    stream.write(data)
                os.replace(name, path)
            except BaseException:
                Path(name).unlink(missing_ok=True)
                raise
        except OSError as error:
            raise TinyascError(
                f"{path}: cannot write the feature cache ({error.strerror}); free some space or choose another folder"
            ) from None

    def _remove_stale(self) -> None:
        """Removes what killed processes left; younger files may belong to a process that is running."""
        for path in self._temporary.iterdir():
            try:
                if time.time() - path.stat().st_mtime > _STALE_AFTER_S:
                    path.unlink()
            except FileNotFoundError:
                pass


@lru_cache(maxsize=8)
def front_end_key(front_end: FrontEnd) -> str:
    """A short name for everything that decides the features before normalisation."""
    record = front_end.without_normalization().to_dict() | {"feature_version": FEATURE_VERSION}
    return hashlib.blake2b(json.dumps(record, sort_keys=True).encode(), digest_size=8).hexdigest()


def load_features(
    clips: Sequence[Clip],
    front_end: FrontEnd,
    cache_dir: str | Path,
    progress: Progress | None = None,
    workers: int | None = None,
) -> np.ndarray:
    """Log-mel features of clips, from the cache where they are there.

    Clips are read at the front end's rate and cut or padded at their end to its `clip_samples`.

    Args:
        clips: the clips; only their paths matter.
        front_end: the record; its per-band normalisation is left out.
        cache_dir: the cache's folder.
        progress: called as progress(done, total) after each clip.
        workers: threads; None is one per core, 1 computes in the caller's thread.

    Returns:
        (clips, channels, n_mels, frames) float32, in dB or, without `log`, power.

    Raises:
        InputError: files that cannot be used; when several, their count and the first three. The features of
            all others are in the cache by then.
        TinyascError: the cache cannot be written.
    """
    cache = FeatureCache(cache_dir)
    out = np.empty((len(clips), *front_end.shape), np.float32)
    total, todo = len(clips), []
    for i, clip in enumerate(clips):
        content = cache.content_of(clip.path)
        mel = None if content is None else cache.load(front_end, content)
        if mel is None:
            todo.append(i)
        else:
            out[i] = mel
            if progress:
                progress(i + 1 - len(todo), total)

    def compute(i: int) -> tuple[int, FileState | InputError]:
        try:
            out[i], state = _compute(clips[i].path, front_end, cache)
        except InputError as error:
            return i, error
        return i, state

    bad: dict[int, InputError] = {}
    saved = time.monotonic()
    # Threads: decoding and the FFT leave Python's lock, and processes take longer to start than 200 clips.
    with closing(_run(compute, todo, workers or os.cpu_count() or 1)) as results:
        try:
            for done, (i, outcome) in enumerate(results, start=total - len(todo) + 1):
                if isinstance(outcome, InputError):
                    bad[i] = outcome
                else:
                    cache.remember(clips[i].path, outcome)
                if time.monotonic() - saved > _SAVE_INDEX_EVERY_S:
                    cache.save_index()
                    saved = time.monotonic()
                if progress:
                    progress(done, total)
        finally:
            cache.save_index()
    if bad:
        lines = [str(error) for _, error in sorted(bad.items())]
        head = f"{len(bad)} of {total} audio files cannot be used: " if len(bad) > 1 else ""
        more = f"; and {len(bad) - 3} more" if len(bad) > 3 else ""
        raise InputError(head + "; ".join(lines[:3]) + more)
    return out


def _run(task: Callable[[int], _T], items: Sequence[int], workers: int) -> Generator[_T, None, None]:
    """Yields the results of a task as they come, from threads; one worker computes in the caller's thread."""
    if workers == 1 or len(items) < 2:
        yield from map(task, items)
        return
    pool = ThreadPoolExecutor(min(workers, len(items)))
    try:
        for job in as_completed([pool.submit(task, item) for item in items]):
            yield job.result()
    finally:
        pool.shutdown(cancel_futures=True)


def _compute(path: Path, front_end: FrontEnd, cache: FeatureCache) -> tuple[np.ndarray, FileState]:
    """Hashes one file, and takes its features from the cache or computes and stores them."""
    state = _state(path)
    mel = cache.load(front_end, state.content) if state else None
    if mel is None:
        # Also where the file could not be hashed: read_audio has the words for whatever is wrong with it.
        samples = read_audio(path, front_end.sample_rate, stereo=front_end.stereo)
        mel = log_mel(fit_length(samples, front_end.clip_samples), front_end)
        if state is None or (state.size, state.changed_ns) != _size_and_change(path):
            raise InputError(f"{path}: changed while it was read; run again when it is complete")
        cache.store(front_end, state.content, mel)
    assert state is not None
    return mel, state


def _state(path: Path) -> FileState | None:
    """The file's present state; None where it cannot be read."""
    try:
        digest = hashlib.blake2b(digest_size=16)
        before = _size_and_change(path)
        if before is None or not path.is_file():
            return None
        with open(path, "rb") as stream:
            while block := stream.read(1 << 20):
                digest.update(block)
        return FileState(*before, digest.hexdigest())
    except OSError:
        return None


def _size_and_change(path: Path) -> tuple[int, int] | None:
    try:
        status = os.stat(path)
    except OSError:
        return None
    return status.st_size, status.st_mtime_ns
