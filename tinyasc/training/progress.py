"""Progress on standard error: a bar on a terminal, a line every few seconds elsewhere."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from tinyasc.training.distributed import rank

Report = Callable[..., None]
SECONDS_BETWEEN_LINES = 5.0


@contextmanager
def progress(title: str) -> Iterator[Report]:
    """Yields report(done, total, note=""), to be called after each piece of work.

    Of several processes that torchrun started the first alone reports.
    """
    if rank() > 0:
        yield lambda done, total, note="": None
        return
    console = Console(stderr=True)
    if console.is_terminal:
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
        with Progress(*columns, TimeRemainingColumn(), TextColumn("{task.fields[note]}"), console=console) as bar:
            task = bar.add_task(title, total=None, note="")
            yield lambda done, total, note="": bar.update(task, completed=done, total=total, note=note)
        return
    started = shown = time.monotonic()

    def line(done: int, total: int, note: str = "") -> None:
        nonlocal shown
        now = time.monotonic()
        # Quick work says nothing, long work a line every few seconds and its last.
        if now - shown > SECONDS_BETWEEN_LINES or (done == total and shown > started):
            shown = now
            console.print(
                f"{title}: {done}/{total}, {now - started:.0f} s {note}".rstrip(), highlight=False, soft_wrap=True
            )

    yield line
