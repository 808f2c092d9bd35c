"""Many clips, one after the other or in several processes; answers come in the order of the clips.

A clip that cannot be answered gives an answer that says why. In several processes that holds even for a clip on which
native code crashes, or for which the system ends a process: the clips that were under way are asked again, each in a
process of its own.
"""

from __future__ import annotations

import os
import time
from collections import deque
from collections.abc import Callable, Generator, Iterable, Mapping
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

from tinyasc.errors import InputError, TinyascError
from tinyasc.infer.longclips import predict_file
from tinyasc.infer.quiet import quiet_stderr
from tinyasc.infer.runner import Model, Prediction, load

# Clips that wait for each worker, so that none is idle while a slow one holds up the order.
AHEAD = 4


@dataclass(frozen=True)
class Job:
    """What is done with every clip.

    Args:
        model: the file.
        loading: keyword arguments of `tinyasc.load`.
        predicting: keyword arguments of `predict_file`.
    """

    model: Path
    loading: Mapping[str, Any] = field(default_factory=dict)
    predicting: Mapping[str, Any] = field(default_factory=dict)

    def load(self) -> Model:
        """The model, without the notes that its runtime writes to standard error.

        Raises:
            ModelFileError: as `tinyasc.load`.
        """
        with quiet_stderr():
            return load(self.model, **self.loading)


@dataclass(frozen=True)
class Answer:
    """What became of one clip.

    Args:
        path: the clip.
        prediction: None where there is an error.
        error: one line, which begins with the path; "" for none.
        milliseconds: that reading and answering took.
    """

    path: Path
    prediction: Prediction | None
    error: str = ""
    milliseconds: float = 0.0


Ask = Callable[[Model, Path, Mapping[str, Any]], Answer]


def answer(model: Model, path: Path, predicting: Mapping[str, Any]) -> Answer:
    """Reads and classifies one clip; what is wrong with it is in the answer."""
    start = time.perf_counter()
    try:
        prediction, error = predict_file(model, path, **predicting), ""
    except InputError as wrong:
        prediction, error = None, str(wrong)
    return Answer(path, prediction, error, 1000 * (time.perf_counter() - start))


def answers(
    job: Job, model: Model, paths: Iterable[Path], *, workers: int = 1, ask: Ask = answer
) -> Generator[Answer, None, None]:
    """The answer of every clip, in the order of the clips.

    Args:
        job: what is done; every process but this one loads its model by it, once.
        model: of the job, loaded, for this process.
        paths: the clips.
        workers: processes; 1 is this one alone.
        ask: what is asked; a function of a module, which processes can import.

    Raises:
        ModelFileError: a process cannot load the model any more.
        TinyascError: processes cannot be started.
    """
    waiting = deque(paths)
    workers = min(workers, len(waiting))
    if workers <= 1:
        for path in waiting:
            yield ask(model, path, job.predicting)
        return
    while waiting:
        under_way = yield from _until_one_ends(job, waiting, workers, ask)
        for _ in range(min(under_way, len(waiting))):
            path = waiting.popleft()
            alone = deque([path])
            yield from _until_one_ends(job, alone, 1, ask)
            if alone:
                yield Answer(path, None, f"{path}: the process that read it ended, by a crash or for want of memory")


def _until_one_ends(job: Job, waiting: deque[Path], workers: int, ask: Ask) -> Generator[Answer, None, int]:
    """Answers clips that wait, and takes them off, until all are or a process ends; returns how many were under way."""
    # Imported here: one clip in this process does without them.
    from concurrent.futures import ProcessPoolExecutor
    from concurrent.futures.process import BrokenProcessPool
    from multiprocessing import get_context

    # Spawned, not forked: the runtime's threads and locks of this process do not survive a fork.
    spawn = get_context("spawn")
    # Nothing is sent through it. Its end is what every worker ends with: closed by this process, or by its death.
    ended, lives = spawn.Pipe(duplex=False)
    pool = ProcessPoolExecutor(workers, spawn, initializer=_start, initargs=(job, ask, ended))
    handed_in = deque()
    try:
        try:
            pool.submit(_ready).result()
        except BrokenProcessPool:
            raise TinyascError("the processes of --workers end as they start; try --workers 1") from None
        try:
            while waiting:
                for path in islice(waiting, len(handed_in), AHEAD * workers):
                    handed_in.append(pool.submit(_ask, path))
                done = handed_in[0].result()
                handed_in.popleft()
                waiting.popleft()
                yield done
        except BrokenProcessPool:
            return len(handed_in)
        return 0
    finally:
        if waiting:  # ended early: what is under way, such as a file of ten hours, is not waited for
            lives.close()
        pool.shutdown(cancel_futures=True)
        lives.close()
        ended.close()


_held: dict[str, Any] = {}  # of a worker process: its model, what is asked, and how


def _start(job: Job, ask: Ask, ended: Any) -> None:
    """Makes a new process ready: Ctrl-C is its parent's to handle, with which it ends.

    Args:
        job: what is done.
        ask: what is asked.
        ended: a pipe that ends with what the process is wanted for.
    """
    import signal
    import threading

    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, args=(ended,), daemon=True).start()
    try:
        _held.update(model=job.load(), ask=ask, predicting=job.predicting)
    except TinyascError as error:  # told to the parent, as the pool would write a traceback
        _held.update(error=error)


def _end_with_parent(ended: Any) -> None:
    """A parent that is killed tells nobody, and its workers would wait for clips for ever."""
    ended.poll(None)
    os._exit(1)


def _ready() -> None:
    """What is asked first: it fails where `_start` did."""
    if error := _held.get("error"):
        raise error


def _ask(path: Path) -> Answer:
    _ready()
    return _held["ask"](_held["model"], path, _held["predicting"])
