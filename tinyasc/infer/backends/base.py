"""What the runner asks of a runtime, and how a model file's bytes are read."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

import numpy as np

from tinyasc_export.bundle import Bundle
from tinyasc_export.errors import ModelFileError

TFLITE_IDENTIFIER = b"TFL3"
OUTPUTS = ("logits", "probabilities")  # what a model without a card may give


class Backend(Protocol):
    """A model file held by its runtime.

    Attributes:
        bundle: labels, front end and card, read from the file.
        input_shape: (channels, n_mels, frames).
        n_classes: K, the length of the logits.
    """

    bundle: Bundle
    input_shape: tuple[int, int, int]
    n_classes: int

    def logits(self, features: np.ndarray) -> np.ndarray:
        """(channels, n_mels, frames) float32 features to (K,) float32 logits."""
        ...


def read_model(path_or_bytes: Path | str | bytes) -> tuple[bytes, str]:
    """The content of a model file, and the name by which error lines call it.

    Raises:
        ModelFileError: missing, a folder, empty or not readable.
    """
    if isinstance(path_or_bytes, bytes):
        content, where = path_or_bytes, "model"
    else:
        where = str(path_or_bytes)
        try:
            content = Path(path_or_bytes).read_bytes()
        except (OSError, ValueError) as error:  # ValueError: a NUL in the name
            reason = getattr(error, "strerror", None) or str(error)
            raise ModelFileError(f"{where}: cannot read this model file: {reason}") from None
    if not content:
        raise ModelFileError(f"{where}: the model file is empty; export the model again")
    return content, where


def one_line(error: Exception, limit: int = 200) -> str:
    """A runtime's complaint on one line, for the end of ours."""
    return " ".join(str(error).split())[:limit]


def without_card(where: str) -> ModelFileError:
    """The refusal of a file that says nothing of its labels and its front end."""
    return ModelFileError(
        f"{where}: a model file without a tinyasc card, so its labels and front end are unknown; "
        "name them with --front-end and --labels, or take a file that `tinyasc compress` wrote"
    )


def wrong_input(where: str, shape: tuple[object, ...], layout: str, wanted: tuple[int, ...]) -> ModelFileError:
    """The refusal of a model whose input is no map of features, with both shapes."""
    return ModelFileError(
        f"{where}: its input is {_shape(shape)}, expected {layout}, which its front end makes {_shape(wanted)}"
    )


def _shape(sizes: tuple[object, ...]) -> str:
    return f"({', '.join(map(str, sizes))})"


def check_features(features: np.ndarray, input_shape: tuple[int, int, int]) -> np.ndarray:
    """The features as contiguous float32.

    Raises:
        ValueError: another shape than the model's; the runner's callers never see this.
    """
    if features.shape != input_shape:
        raise ValueError(f"features are {features.shape}, the model takes {input_shape}")
    return np.ascontiguousarray(features, np.float32)
