"""What the runner asks of a runtime, and how a model file's bytes are read."""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from tinyasc_export.bundle import Bundle
from tinyasc_export.errors import ModelFileError

TFLITE_IDENTIFIER = b"TFL3"
MAX_MODEL_BYTES = 1 << 30  # ten times the largest teacher; a disk image that was named by mistake is more
# What computes features: the record of the model file, or a board's float32 or integers (`tinyasc.frontend_device`).
ARITHMETICS = ("reference", "device", "fixed")
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

    @property
    def taken(self) -> dict[str, Any]:
        """Type of its input ("dtype") and, of integers, scale and zero point ("quantization"), as LiteRT tells them."""
        ...

    def logits(self, features: np.ndarray) -> np.ndarray:
        """(channels, n_mels, frames) float32 features to (K,) float32 logits."""
        ...


def check_model_path(path: Path) -> None:
    """Makes sure that a path can be opened and read to its end: a named pipe would wait for a writer for ever.

    Raises:
        ModelFileError: missing, a folder, no regular file, or larger than any model.
    """
    try:
        status = os.stat(path)
    except (OSError, ValueError) as error:  # ValueError: a NUL in the name
        raise unreadable(path, error) from None
    if not stat.S_ISREG(status.st_mode):
        kind = "a folder" if stat.S_ISDIR(status.st_mode) else "not a regular file"
        raise ModelFileError(f"{path}: cannot read this model file: it is {kind}; name a .tflite or .onnx file")
    if status.st_size > MAX_MODEL_BYTES:
        raise ModelFileError(
            f"{path}: cannot read this model file: {status.st_size} bytes are more than a model has; name another"
        )


def unreadable(path: Path | str, error: OSError | ValueError) -> ModelFileError:
    """The refusal of a file that the system does not hand out."""
    reason = getattr(error, "strerror", None) or str(error)
    return ModelFileError(f"{path}: cannot read this model file: {reason}; check the path and its rights")


def file_kind(path: Path, head: bytes) -> str:
    """What kind of file it is, as the suffix that such a file has: ".tflite", ".onnx" or ".npz".

    Args:
        path: its suffix counts where the content does not tell.
        head: its first 8 bytes at least.

    Raises:
        ModelFileError: none of these.
    """
    if head[4:8] == TFLITE_IDENTIFIER:
        return ".tflite"
    if path.suffix in (".onnx", ".npz"):
        return path.suffix
    raise ModelFileError(
        f"{path}: neither a .tflite nor an .onnx model, nor a .npz graph; name a file that `tinyasc compress` wrote"
    )


def read_model(path_or_bytes: Path | str | bytes) -> tuple[bytes, str]:
    """The content of a model file, and the name by which error lines call it.

    Raises:
        ModelFileError: missing, a folder, empty or not readable.
    """
    if isinstance(path_or_bytes, bytes):
        content, where = path_or_bytes, "model"
    else:
        where = str(path_or_bytes)
        check_model_path(Path(path_or_bytes))
        try:
            content = Path(path_or_bytes).read_bytes()
        except OSError as error:
            raise unreadable(where, error) from None
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
