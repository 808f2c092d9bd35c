"""Answers in a CSV or JSON lines file that a killed run leaves in order, and that the next one goes on with.

Every row says which model file gave it and with which options, so nothing beside the file is needed to go on. Rows are
appended, each by one write; what a kill leaves of a last row has no end of line and is cut off.
"""

from __future__ import annotations

import contextlib
import csv
import fcntl
import hashlib
import io
import json
import os
import stat
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from tinyasc.errors import InputError
from tinyasc.files import InUseError, file_hash, naming
from tinyasc.frontend import FrontEnd
from tinyasc.infer.batch import Answer, Job
from tinyasc.infer.records import as_record

FORMATS = (".csv", ".jsonl")
MEND = "name another --out, or remove this file to start anew"
# Of a probability in CSV; JSON has all.
_DIGITS = 8


@dataclass(frozen=True)
class Origin:
    """What a row came from.

    Args:
        path: of the model file, as it was named.
        model: its BLAKE2b hash, 32 hexadecimal characters; of a folder of C, that of its files.
        options: as text, such as "exact=False seed=0 tta=4".
    """

    path: str
    model: str
    options: str

    @classmethod
    def of(cls, job: Job) -> Origin:
        """The origin of a job's answers.

        Raises:
            OSError: the model file cannot be read.
            ModelFileError: the folder of C cannot.
        """
        options = {**job.loading, **job.predicting}
        told = " ".join(f"{name}={_told(options[name])}" for name in sorted(options))
        if os.path.isdir(job.model):
            from tinyasc.infer.c_folder import read_c_folder

            return cls(str(job.model), read_c_folder(job.model).blake2b, told)
        return cls(str(job.model), file_hash(job.model), told)


class Rows(Protocol):
    """How answers are written as rows, and read back.

    Attributes:
        head: the file's first bytes, before all rows.
        quoted: an end of line inside quotes, as a file's name may hold one, ends no row.
    """

    head: bytes
    quoted: bool

    def row(self, answer: Answer) -> bytes:
        """One answer, with its end of line."""
        ...

    def read(self, line: bytes) -> tuple[str, bool, str, str]:
        """(path, whether it is an error, model, options) of one row.

        Raises:
            ValueError: it is no such row.
        """
        ...


class CsvRows:
    """Columns filename, scene_label, one per class as in DCASE's system outputs, then error, model, options."""

    quoted = True

    def __init__(self, labels: Sequence[str], origin: Origin) -> None:
        self._origin, self._columns = origin, ["filename", "scene_label", *labels, "error", "model", "options"]
        if len(set(self._columns)) < len(self._columns):
            raise InputError("a class of this model is called as another column of the table is; take --out FILE.jsonl")
        self._labels = tuple(labels)
        self.head = self._line(self._columns)

    def row(self, answer: Answer) -> bytes:  # noqa: D102
        label, values = "", [""] * len(self._labels)
        if answer.prediction is not None:
            label = answer.prediction.top(1)[0][0]
            values = [format(p, f".{_DIGITS}g") for p in answer.prediction.probabilities.tolist()]
        return self._line([str(answer.path), label, *values, _reason(answer), self._origin.model, self._origin.options])

    def read(self, line: bytes) -> tuple[str, bool, str, str]:  # noqa: D102
        try:
            (cells,) = csv.reader(io.StringIO(os.fsdecode(line), newline=""), strict=True)
        except csv.Error as error:
            raise ValueError(str(error)) from None
        if len(cells) != len(self._columns):
            raise ValueError(f"{len(cells)} cells")
        return cells[0], bool(cells[-3]), cells[-2], cells[-1]

    @staticmethod
    def _line(cells: list[str]) -> bytes:
        text = io.StringIO(newline="")
        # What the writer puts in quotes depends on the end of line that it is told: so a name with either half is.
        csv.writer(text, lineterminator="\r\n").writerow(cells)
        return os.fsencode(text.getvalue().removesuffix("\r\n")) + b"\n"


class JsonRows:
    """One JSON object per line: that of `tinyasc infer --json` without its time, or `path` and `error`; the origin."""

    head, quoted = b"", False

    def __init__(self, origin: Origin) -> None:
        self._origin = origin

    def row(self, answer: Answer) -> bytes:  # noqa: D102
        told = {"path": str(answer.path), "model": self._origin.path}
        if answer.prediction is None:
            told["error"] = _reason(answer)
        else:
            told |= as_record(answer.path, answer.prediction, self._origin.path)
        told |= {"model_blake2b": self._origin.model, "options": self._origin.options}
        return json.dumps(told).encode() + b"\n"

    def read(self, line: bytes) -> tuple[str, bool, str, str]:  # noqa: D102
        try:
            told: Any = json.loads(line)
        except RecursionError:
            raise ValueError("nested") from None
        if not isinstance(told, dict):
            raise ValueError("no object")
        clip, model, options = (told.get(key) for key in ("path", "model_blake2b", "options"))
        if not (isinstance(clip, str) and isinstance(model, str) and isinstance(options, str)):
            raise ValueError("no answer")
        return clip, "error" in told, model, options


class AnswerFile:
    """An open file of answers.

    Attributes:
        done: the paths that are answered in it.
        errors: how many of its rows are errors.
    """

    def __init__(self, path: Path, rows: Rows, descriptor: int) -> None:
        self.path, self.done, self.errors = path, set[str](), 0
        self._rows, self._descriptor = rows, descriptor

    def write(self, answer: Answer) -> None:
        """Appends one answer.

        Raises:
            OSError: the disk is full; the rows before stay.
        """
        self._append(self._rows.row(answer))
        self._note(str(answer.path), answer.prediction is None)

    def _go_on(self, origin: Origin) -> None:
        """Reads the rows that are there, cuts off half of one, and writes the head of a new file."""
        end = 0
        for number, line in self._whole_lines():
            if not end and self._rows.head:
                if line != self._rows.head:
                    raise InputError(f"{self.path}: is there, and is no table of this model's classes; {MEND}")
            else:
                self._take(number, line, origin)
            end += len(line)
        if not end:
            start = self._rows.head or b'{"path": '
            found = os.pread(self._descriptor, len(start), 0)
            if not start.startswith(found):
                raise InputError(f"{self.path}: is there, and holds something else; {MEND}")
        self._check_rest(end, origin)
        with naming(self.path):
            os.ftruncate(self._descriptor, end)
        if not end:
            self._append(self._rows.head)

    def _check_rest(self, end: int, origin: Origin) -> None:
        """Refuses to cut off more than half of a row: behind a quote that never closes whole rows would go with it."""
        with os.fdopen(os.dup(self._descriptor), "rb") as file:
            file.seek(end)
            rest = file.read()
        if origin.model.encode() in rest[: rest.rfind(b"\n") + 1]:
            start = " ".join(os.fsdecode(rest[:40]).split())
            raise InputError(f"{self.path}: a quote is opened behind {start!r} and not closed; mend it, or {MEND}")

    def _take(self, number: int, line: bytes, origin: Origin) -> None:
        try:
            clip, error, model, options = self._rows.read(line)
        except ValueError:
            raise InputError(f"{self.path}: line {number} is no answer; remove that line, or {MEND}") from None
        if model != origin.model:
            raise InputError(
                f"{self.path}: line {number} is of another model file (BLAKE2b {model:.32}, {origin.path} has "
                f"{origin.model}); name that model, {MEND}"
            )
        if options != origin.options:
            raise InputError(
                f"{self.path}: line {number} was answered with {options:.200}, now it is {origin.options}; "
                f"give the same options, {MEND}"
            )
        self._note(clip, error)

    def _whole_lines(self) -> Iterator[tuple[int, bytes]]:
        """(number of its first line, bytes) of every row that is there to its end."""
        with os.fdopen(os.dup(self._descriptor), "rb") as file:
            file.seek(0)
            row, start, quotes = [], 1, 0
            for number, line in enumerate(file, 1):
                row.append(line)
                quotes += line.count(b'"') if self._rows.quoted else 0
                if line.endswith(b"\n") and quotes % 2 == 0:
                    yield start, b"".join(row)
                    row, start, quotes = [], number + 1, 0

    def _note(self, clip: str, error: bool) -> None:
        self.done.add(clip)
        self.errors += error

    def _append(self, data: bytes) -> None:
        # Unbuffered: what Python held back would be lost by a kill.
        with naming(self.path):
            while data:
                data = data[os.write(self._descriptor, data) :]


@contextlib.contextmanager
def open_answers(path: Path, labels: Sequence[str], job: Job) -> Iterator[AnswerFile]:
    """Opens a file of answers to go on with, or a new one; its folder is made.

    Args:
        path: a .csv or a .jsonl file.
        labels: of the model.
        job: what is done with every clip.

    Raises:
        InputError: another suffix; not to be written to; in use by another process; it holds something else, or answers
            of another model or with other options. What is there is then left as it is.
    """
    check_name(path)
    origin = Origin.of(job)
    rows = CsvRows(labels, origin) if path.suffix.lower() == ".csv" else JsonRows(origin)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        # Not blocking: a pipe of that name would wait for its other end.
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_NONBLOCK, 0o644)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise InputError(f"--out {path}: cannot be written to: {reason}; name another") from None
    try:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise InputError(f"--out {path}: is no regular file; name another")
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise InUseError(f"--out {path}: another process writes it; wait for it or end it") from None
        file = AnswerFile(path, rows, descriptor)
        file._go_on(origin)
        yield file
    finally:
        os.close(descriptor)


def check_name(path: Path) -> None:
    """Refuses the name of a file of another kind.

    Raises:
        InputError: its suffix is none of `FORMATS`.
    """
    if path.suffix.lower() not in FORMATS:
        raise InputError(f"--out {path}: must end in {' or '.join(FORMATS)}, which says how it is written")


def _told(value: Any) -> str:
    """An option as one word; of a front end and of labels, which are long, a hash."""
    if isinstance(value, FrontEnd):
        value = value.to_dict()
    elif value is None or isinstance(value, str | int | float):
        return str(value)
    text = json.dumps(value, sort_keys=True)
    return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()


def _reason(answer: Answer) -> str:
    """An answer's error without the path, which has a place of its own."""
    return " ".join(answer.error.removeprefix(f"{answer.path}: ").split())
