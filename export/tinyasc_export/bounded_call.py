"""Calls of compilers and other programs that end: within a time, and with all that they started."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

from tinyasc_export.errors import TinyascError

# A compiler takes seconds; zig's first call on a small board, which builds its own library, some minutes.
COMPILER_SECONDS = 900.0


def bounded_call(
    command: Sequence[str],
    *,
    seconds: float,
    what: str,
    cwd: Path | None = None,
    env: Mapping[str, str] | None = None,
) -> subprocess.CompletedProcess[bytes]:
    """Runs a program to its end with nothing on its standard input, and keeps what it says.

    The program leads a process group of its own, which is ended as a whole when the time is up or the caller is
    interrupted: a compiler is a driver that starts others.

    Args:
        command: the program and its arguments.
        seconds: that it may take.
        what: for the error line, as "foo: the compiler cc".
        cwd: where it runs.
        env: its environment; by default this process's.

    Raises:
        TinyascError: the time was up.
        OSError: it cannot be started.
    """
    process = subprocess.Popen(
        command,
        cwd=cwd,
        env=env,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        process_group=0,
    )
    try:
        out, err = process.communicate(timeout=seconds)
    except BaseException as error:
        _end(process)
        if isinstance(error, subprocess.TimeoutExpired):
            raise TinyascError(
                f"{what} was not done after {seconds:g} s and was ended; is this machine busy?"
            ) from None
        raise
    return subprocess.CompletedProcess(process.args, process.returncode, out, err)


def _end(process: subprocess.Popen[bytes]) -> None:
    # Refused where all of it has ended already.
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    for pipe in (process.stdout, process.stderr):
        if pipe is not None:
            pipe.close()
