"""Features of the clips of one audio file: hashed, decoded once, and computed for each clip that it holds."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import NamedTuple

import numpy as np

from tinyasc.audio import read_info, read_segments
from tinyasc.data.rowstore import KEY_BYTES, RowStore
from tinyasc.errors import InputError
from tinyasc.frontend import FrontEnd, features, fit_length

# Goes up when `features` or `read_segments` give other numbers for the same record, or the cache's files change.
FEATURE_VERSION = 2

Segment = tuple[float, float] | None


class FileMark(NamedTuple):
    """By what a file is taken to be unchanged: size in bytes, time of change in ns, inode, time of its change in ns.

    Size and time alone are equal after two files of one size swap names, as files that were unpacked together are.
    """

    size: int
    changed_ns: int
    inode: int
    inode_changed_ns: int


class FileState(NamedTuple):
    """What an audio file was when it was hashed: its mark, the hash of its content, its rate in Hz or 0 if unknown."""

    mark: FileMark
    content: str
    sample_rate: int = 0


@dataclass(frozen=True)
class Recording:
    """One audio file, the parts of it that are wanted, and its state where that is known."""

    path: Path
    segments: tuple[Segment, ...]
    state: FileState | None = None


@dataclass(frozen=True)
class Extracted:
    """What became of a recording.

    `rows` are the features of its parts, None where the cache has them all; `error` says why there is no state.
    """

    state: FileState | None
    rows: np.ndarray | None = None
    error: str | None = None


@dataclass(frozen=True)
class Extractor:
    """Computes features, except those that are in the cache already. Runs in worker processes.

    Args:
        front_end: without its normalisation.
        folder: of the front end's row store.
    """

    front_end: FrontEnd
    folder: Path

    @cached_property
    def _store(self) -> RowStore:
        return open_store(self.folder, self.front_end)

    def __call__(self, recordings: Sequence[Recording]) -> list[Extracted]:
        """The features of each recording's parts, (parts, *shape)."""
        return [self._one(recording) for recording in recordings]

    def _one(self, recording: Recording) -> Extracted:
        state = recording.state or file_state(recording.path)
        if state is not None and recording.state is None:
            # A file that was moved or copied: known by its content.
            keys = [row_key(state.content, segment) for segment in recording.segments]
            if all(self._store.sound(keys)):
                return Extracted(state)
        try:
            # Also where the file could not be hashed: read_segments has the words for whatever is wrong with it.
            rate, stereo = self.front_end.sample_rate, self.front_end.stereo
            parts = read_segments(recording.path, rate, recording.segments, stereo=stereo)
            if state is None or state.mark != file_mark(recording.path):
                raise InputError(f"{recording.path}: changed while it was read; run again when it is complete")
            rows = [features(fit_length(part, self.front_end.clip_samples), self.front_end) for part in parts]
        except InputError as error:
            line = str(error)
            # The front end does not know which file it is given.
            return Extracted(None, error=line if str(recording.path) in line else f"{recording.path}: {line}")
        return Extracted(state, np.stack(rows))


def open_store(folder: Path, front_end: FrontEnd) -> RowStore:
    """The row store of a front end without normalisation; its rows have the shape that `features` gives."""
    shape, dtype = RowStore.described(folder) or (front_end.shape, np.dtype(np.float32))
    return RowStore(folder, shape, dtype, {"version": FEATURE_VERSION, "front_end": front_end.to_dict()})


@lru_cache(maxsize=8)
def front_end_key(front_end: FrontEnd) -> str:
    """A short name for everything that decides the features before normalisation."""
    record = front_end.without_normalization().to_dict() | {"feature_version": FEATURE_VERSION}
    return hashlib.blake2b(json.dumps(record, sort_keys=True).encode(), digest_size=8).hexdigest()


def row_key(content: str, segment: Segment) -> bytes:
    """The key of a clip: its file's content and which part it is."""
    part = "" if segment is None else f" {float(segment[0])!r} {float(segment[1])!r}"
    return hashlib.blake2b(f"{content}{part}".encode(), digest_size=KEY_BYTES).digest()


def file_state(path: Path) -> FileState | None:
    """The file's present state; None where it cannot be read."""
    try:
        digest = hashlib.blake2b(digest_size=16)
        before = file_mark(path)
        if before is None or not path.is_file():
            return None
        with open(path, "rb") as stream:
            while block := stream.read(1 << 20):
                digest.update(block)
    except OSError:
        return None
    try:
        rate = read_info(path).sample_rate
    except InputError:
        # Whoever decodes it says what is wrong with it.
        rate = 0
    return FileState(before, digest.hexdigest(), rate)


def file_mark(path: Path) -> FileMark | None:
    """A file's present mark; None where there is no file."""
    try:
        status = os.stat(path)
    except OSError:
        return None
    return FileMark(status.st_size, status.st_mtime_ns, status.st_ino, status.st_ctime_ns)
