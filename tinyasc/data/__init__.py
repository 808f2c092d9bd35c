"""Data sets: clip tables, their splits and the feature cache."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from tinyasc.data import esc, tau2020
from tinyasc.data.table import Clip, ClipTable, Split, nearest
from tinyasc.errors import InputError

__all__ = ["DATASETS", "Clip", "ClipTable", "Split", "load_table", "split_table"]

DATASETS: dict[str, Callable[[Path], ClipTable]] = {
    "tau2020": tau2020.load,
    "esc10": lambda root: esc.load(root, esc10=True),
    "esc50": lambda root: esc.load(root, esc10=False),
    # Written by tinyasc.data.scenes in TAU's layout, with scenes and devices of its own.
    "demo": lambda root: tau2020.load(root, name="demo", scenes=None, devices=None),
}


def load_table(name: str, root: str | Path) -> ClipTable:
    """Reads a data set's lists and makes sure that its audio is there.

    Args:
        name: "tau2020", "esc10", "esc50" or "demo".
        root: its folder.

    Raises:
        InputError: an unknown name, a missing folder, list or audio file, or a row that cannot be used.
    """
    if name not in DATASETS:
        raise InputError(f"unknown data set {name!r}; {nearest(name, DATASETS)}")
    folder = Path(root).absolute()
    if not folder.is_dir():
        kind = "is a file, not a folder" if folder.is_file() else "is not there"
        raise InputError(f"data set {name}: {folder} {kind}; give the folder that holds its lists and audio")
    return DATASETS[name](folder)


def split_table(table: ClipTable, test_fold: int = 1, validation_fold: int | None = None, seed: int = 0) -> Split:
    """Cuts a table into training, validation and test clips; see `ClipTable.split`."""
    return table.split(test_fold=test_fold, validation_fold=validation_fold, seed=seed)
