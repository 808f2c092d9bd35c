"""A model's answers on labelled clips, kept so that every score can be made again without the model."""

from __future__ import annotations

import csv
import dataclasses
import io
import json
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from tinyasc.errors import InputError
from tinyasc.evaluate import metrics
from tinyasc.files import write_atomic

FILE = "predictions.npz"
TABLE = "predictions.csv"
SEEN, UNSEEN, NEITHER = 1, 0, -1


@dataclass(frozen=True, eq=False)
class Predictions:
    """One row per clip and seed (and per device, where one clip was heard through several).

    Args:
        names: class names, sorted as in the data set.
        clips: (rows,) clip names, the same on every machine.
        labels: (rows,) class indices.
        devices: (rows,) recording devices, "" where the data set names none.
        locations: (rows,) recording places, "" where unknown.
        seen: (rows,) 1 for a device that training heard, 0 for one that it did not, -1 where that is no question.
        folds: (rows,) the fold in which the clip was tested.
        seeds: (rows,) the training's seed.
        probabilities: (rows, K) float64.
        about: whatever else there is to say, as JSON.

    Raises:
        InputError: columns of unequal length, or what `metrics.validate` refuses.
    """

    names: tuple[str, ...]
    clips: np.ndarray
    labels: np.ndarray
    devices: np.ndarray
    locations: np.ndarray
    seen: np.ndarray
    folds: np.ndarray
    seeds: np.ndarray
    probabilities: np.ndarray
    about: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        metrics.validate(self.probabilities, self.labels)
        if self.probabilities.shape[1] != len(self.names):
            raise InputError(
                f"{self.probabilities.shape[1]} probabilities in a row do not fit {len(self.names)} classes"
            )
        for column in _COLUMNS:
            if getattr(self, column).shape != self.labels.shape:
                raise InputError(
                    f"predictions: {column} {getattr(self, column).shape} do not fit {len(self.labels)} rows"
                )

    def __len__(self) -> int:
        return len(self.labels)

    def where(self, mask: np.ndarray) -> Predictions:
        """The rows of a (rows,) mask.

        Raises:
            InputError: there are none.
        """
        rows = {name: getattr(self, name)[mask] for name in (*_COLUMNS, "labels", "probabilities")}
        return Predictions(self.names, about=self.about, **rows)

    def with_about(self, about: dict[str, Any]) -> Predictions:
        """The same rows, saying this about themselves."""
        return dataclasses.replace(self, about=about)

    @property
    def groups(self) -> tuple[np.ndarray, str]:
        """What a bootstrap draws, and its name: recording places where every row has one, else clips."""
        return (self.locations, "location") if (self.locations != "").all() else (self.clips, "clip")

    def save(self, folder: Path) -> None:
        """Writes predictions.npz and, to be read by people, predictions.csv."""
        self.save_npz(folder / FILE)
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(["clip", "label", "device", "location", "seen", "fold", "seed", "answer", *self.names])
        answers = self.probabilities.argmax(axis=1)
        for i in range(len(self)):
            row = [self.clips[i], self.names[self.labels[i]], self.devices[i], self.locations[i]]
            row += [{SEEN: "yes", UNSEEN: "no", NEITHER: ""}[int(self.seen[i])], int(self.folds[i]), int(self.seeds[i])]
            writer.writerow([*row, self.names[answers[i]], *(f"{p:.6g}" for p in self.probabilities[i])])
        write_atomic(folder / TABLE, text.getvalue())

    def save_npz(self, file: Path) -> None:
        """Writes the file that `load` reads."""
        buffer = io.BytesIO()
        columns = {name: getattr(self, name) for name in (*_COLUMNS, "labels", "probabilities")}
        np.savez_compressed(buffer, names=np.array(self.names), about=np.array(json.dumps(self.about)), **columns)
        write_atomic(file, buffer.getvalue())


_COLUMNS = ("clips", "devices", "locations", "seen", "folds", "seeds")


def load(file: Path) -> Predictions:
    """Reads what `save` wrote.

    Raises:
        InputError: missing, damaged, or no such file.
    """
    try:
        with np.load(file, allow_pickle=False) as stored:
            values = {name: stored[name] for name in (*_COLUMNS, "labels", "probabilities", "names", "about")}
        names = tuple(map(str, values.pop("names")))
        about = json.loads(str(values.pop("about")))
        return Predictions(names, about=about, **values)
    except FileNotFoundError:
        raise InputError(f"{file}: no such file of predictions") from None
    except (
        OSError,
        ValueError,
        KeyError,
        EOFError,
        TypeError,
        AttributeError,
        zipfile.BadZipFile,
        InputError,
    ) as error:
        line = (str(error).splitlines() or [type(error).__name__])[0]
        raise InputError(f"{file}: damaged, or no predictions ({line}); delete it and evaluate again") from None


def join(parts: Sequence[Predictions]) -> Predictions:
    """The rows of several, one after the other; what they say `about` themselves is dropped.

    Raises:
        InputError: none, or other classes.
    """
    if not parts:
        raise InputError("there are no predictions to join")
    if any(part.names != parts[0].names for part in parts):
        raise InputError("predictions of different classes cannot stand in one score; evaluate them apart")
    rows = {name: np.concatenate([getattr(p, name) for p in parts]) for name in (*_COLUMNS, "labels", "probabilities")}
    return Predictions(parts[0].names, about={}, **rows)
