"""The stages of a long command: what runs, what was kept of a run that was killed, and how long each took."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from rich.console import Console

from tinyasc.files import write_atomic
from tinyasc.training.journal import lines

FILE = "stages.jsonl"


class Stages:
    """Says every stage on standard error as it ends, and keeps their times in a file of their own.

    The times are in no other file: what a killed and resumed run leaves is the same to the byte but for these.
    """

    def __init__(self) -> None:
        self._console = Console(stderr=True)
        self._file: Path | None = None
        self._lines: list[str] = []

    def keep_in(self, folder: Path) -> None:
        """From now on times go to `FILE` in this folder, behind those that are there."""
        self._file = folder / FILE
        self._lines = [json.dumps(line) for line in lines(self._file, "stage")] + self._lines

    @contextmanager
    def stage(self, name: str, result: Path | None = None) -> Iterator[None]:
        """One stage: said and noted when it ends well.

        Args:
            name: for the reader.
            result: the file, or folder of files, that it ends with. Where that is there and is not written again, the
                stage was kept.
        """
        before, started = _state(result), time.monotonic()
        # A line that is written over when the stage ends; bars of the stage itself take its place.
        if self._console.is_terminal:
            self._console.print(f"[dim]…[/dim] {name}", end="\r", highlight=False)
        yield
        seconds = time.monotonic() - started
        kept = before is not None and before == _state(result)
        self._lines.append(json.dumps({"stage": name, "seconds": round(seconds, 3), "kept": kept}))
        took = "kept" if kept else f"{seconds:.1f} s"
        if self._console.is_terminal:
            self._console.print(f"[green]✓[/green] {name} [dim]{took}[/dim]", highlight=False)
        else:
            self._console.print(f"{name}: {took}", highlight=False, soft_wrap=True, markup=False)
        if self._file is not None:
            write_atomic(self._file, "".join(line + "\n" for line in self._lines))


def _state(result: Path | None) -> list[tuple[str, int, int]] | None:
    """What changes when a file, or one in a folder, is written anew; None where there is none."""
    if result is None:
        return None
    files = sorted(result.iterdir()) if result.is_dir() else [result] if result.is_file() else []
    return [(file.name, file.stat().st_ino, file.stat().st_mtime_ns) for file in files] or None
