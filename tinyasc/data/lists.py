"""Reading lists of clips: rows of a CSV file, file names, labels and folds, each refused with file and row."""

from __future__ import annotations

import csv
import difflib
import os
from collections.abc import Iterable, Sequence
from operator import itemgetter
from pathlib import Path

from tinyasc.errors import InputError

AUDIO_SUFFIXES = frozenset((".wav", ".flac", ".ogg", ".mp3", ".opus", ".aif", ".aiff", ".au", ".w64"))
QUOTES = "close or remove its double quotes (one within a quoted value is written twice)"


def read_rows(
    path: Path,
    columns: Sequence[str],
    *,
    optional: Sequence[str] = (),
    delimiter: str,
    header: bool = True,
) -> list[tuple[int, tuple[str, ...]]]:
    """Reads a list.

    Args:
        path: a CSV file in UTF-8, with or without byte order mark.
        columns: the columns that must be there, with a value in every row; others are ignored.
        optional: columns that may be absent or empty.
        delimiter: between the columns.
        header: the first row names the columns; without it they come in the order of `columns`, then `optional`.

    Returns:
        (row number in the file, stripped values of `columns` and then of `optional`, "" where there is none) of every
        row; a header is row 1.

    Raises:
        InputError: the file is missing, is no text or lacks a column, or a row is too short or too long, lacks a value
            or has a quote that does not end in it.
    """
    kind = "tab" if delimiter == "\t" else "comma"
    number = 0
    try:
        with open(path, encoding="utf-8-sig", newline="") as stream:
            reader = csv.reader(stream, delimiter=delimiter, strict=True)
            names = [name.strip() for name in next(reader, [])] if header else [*columns, *optional]
            if missing := [name for name in columns if name not in names]:
                how = (
                    f"put {kind}s between its columns"
                    if any(other in name for name in names for other in {*",;\t"} - {delimiter})
                    else "name it there, or download the list again"
                )
                raise InputError(f"{path}: row 1 lacks the column {missing[0]!r} ({kind} separated); {how}")
            if twice := [name for name in (*columns, *optional) if names.count(name) > 1]:
                raise InputError(f"{path}: row 1 names the column {twice[0]!r} twice; rename one")
            # Rows are padded by an empty value, which stands for absent columns; it is also taken once more, so
            # that itemgetter never has a single item.
            width = len(names)
            places = [names.index(name) if name in names else width for name in (*columns, *optional)]
            take, required = itemgetter(*places, width), len(columns)
            rows = []
            number = reader.line_num
            for line in reader:
                number += 1
                if reader.line_num != number:
                    # A quote that was opened by mistake takes whole rows into one value.
                    raise InputError(f"{path}: row {number} has a quote that ends in another row; {QUOTES}")
                if len(line) != width:
                    if any(value.strip() for value in line[width:]):
                        raise InputError(
                            f"{path}: row {number} has {len(line)} values for {width} columns; "
                            f"write a value that holds a {kind} in double quotes"
                        )
                    line = (line + [""] * width)[:width]
                line.append("")
                values = tuple(map(str.strip, take(line)))[:-1]
                if not all(values[:required]):
                    if not any(value.strip() for value in line):
                        continue
                    bad = next(name for name, value in zip(columns, values, strict=False) if not value)
                    raise InputError(f"{path}: row {number} has no {bad}; mend that row or download the list again")
                rows.append((number, values))
    except FileNotFoundError:
        raise InputError(f"{path}: no such file; is this the data set's root folder?") from None
    except csv.Error as error:
        raise InputError(f"{path}: row {number + 1} cannot be read ({error}); {QUOTES}") from None
    except UnicodeDecodeError:
        raise InputError(
            f"{path}: cannot be read as a list, it is no text in UTF-8; save it as UTF-8, or download it again"
        ) from None
    except OSError as error:
        raise InputError(f"{path}: cannot be read as a list ({error}); check its rights and the disk") from None
    if not rows:
        raise InputError(f"{path}: holds no rows; list one clip per row, or download it again")
    return rows


def clip_path(folder: Path, filename: str, where: str) -> Path:
    """The file of one row, refusing names that lead out of the data set's folder."""
    if os.path.isabs(filename) or ".." in filename.split("/") or "\0" in filename:
        raise InputError(f"{where} names the file {filename!r} outside the data set; mend that row")
    # One construction, half the time of `folder / filename`, which shows at 230,350 rows.
    return Path(f"{folder}/{filename}")


def check_label(label: str, known: Iterable[str], where: str) -> str:
    """Returns a label that is known.

    Raises:
        InputError: an unknown label, with the nearest known one.
    """
    if label not in (known := tuple(known)):
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
    return (f"did you mean {close[0]!r}? " if close else "") + f"known: {listed([*close, *rest])}"


def find_audio(folder: Path) -> list[Path]:
    """All audio files under a folder by their suffix, sorted; hidden files and folders are left out.

    Raises:
        InputError: a folder that cannot be listed, or one without any audio file.
    """
    found: list[Path] = []
    failed: list[OSError] = []
    for parent, folders, names in os.walk(folder, onerror=failed.append):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        found += [
            Path(parent, name)
            for name in names
            if not name.startswith(".") and os.path.splitext(name)[1].lower() in AUDIO_SUFFIXES
        ]
    if failed:
        raise InputError(
            f"{failed[0].filename}: cannot be listed ({failed[0].strerror}); change its rights (chmod +rx)"
        )
    if not found:
        raise InputError(f"{folder}: no audio file in it (looked for {listed(sorted(AUDIO_SUFFIXES))}); check the path")
    return sorted(found)


def missing_files(paths: Iterable[Path]) -> list[Path]:
    """The files that are not there, in the order given.

    Each folder is listed once: a look at every file takes minutes on a network disk.
    """
    present: dict[str, set[str]] = {}
    missing = []
    for path in paths:
        folder, _, name = os.fspath(path).rpartition(os.sep)
        if folder not in present:
            try:
                present[folder] = {entry.name for entry in os.scandir(folder)}
            except OSError:
                present[folder] = set()
        if name not in present[folder]:
            missing.append(path)
    return missing


def listed(values: Iterable[object]) -> str:
    """The values with commas between them, or "none"."""
    return ", ".join(map(str, values)) or "none"
