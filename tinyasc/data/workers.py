"""Worker processes that answer one question at a time, each through a pair of pipes.

multiprocessing is not used: its forked workers outlive a parent that is killed, and its spawned ones import the
caller's script again. These are plain interpreters, which end when their pipe does.
"""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from queue import SimpleQueue
from typing import Any, Generic, TypeVar

from tinyasc.errors import TinyascError

_Q = TypeVar("_Q")
_A = TypeVar("_A")
# Answers that wait for an earlier one, per worker: keeps workers busy without collecting everything in memory.
_AHEAD = 3


def available_cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


class Workers(Generic[_Q, _A]):
    """A pool of processes that all run one function.

    Args:
        function: an importable callable, or an instance of an importable class; pickled once per worker.
        count: processes. They start at once and end with the `with` block.
    """

    def __init__(self, function: Callable[[_Q], _A], count: int) -> None:
        # The parent's import path, and one thread of linear algebra each: there is a process for every core.
        threads = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
        path = os.pathsep.join(entry or os.getcwd() for entry in sys.path)
        self._processes = [
            subprocess.Popen(
                # -P: what lies in the current folder is not imported. A group of its own: Ctrl-C reaches the parent
                # alone, which then ends its workers.
                [sys.executable, "-P", "-c", "from tinyasc.data.workers import serve; serve()"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                env={**os.environ, **threads, "PYTHONPATH": path},
                process_group=0,
            )
            for _ in range(count)
        ]
        self._idle: SimpleQueue[subprocess.Popen[bytes]] = SimpleQueue()
        self._function = pickle.dumps(function)
        self._threads = ThreadPoolExecutor(count)

    def __enter__(self) -> Workers[_Q, _A]:
        for process in self._processes:
            _send(process, self._function)
            self._idle.put(process)
        return self

    def __exit__(self, *_: object) -> None:
        for process in self._processes:
            process.kill()
        self._threads.shutdown(cancel_futures=True)
        for process in self._processes:
            process.wait()
            for pipe in (process.stdin, process.stdout):
                # A question that was half written has nobody left to read it.
                with suppress(BrokenPipeError):
                    if pipe is not None:
                        pipe.close()

    def answers(self, questions: Iterable[_Q]) -> Iterator[_A]:
        """Yields the answers in the order of the questions.

        Raises:
            TinyascError: a worker process died.
            Exception: what the function raised.
        """
        waiting: deque[Future[_A]] = deque()
        for question in questions:
            waiting.append(self._threads.submit(self._ask, question))
            if len(waiting) >= _AHEAD * len(self._processes):
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()

    def _ask(self, question: _Q) -> _A:
        process = self._idle.get()
        try:
            _send(process, pickle.dumps(question))
            assert process.stdout is not None
            good, answer = pickle.load(process.stdout)
        except (EOFError, OSError, pickle.UnpicklingError):
            raise TinyascError(
                "a worker process ended before its work was done (out of memory?); run the same command again, it "
                "goes on from there"
            ) from None
        finally:
            self._idle.put(process)
        if not good:
            raise answer
        return answer


def serve() -> None:
    """A worker's life: reads its function, then questions, and writes answers until the pipe is closed."""
    # What libraries print goes to standard error, so that it does not get between the answers.
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    questions = sys.stdin.buffer
    try:
        function: Callable[[Any], Any] = pickle.load(questions)
        while True:
            question = pickle.load(questions)
            try:
                answer = True, function(question)
            except Exception as error:
                answer = False, error
            pickle.dump(answer, answers, protocol=pickle.HIGHEST_PROTOCOL)
            answers.flush()
    except (EOFError, BrokenPipeError):
        os._exit(0)


def _send(process: subprocess.Popen[bytes], data: bytes) -> None:
    assert process.stdin is not None
    # The answer that does not come is what is reported.
    with suppress(BrokenPipeError):
        process.stdin.write(data)
        process.stdin.flush()
