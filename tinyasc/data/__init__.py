"""Data sets: clip tables, their splits and the feature cache."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from tinyasc.data import csvlist, esc, folders, tau, unlabelled
from tinyasc.data.lists import nearest
from tinyasc.data.table import Clip, ClipTable, Split, check_audio
from tinyasc.data.tau_years import TAU_YEARS
from tinyasc.errors import InputError

__all__ = ["DATASETS", "Clip", "ClipTable", "DataSet", "Split", "load_table", "split_table"]


@dataclass(frozen=True)
class DataSet:
    """A kind of data set that a recipe can name.

    Args:
        load: reads its lists from a folder.
        about: what it is, in a few words.
        official: the official numbers of training and test clips, where there are some.
        unchecked: what of its layout was never compared with the published files; "" where all was.
    """

    load: Callable[[Path], ClipTable]
    about: str
    official: tuple[int, int] | None = None
    unchecked: str = ""


# Written by tinyasc.data.scenes in TAU's layout, with scenes and devices of its own.
_DEMO = replace(TAU_YEARS["tau2020"], name="demo", scenes=None, devices=None, n_train=None, n_test=None)

DATASETS: dict[str, DataSet] = {
    "demo": DataSet(partial(tau.load, year=_DEMO), "synthetic scenes, generated here"),
    "esc10": DataSet(partial(esc.load, esc10=True), "ESC-10, 5 official folds"),
    "esc50": DataSet(partial(esc.load, esc10=False), "ESC-50, 5 official folds"),
    "folders": DataSet(folders.load, "a folder of audio files per class"),
    "csv": DataSet(csvlist.load, "a CSV file: filename,label[,device][,fold|split][,group][,start,end]"),
    "unlabelled": DataSet(unlabelled.load, "clips to predict: an evaluation set, or any folder of audio files"),
    **{
        year.name: DataSet(
            partial(tau.load, year=year),
            f"{year.task}: {year.title}",
            (year.n_train, year.n_test) if year.n_train and year.n_test else None,
            year.unchecked,
        )
        for year in TAU_YEARS.values()
    },
}


def load_table(name: str, root: str | Path, *, audio: bool = True) -> ClipTable:
    """Reads a data set's lists and makes sure that its audio is there.

    Args:
        name: one of `DATASETS`.
        root: its folder; for "csv" also the file itself.
        audio: look for every audio file; without it only the lists are read.

    Raises:
        InputError: an unknown name, a missing folder, list or audio file, or a row that cannot be used.
    """
    if name not in DATASETS:
        raise InputError(f"unknown data set {name!r}; {nearest(name, DATASETS)}")
    folder = Path(root).absolute()
    if not folder.is_dir() and not (name == "csv" and folder.is_file()):
        kind = "is a file, not a folder" if folder.is_file() else "is not there"
        raise InputError(f"data set {name}: {folder} {kind}; give the folder that holds its lists and audio")
    table = DATASETS[name].load(folder)
    if audio:
        check_audio(table.clips, name)
    return table


def split_table(table: ClipTable, test_fold: int | None = 1, validation_fold: int | None = None) -> Split:
    """Cuts a table into training, validation and test clips; see `ClipTable.split`."""
    return table.split(test_fold=test_fold, validation_fold=validation_fold)
