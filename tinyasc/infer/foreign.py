"""Model files without a card: what is to be said of them from outside, and the backend that believes it."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tinyasc.errors import InputError, ModelFileError
from tinyasc.frontend import ADDED_FIELDS, FrontEnd
from tinyasc.infer.backends.base import OUTPUTS, Backend
from tinyasc_export.bundle import Bundle

# How far from 1 a sum of K probabilities may lie: 8-bit ones are multiples of 1/256, each half of one away at most.
_SUM_TOLERANCE, _SUM_TOLERANCE_EACH = 1e-3, 1 / 512
_LEAST = 1e-12  # a probability of 0 has no logarithm


def describe(front_end: FrontEnd, labels: Sequence[str], outputs: str = "logits") -> Bundle:
    """What a file without a card is said to be.

    Args:
        front_end: how samples become the model's input.
        labels: class names in the order of its outputs.
        outputs: "logits", or "probabilities" where the model ends in a softmax of its own.

    Raises:
        InputError: no list of names, labels twice, or other outputs.
    """
    # A string is a sequence of strings: "ab" would become the classes a and b.
    if isinstance(labels, str) or not labels or not all(isinstance(label, str) and label.strip() for label in labels):
        raise InputError("labels: give a list of names, one for every class")
    if twice := next((label for label in labels if list(labels).count(label) > 1), None):
        raise InputError(f"labels: {twice!r} is there twice; give every class a name of its own")
    if outputs not in OUTPUTS:
        raise InputError(f"outputs must be one of {', '.join(OUTPUTS)}, got {outputs!r}")
    return Bundle(tuple(labels), front_end.to_dict(), {"outputs": outputs})


class ForeignBackend:
    """A backend of a file without a card, whose outputs are what its caller says they are.

    Args:
        backend: the file in its runtime, with the bundle of `describe`.
        where: the file's name, for error lines.

    Raises:
        ModelFileError: the front end gives another input than the model takes, or another number of labels is named
            than it has outputs.
    """

    def __init__(self, backend: Backend, where: str) -> None:
        self._backend, self._where = backend, where
        self.bundle, self.input_shape, self.n_classes = backend.bundle, backend.input_shape, backend.n_classes
        self._probabilities = self.bundle.card["outputs"] == "probabilities"
        gives = FrontEnd.from_dict(self.bundle.front_end, where).shape
        if gives != self.input_shape:
            takes, given = (" x ".join(map(str, shape)) for shape in (self.input_shape, gives))
            raise ModelFileError(
                f"{where}: the model takes {takes} (channels x mels x frames), the front end named gives {given}; "
                "name the one that it was trained with"
            )
        if len(self.bundle.labels) != self.n_classes:
            raise ModelFileError(
                f"{where}: the model gives {self.n_classes} outputs, {len(self.bundle.labels)} labels were named; "
                "name one for each, in their order"
            )

    @property
    def taken(self) -> dict[str, Any]:
        """As `Backend.taken`: the input is the backend's own."""
        return self._backend.taken

    def logits(self, features: np.ndarray) -> np.ndarray:
        """(channels, n_mels, frames) features to (K,) float32 logits.

        Raises:
            ModelFileError: the outputs are probabilities where logits were said, or the other way round.
        """
        answer = self._backend.logits(features)
        if not np.isfinite(answer).all():  # the caller's to refuse
            return answer
        tolerance = _SUM_TOLERANCE + _SUM_TOLERANCE_EACH * self.n_classes
        seems = bool((answer >= 0).all() and (answer <= 1).all() and abs(float(answer.sum()) - 1) < tolerance)
        if self._probabilities and not seems:
            raise ModelFileError(
                f"{self._where}: its outputs are no probabilities (from {answer.min():g} to {answer.max():g}, sum "
                f"{answer.sum():g}); say that they are logits"
            )
        if self._probabilities:
            return np.log(np.maximum(answer, _LEAST))
        if seems:
            raise ModelFileError(
                f"{self._where}: its outputs are probabilities already (all of 0 to 1, sum {answer.sum():g}); say so: "
                "--outputs probabilities"
            )
        return answer


def read_front_end(path: Path) -> FrontEnd:
    """A front-end record from a JSON file, as `tinyasc show --front-end` prints it.

    Raises:
        InputError: it cannot be read, is no such record, lacks a field, or holds a value out of range.
    """
    try:
        values: Any = json.loads(path.read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise InputError(f"--front-end {path}: cannot read this file: {error.strerror}") from None
    except (ValueError, RecursionError):
        raise InputError(
            f"--front-end {path}: is no JSON; `tinyasc show --front-end` prints such a file to start from"
        ) from None
    if not isinstance(values, dict):
        raise InputError(f"--front-end {path}: holds no JSON object; `tinyasc show --front-end` prints one")
    known = FrontEnd().to_dict()
    missing = [name for name in known if name not in values and name not in ADDED_FIELDS]
    unknown = [name for name in values if name not in known]
    if missing or unknown:
        what = f"lacks {', '.join(missing)}" if missing else f"holds the unknown {unknown[0]!r:.60}"
        raise InputError(f"--front-end {path}: {what}; `tinyasc show --front-end` prints a whole record to start from")
    return FrontEnd.from_dict(values, f"--front-end {path}")


def read_labels(text: str) -> list[str]:
    """Class names: of a file, one a line, or divided by commas.

    Args:
        text: a file's path, or "airport,bus,park".

    Raises:
        InputError: neither, or the file cannot be read as text.
    """
    try:
        if not os.path.isfile(text):  # unlike `Path.is_file`, False for a list that is longer than a name may be
            if "," not in text:
                raise InputError(
                    f"--labels {text}: no such file; name one with a class a line, or the classes with commas between"
                )
            return [label.strip() for label in text.split(",")]
        lines = Path(text).read_text(encoding="utf-8-sig").splitlines()
    except (OSError, ValueError) as error:
        raise InputError(f"--labels {text:.60}: cannot read this file: {error}") from None
    return [line.strip() for line in lines if line.strip()]
