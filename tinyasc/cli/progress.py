"""One line on standard error that says how far a command is; nothing is drawn where nobody looks."""

from __future__ import annotations

import shutil
import sys
import time
from typing import TextIO

import click

REDRAW = 0.2  # seconds between two states of the line
NOW_AND_THEN = 30.0  # seconds between two lines where standard error is a file


class Progress:
    """Counts clips. On a terminal it redraws one line, elsewhere it writes one every half minute.

    Args:
        total: clips there are to answer.
        stream: where to write; standard error.
    """

    def __init__(self, total: int, stream: TextIO | None = None) -> None:
        self.total, self.done, self.errors = total, 0, 0
        self._stream = sys.stderr if stream is None else stream
        self._terminal = self._stream.isatty()
        self._start = self._last = time.monotonic()
        self._width = 0

    def step(self, *, error: bool = False) -> None:
        """One clip more is done."""
        self.done += 1
        self.errors += error
        now = time.monotonic()
        if now - self._last < (REDRAW if self._terminal else NOW_AND_THEN):
            return
        self._last = now
        line = self.line(now - self._start)
        if not self._terminal:
            click.echo(line, file=self._stream)
            return
        line = line[: max(1, shutil.get_terminal_size().columns - 1)]
        click.echo(f"\r{line:<{self._width}}", file=self._stream, nl=False)
        self._width = len(line)

    def clear(self) -> None:
        """Takes the line off the terminal, for another one in its place."""
        if self._width:
            click.echo(f"\r{'':<{self._width}}\r", file=self._stream, nl=False)
            self._width = 0

    def line(self, seconds: float) -> str:
        """The state after so many seconds, as text."""
        rate = self.done / max(seconds, 1e-9)
        left = (self.total - self.done) / rate
        errors = f", {self.errors:,} cannot be answered" if self.errors else ""
        return f"{self.done:,} of {self.total:,} clips, {rate:.1f} a second, {_about(left)} to go{errors}"


def _about(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
