"""Keeps what native code writes to standard error off a command's own lines there."""

from __future__ import annotations

import contextlib
import io
import os
import sys
from collections.abc import Iterator


@contextlib.contextmanager
def quiet_stderr() -> Iterator[None]:
    """Turns file descriptor 2 away, and lets Python's `sys.stderr` go where it went before.

    Runtimes and the MP3 decoder write there without a switch ("Note: Illegal Audio-MPEG-Header"), while a command says
    one line per bad file. Descriptors belong to the whole process: this is for commands, around all they do, and
    not for libraries.
    """
    before = sys.stderr
    try:
        before.flush()
        kept = os.dup(2)
    except (OSError, ValueError, AttributeError):  # standard error is closed: nothing to keep quiet
        yield
        return
    ours = None
    with contextlib.suppress(OSError, ValueError, AttributeError, io.UnsupportedOperation):
        if before.fileno() == 2:
            ours = open(  # noqa: SIM115 (closed below)
                kept, "w", encoding=before.encoding, errors=before.errors, buffering=1, closefd=False
            )
    try:
        with open(os.devnull, "wb") as nowhere:
            os.dup2(nowhere.fileno(), 2)
        if ours is not None:
            sys.stderr = ours
        yield
    finally:
        if ours is not None:
            sys.stderr = before
            with contextlib.suppress(BrokenPipeError):
                ours.close()
        os.dup2(kept, 2)
        os.close(kept)
