"""Progress on standard error: a bar on a terminal, a line per tenth elsewhere."""

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

Report = Callable[..., None]


@contextmanager
def progress(title: str) -> Iterator[Report]:
    """Yields report(done, total, note=""), to be called after each piece of work."""
    console = Console(stderr=True)
    if console.is_terminal:
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
        with Progress(*columns, TimeRemainingColumn(), TextColumn("{task.fields[note]}"), console=console) as bar:
            task = bar.add_task(title, total=None, note="")
            yield lambda done, total, note="": bar.update(task, completed=done, total=total, note=note)
        return
    start, shown = time.monotonic(), -1

    def line(done: int, total: int, note: str = "") -> None:
        nonlocal shown
        tenth = 10 * done // max(1, total)
        if tenth > shown:
            shown = tenth
            seconds = time.monotonic() - start
            console.print(f"{title}: {done}/{total}, {seconds:.0f} s {note}".rstrip(), highlight=False, soft_wrap=True)

    yield line
