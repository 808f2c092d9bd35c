"""The feature cache: features on disk, found by front end, audio content and part of the file.

A second run decodes no audio, and hashes none whose size, times of change and inode are as before. Features are
computed by one process per core and written as they come, so a run that was killed goes on where it stopped. They are
read back as one memory-mapped array. Two processes may use one cache: one fills it, the other waits.

    CACHE/index.json           path -> size, time of change, inode and its time of change; content hash; sample rate
    CACHE/FRONT-END/rows ...   a row store for each front end
"""

from __future__ import annotations

import json
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Generator, Sequence
from contextlib import closing
from pathlib import Path

import numpy as np

from tinyasc.data.extract import (
    Extracted,
    Extractor,
    FileMark,
    FileState,
    Recording,
    file_mark,
    front_end_key,
    open_store,
    row_key,
)
from tinyasc.data.rowstore import RowStore
from tinyasc.data.table import Clip
from tinyasc.data.workers import Workers, available_cores
from tinyasc.errors import InputError, TinyascError
from tinyasc.files import write_atomic
from tinyasc.frontend import FrontEnd

Progress = Callable[[int, int], None]

_SAVE_INDEX_EVERY_S = 30.0
# Fewer recordings are quicker computed than a process is started.
_RECORDINGS_PER_WORKER = 64
_MAX_BATCH = 16


def load_features(
    clips: Sequence[Clip],
    front_end: FrontEnd,
    cache_dir: str | Path,
    progress: Progress | None = None,
    workers: int | None = None,
) -> np.ndarray:
    """Features of clips before per-band normalisation, from the cache where they are there.

    Clips are read at the front end's rate and cut or padded at their end to its `clip_samples`.

    Args:
        clips: the clips; their paths and segments matter.
        front_end: the record; its per-band normalisation is left out.
        cache_dir: the cache's folder.
        progress: called as progress(done, total) in clips.
        workers: processes; None is one per core, fewer for a small set; 1 computes in the caller's process.

    Returns:
        (clips, *shape of one clip's features), memory-mapped where the clips were cached in this order. Writing to it
        changes no file.

    Raises:
        InputError: files that cannot be used; when several, their count and the first three. The features of
            all others are in the cache by then.
        TinyascError: the cache cannot be read or written, or a worker process died.
    """
    front_end = front_end.without_normalization()
    index = ContentIndex(Path(cache_dir).absolute())
    store = open_store(index.folder / front_end_key(front_end), front_end)
    of_file: dict[Path, list[Clip]] = defaultdict(list)
    for clip in clips:
        of_file[clip.path].append(clip)
    todo = _missing(of_file, index, store)
    if todo:
        with store.writing():
            # Another process may have computed them while this one waited.
            index.read()
            todo = _missing({recording.path: of_file[recording.path] for recording in todo}, index, store)
            extractor = Extractor(front_end, store.folder)
            _compute(todo, extractor, index, store, progress, total=len(clips), files=len(of_file), workers=workers)
    if progress and not todo:
        progress(len(clips), len(clips))
    return store.read([row_key(index.states[clip.path].content, clip.segment) for clip in clips])


def sample_rates(clips: Sequence[Clip], cache_dir: str | Path) -> Counter[int]:
    """Rate in Hz -> number of audio files, of clips whose features were loaded; no file is opened.

    Files whose rate was not noted, in a cache of an older version, are left out.
    """
    states = ContentIndex(Path(cache_dir).absolute()).states
    rates = (states[path].sample_rate for path in {clip.path for clip in clips} if path in states)
    return Counter(rate for rate in rates if rate)


class ContentIndex:
    """Which content and rate each audio file had when it was last hashed.

    Args:
        folder: the cache's, made when it is not there.

    Raises:
        TinyascError: the folder cannot be made.
    """

    def __init__(self, folder: Path) -> None:
        self.folder, self._file = folder, folder / "index.json"
        self.states: dict[Path, FileState] = {}
        self._hashed_here: dict[Path, FileState] = {}
        self._saved = True
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise TinyascError(f"{folder}: cannot hold the feature cache ({error.strerror}); choose another") from None
        self.read()

    def read(self) -> None:
        """Takes in what is on disk; nothing where that is absent or damaged, as it only saves hashing.

        What is known already stays: another process may have written the index without it.
        """
        try:
            values = json.loads(self._file.read_bytes())["files"]
            found = {
                # Of an older index the rate is not known.
                Path(path): FileState(FileMark(*map(int, mark)), str(content), *map(int, rate))
                for path, (mark, content, *rate) in values.items()
            }
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            found = {}
        self.states = self.states | found | self._hashed_here

    def unchanged(self, path: Path) -> FileState | None:
        """A file's state where it is still as it was, else None."""
        state = self.states.get(path)
        return state if state and state.mark == file_mark(path) else None

    def remember(self, path: Path, state: FileState) -> None:
        """Notes what a file is; `save` writes the notes."""
        self.states[path] = self._hashed_here[path] = state
        self._saved = False

    def save(self) -> None:
        """Writes what was noted, and keeps what others wrote; a lost note costs hashing, not decoding.

        Raises:
            TinyascError: the disk is full or cannot be written.
        """
        if self._saved:
            return
        self.read()
        try:
            write_atomic(self._file, json.dumps({"files": {str(path): state for path, state in self.states.items()}}))
        except OSError as error:
            raise TinyascError(
                f"{self._file}: cannot write the feature cache ({error.strerror}); free some space or choose another "
                "folder"
            ) from None
        self._saved = True


def _missing(of_file: dict[Path, list[Clip]], index: ContentIndex, store: RowStore) -> list[Recording]:
    """The recordings that have to be hashed or decoded, with the parts that the store lacks."""
    states = {path: index.unchanged(path) for path in of_file}
    keys = [
        row_key(state.content, clip.segment)
        for path, clips in of_file.items()
        if (state := states[path])
        for clip in clips
    ]
    sound = iter(store.sound(keys))
    missing = []
    for path, clips in of_file.items():
        state = states[path]
        lacking = [clip.segment for clip in clips if state is None or not next(sound)]
        if lacking:
            missing.append(Recording(path, tuple(dict.fromkeys(lacking)), state))
    return missing


def _compute(
    todo: Sequence[Recording],
    extractor: Extractor,
    index: ContentIndex,
    store: RowStore,
    progress: Progress | None,
    *,
    total: int,
    files: int,
    workers: int | None,
) -> None:
    """Fills the store; every file that cannot be used is told at the end, in one error."""
    bad: list[str] = []
    written: set[bytes] = set()
    done = total - sum(len(recording.segments) for recording in todo)
    saved = time.monotonic()
    # Closed at once when something fails, so that no worker outlives this call.
    with closing(_extract(todo, extractor, workers)) as results:
        try:
            for recording, result in zip(todo, results, strict=True):
                if result.state is None:
                    bad.append(result.error or str(recording.path))
                else:
                    index.remember(recording.path, result.state)
                if result.state is not None and result.rows is not None:
                    keys = [row_key(result.state.content, segment) for segment in recording.segments]
                    # Equal files share their rows.
                    fresh = [i for i, key in enumerate(keys) if key not in written]
                    store.write([keys[i] for i in fresh], result.rows[fresh])
                    written.update(keys)
                if time.monotonic() - saved > _SAVE_INDEX_EVERY_S:
                    index.save()
                    saved = time.monotonic()
                done += len(recording.segments)
                if progress:
                    progress(done, total)
        finally:
            index.save()
    if bad:
        head = f"{len(bad)} of {files} audio files cannot be used: " if len(bad) > 1 else ""
        more = f"; and {len(bad) - 3} more" if len(bad) > 3 else ""
        raise InputError(head + "; ".join(bad[:3]) + more)


def _extract(todo: Sequence[Recording], extractor: Extractor, workers: int | None) -> Generator[Extracted, None, None]:
    """Yields the results in order, from worker processes where there is enough to do."""
    if workers is None:
        workers = min(available_cores(), len(todo) // _RECORDINGS_PER_WORKER)
    workers = min(workers, len(todo))
    if workers <= 1:
        for recording in todo:
            yield from extractor([recording])
        return
    size = max(1, min(_MAX_BATCH, len(todo) // (4 * workers)))
    with Workers(extractor, workers) as pool:
        for results in pool.answers(todo[i : i + size] for i in range(0, len(todo), size)):
            yield from results
