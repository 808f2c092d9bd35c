"""A list of clips as a CSV file: filename,label[,device][,fold|split][,group][,start,end].

* filename: relative to the CSV file's folder, with / between folders.
* label: the class.
* device: what recorded it, for scores of each device.
* fold: a number from 1 up, the fold that tests the clip; or split: train, validation or test. With neither, folds are
  dealt out by a hash of the groups' names, as for a folder per class. With both, split is test or empty: the fold tests
  the clip, and a clip of the split test is never trained on.
* group: the place, or the longer recording, that a clip comes from; it never lies in two sets. By default the file.
* start, end: seconds; the clip is this part of its file. Empty is the whole file.
"""

from __future__ import annotations

import math
from collections import Counter
from pathlib import Path

from tinyasc.data.folders import FOLDS_NOTE, deal_folds
from tinyasc.data.lists import clip_path, nearest, parse_fold, read_rows
from tinyasc.data.table import Clip, ClipTable
from tinyasc.errors import InputError

SPLITS = {"train": 0, "test": 1, "validation": 2}


def load(root: Path) -> ClipTable:
    """Reads a CSV file, or the only one in a folder.

    Raises:
        InputError: no such file, a row that cannot be used (file and row), or clips that cannot be cut into sets.
    """
    path = _find(root)
    rows = read_rows(
        path,
        ("filename", "label"),
        optional=("device", "fold", "split", "group", "start", "end"),
        delimiter=_delimiter(path),
    )
    by_fold, by_split = (any(values[column] for _, values in rows) for column in (3, 4))
    clips: dict[tuple[Path, tuple[float, float] | None], Clip] = {}
    for number, (filename, label, device, fold, split, group, start, end) in rows:
        where = f"{path}: row {number}"
        file, segment = clip_path(path.parent, filename, where), _segment(start, end, where)
        if (file, segment) in clips:
            raise InputError(f"{where} lists {filename} a second time; remove one of the rows")
        if by_fold and split not in ("", "test"):
            raise InputError(f"{where} has a fold and the split {split!r}; with folds, split is test or empty")
        tested = parse_fold(fold, where) if by_fold else _split(split, where) if by_split else 0
        clips[file, segment] = Clip(
            file, label, device, group or filename, tested, segment, by_fold and split == "test"
        )
    found = tuple(clips.values())
    _check_labels(found, rows, path)
    notes: tuple[str, ...] = ()
    if not by_fold and not by_split:
        folds = deal_folds({(clip.scene, clip.location) for clip in found}, where=str(path))
        found = tuple(Clip(c.path, c.scene, c.device, c.location, folds[c.location], c.segment) for c in found)
        notes = (FOLDS_NOTE,)
    # Three folds or more, or a split that names its validation clips: one whole fold validates.
    whole_folds = len({clip.fold for clip in found}) > 2
    return ClipTable(
        name="csv",
        labels=tuple(sorted({clip.scene for clip in found})),
        clips=found,
        validation_by="fold" if whole_folds else "location",
        notes=notes,
    )


def _find(root: Path) -> Path:
    if root.is_file():
        return root
    found = sorted(root.glob("*.csv"))
    if len(found) != 1:
        names = ", ".join(path.name for path in found[:3]) or "none"
        raise InputError(f"data set csv: {root} holds {len(found)} .csv files ({names}); name one file with --root")
    return found[0]


def _delimiter(path: Path) -> str:
    """Tab where the first line has one, else comma."""
    try:
        with open(path, "rb") as stream:
            return "\t" if b"\t" in stream.readline() else ","
    except OSError as error:
        raise InputError(f"{path}: cannot be read as a list ({error.strerror}); check the path") from None


def _split(text: str, where: str) -> int:
    if text not in SPLITS:
        raise InputError(f"{where} has the split {text!r}; {nearest(text, SPLITS)}")
    return SPLITS[text]


def _segment(start: str, end: str, where: str) -> tuple[float, float] | None:
    if not start and not end:
        return None
    try:
        segment = float(start), float(end)
    except ValueError:
        raise InputError(
            f"{where} has start {start!r} and end {end!r}; give both in seconds, or neither for the whole file"
        ) from None
    if not 0 <= segment[0] < segment[1] < math.inf:
        raise InputError(f"{where} has start {start} and end {end}; a part runs from 0 or later to a later second")
    return segment


def _check_labels(clips: tuple[Clip, ...], rows: list[tuple[int, tuple[str, ...]]], path: Path) -> None:
    """Refuses a class with a single clip, which no split can use and which is mostly a typing error."""
    count = Counter(clip.scene for clip in clips)
    if len(count) < 2:
        raise InputError(f"{path} has the label {min(count)!r} alone; a classifier needs two or more")
    for label, n in count.items():
        if n == 1:
            row = next(number for number, values in rows if values[1] == label)
            others = [other for other in count if other != label]
            raise InputError(f"{path}: row {row} is the only one with the label {label!r}; {nearest(label, others)}")
