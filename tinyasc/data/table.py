"""The clip table: which recordings a data set has, and how they fall into three disjoint sets."""

from __future__ import annotations

import csv
import dataclasses
import difflib
import hashlib
import os
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Literal

from tinyasc.errors import InputError


@dataclass(frozen=True)
class Clip:
    """One recording.

    Args:
        path: the audio file, absolute.
        scene: the label.
        device: the recording device, "" where the data set names none.
        location: where it was recorded, or the longer recording that it was cut from. Clips of one location
            sound alike, so a location never lies in two sets.
        fold: the fold in which this clip is tested; 0 for a clip that is only ever trained on.
    """

    path: Path
    scene: str
    device: str
    location: str
    fold: int


@dataclass(frozen=True)
class Split:
    """Three disjoint sets of clips."""

    train: tuple[Clip, ...]
    validation: tuple[Clip, ...]
    test: tuple[Clip, ...]

    def __iter__(self) -> Iterator[tuple[str, tuple[Clip, ...]]]:
        """Yields ("train", clips), ("validation", clips), ("test", clips)."""
        return iter((field.name, getattr(self, field.name)) for field in dataclasses.fields(self))


@dataclass(frozen=True)
class ClipTable:
    """The clips of a data set.

    Args:
        name: as given to `load_table`.
        labels: all scenes, sorted: class index i is labels[i].
        clips: in the order of the data set's own list.
        validation_by: how validation is cut from the training part: whole locations, or one whole fold.
        synthetic: the audio is generated, so accuracies on it say nothing about real rooms.
    """

    name: str
    labels: tuple[str, ...]
    clips: tuple[Clip, ...]
    validation_by: Literal["location", "fold"] = "location"
    synthetic: bool = False

    @property
    def folds(self) -> tuple[int, ...]:
        """The folds that can be tested on, sorted."""
        return tuple(sorted({clip.fold for clip in self.clips} - {0}))

    def split(self, *, test_fold: int = 1, validation_fold: int | None = None, seed: int = 0) -> Split:
        """Cuts the table into training, validation and test clips.

        Args:
            test_fold: the fold to test on.
            validation_fold: the fold to validate on; None is the one after the test fold, cyclic. Only for
                tables whose validation is a fold.
            seed: chooses the validation locations. Only for tables whose validation is cut by location.

        Raises:
            InputError: an unknown fold, or a location that would lie in two sets.
        """
        if test_fold not in self.folds:
            raise InputError(f"data set {self.name}: no test fold {test_fold}; its folds are {_listed(self.folds)}")
        test = tuple(clip for clip in self.clips if clip.fold == test_fold)
        rest = tuple(clip for clip in self.clips if clip.fold != test_fold)
        if self.validation_by == "fold":
            train, validation = self._cut_fold(rest, test_fold=test_fold, validation_fold=validation_fold)
        elif validation_fold is not None:
            raise InputError(
                f"data set {self.name}: validation is cut by location, not by fold; leave the validation fold out"
            )
        else:
            train, validation = cut_by_location(rest, seed=seed)
        split = Split(train=train, validation=validation, test=test)
        check_disjoint(split, self.name)
        return split

    def _cut_fold(
        self, clips: Sequence[Clip], *, test_fold: int, validation_fold: int | None
    ) -> tuple[tuple[Clip, ...], tuple[Clip, ...]]:
        if validation_fold is None:
            validation_fold = self.folds[(self.folds.index(test_fold) + 1) % len(self.folds)]
        if validation_fold not in self.folds or validation_fold == test_fold:
            others = [fold for fold in self.folds if fold != test_fold]
            raise InputError(
                f"data set {self.name}: cannot validate on fold {validation_fold} "
                f"while testing on fold {test_fold}; choose one of {_listed(others)}"
            )
        return cut_by_fold(clips, validation_fold=validation_fold)


def cut_by_fold(clips: Sequence[Clip], *, validation_fold: int) -> tuple[tuple[Clip, ...], tuple[Clip, ...]]:
    """Gives (training, validation), where validation is one whole fold."""
    train = tuple(clip for clip in clips if clip.fold != validation_fold)
    return train, tuple(clip for clip in clips if clip.fold == validation_fold)


def cut_by_location(
    clips: Sequence[Clip], *, seed: int = 0, share: float = 0.175
) -> tuple[tuple[Clip, ...], tuple[Clip, ...]]:
    """Gives (training, validation), where validation is `share` of every scene's locations, at least one.

    Locations are ranked by a hash of seed, scene and name: the cut depends on no order of rows and no random
    generator, and another location in the data set moves few of the others.

    Raises:
        InputError: a scene with a single location, which cannot be in both sets.
    """
    by_scene: dict[str, set[str]] = defaultdict(set)
    for clip in clips:
        by_scene[clip.scene].add(clip.location)
    chosen: set[str] = set()
    for scene, locations in sorted(by_scene.items()):
        wanted = max(1, round(share * len(locations))) - len(locations & chosen)
        ranked = sorted(locations - chosen, key=lambda name: _rank(f"{seed}\n{scene}\n{name}"))
        chosen.update(ranked[: max(0, wanted)])
    for scene, locations in sorted(by_scene.items()):
        if locations <= chosen:
            raise InputError(
                f"scene {scene!r}: {len(locations)} training location(s) are too few to set one aside for "
                "validation; add recordings from another place"
            )
    train = tuple(clip for clip in clips if clip.location not in chosen)
    return train, tuple(clip for clip in clips if clip.location in chosen)


def check_disjoint(split: Split, name: str = "split") -> None:
    """Makes sure that the three sets are non-empty and that no location or file is in two of them.

    Raises:
        InputError: an empty set, or the first location or file in two sets.
    """
    for attribute in ("location", "path"):
        home: dict[str, str] = {}
        for part, clips in split:
            if not clips:
                raise InputError(f"data set {name}: the {part} set is empty; check the folds in its lists")
            for value in {str(getattr(clip, attribute)) for clip in clips}:
                if home.setdefault(value, part) != part:
                    raise InputError(
                        f"data set {name}: {attribute} {value!r} is in the {home[value]} and the {part} set, "
                        "which makes scores too good; give its clips one fold"
                    )


def read_rows(path: Path, columns: Sequence[str], *, delimiter: str) -> list[tuple[int, dict[str, str]]]:
    """Reads a list with a header line.

    Args:
        path: a CSV file in UTF-8, with or without byte order mark.
        columns: the columns that must be there; more are ignored.
        delimiter: between the columns.

    Returns:
        (row number in the file, column -> stripped value) of every row; the header is row 1.

    Raises:
        InputError: the file is missing, is no text or lacks a column, or a row is too short or lacks a value.
    """
    try:
        with open(path, encoding="utf-8-sig", newline="") as stream:
            reader = csv.reader(stream, delimiter=delimiter)
            header = [name.strip() for name in next(reader, [])]
            lines = [(reader.line_num, line) for line in reader if any(value.strip() for value in line)]
    except FileNotFoundError:
        raise InputError(f"{path}: no such file; is this the data set's root folder?") from None
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"{path}: cannot be read as a list ({error}); download it again") from None
    if missing := [name for name in columns if name not in header]:
        kind = "tab" if delimiter == "\t" else "comma"
        raise InputError(f"{path}: row 1 lacks the column {missing[0]!r} ({kind} separated); download it again")
    rows = []
    for number, line in lines:
        row = {name: value.strip() for name, value in zip(header, line, strict=False)}
        if bad := [name for name in columns if not row.get(name)]:
            raise InputError(f"{path}: row {number} has no {bad[0]}; mend that row or download the list again")
        rows.append((number, row))
    if not rows:
        raise InputError(f"{path}: holds no rows; download it again")
    return rows


def clip_path(folder: Path, filename: str, where: str) -> Path:
    """The file of one row, refusing names that lead out of the data set's folder."""
    relative = PurePosixPath(filename)
    if relative.is_absolute() or ".." in relative.parts or "\0" in filename:
        raise InputError(f"{where} names the file {filename!r} outside the data set; mend that row")
    return folder / relative


def check_label(label: str, known: Iterable[str], where: str) -> str:
    """Returns a label that is known.

    Raises:
        InputError: an unknown label, with the nearest known one.
    """
    known = tuple(known)
    if label not in known:
        raise InputError(f"{where} has the unknown label {label!r}; {nearest(label, known)}")
    return label


def parse_fold(text: str, where: str) -> int:
    """Returns a fold number from 1 up."""
    if not (text.isascii() and text.isdigit() and 1 <= int(text) <= 1000):
        raise InputError(f"{where} has the fold {text!r}, which is no number from 1 up; mend that row")
    return int(text)


def nearest(name: str, known: Iterable[str]) -> str:
    """The end of a message: "did you mean ...?", and all known names with the nearest first."""
    known = sorted(known)
    close = difflib.get_close_matches(name, known, n=len(known) or 1, cutoff=0.5)
    rest = [other for other in known if other not in close]
    return (f"did you mean {close[0]!r}? " if close else "") + f"known: {_listed([*close, *rest])}"


def check_audio(clips: Sequence[Clip], name: str, folder: Path) -> None:
    """Makes sure that every clip's file is there.

    Each folder is listed once: a look at every file takes minutes on a network disk.

    Raises:
        InputError: the audio folder is missing, or some files are: their count and the first three.
    """
    if not folder.is_dir():
        raise InputError(f"data set {name}: no folder {folder}; download the audio and unpack it there")
    present: dict[Path, set[str]] = {}
    missing = []
    for clip in clips:
        parent = clip.path.parent
        if parent not in present:
            try:
                present[parent] = {entry.name for entry in os.scandir(parent)}
            except OSError:
                present[parent] = set()
        if clip.path.name not in present[parent]:
            missing.append(str(clip.path))
    if missing:
        more = ", ..." if len(missing) > 3 else ""
        raise InputError(
            f"data set {name}: {len(missing)} of {len(clips)} audio files are missing: "
            f"{', '.join(missing[:3])}{more}; download the rest"
        )


def _rank(text: str) -> bytes:
    return hashlib.blake2b(text.encode(), digest_size=8).digest()


def _listed(values: Iterable[object]) -> str:
    return ", ".join(map(str, values)) or "none"
