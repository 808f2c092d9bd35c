"""Runs a folder that `tinyasc export --to c` wrote: its code, compiled for this machine and loaded by ctypes."""

from __future__ import annotations

import ctypes
import threading
from pathlib import Path
from typing import Any

import numpy as np

from tinyasc.errors import ModelFileError, TinyascError
from tinyasc.infer.backends.base import check_features, one_line
from tinyasc.infer.backends.litert_backend import dequantize, quantize
from tinyasc.infer.c_folder import read_c_folder
from tinyasc.infer.c_library import library_of
from tinyasc_export.c99.folder import BUNDLE, Values

# A library is loaded once per process and has one static arena, whoever holds it: its calls take turns.
_TURNS: dict[Path, threading.Lock] = {}


class CBackend:
    """A net in C on this machine, with the answers that it gives on a board.

    Its own front end is left out: features come from numpy, in the same bits where a board's arithmetic is asked for
    (`tinyasc.infer.board`).

    Args:
        path: a folder with bundle.json. Its code is compiled and run, so it has to be of someone you trust.

    Raises:
        ModelFileError: another folder, a damaged one, or one whose bundle.json and code do not fit each other.
        TinyascError: no C compiler is installed, or it refuses the code.
    """

    def __init__(self, path: Path) -> None:
        folder = read_c_folder(path)
        self.bundle = folder.bundle
        x, y = folder.called.input, folder.called.output
        if len(x.shape) != 4 or x.shape[0] != 1 or len(y.shape) != 2 or y.shape[0] != 1:
            raise ModelFileError(
                f"{path}: its input is {x.shape} and its output {y.shape}, expected (1, n_mels, frames, channels) and "
                "(1, classes)"
            )
        self.input_shape, self.n_classes = (x.shape[3], x.shape[1], x.shape[2]), y.shape[1]
        self.taken, self._given = _details(x), _details(y)
        library = library_of(folder)
        try:
            self._library = ctypes.CDLL(str(library))
        except OSError as error:
            raise TinyascError(
                f"{path}: its compiled library cannot be loaded: {one_line(error)}; list all C files that the net "
                f"needs in its {BUNDLE}, or remove {library}"
            ) from None
        self._turn = _TURNS.setdefault(library, threading.Lock())
        for what, values in (("input", x), ("output", y)):
            has = int(np.prod(values.shape)) * np.dtype(values.dtype).itemsize
            if (takes := getattr(self._library, f"tinyasc_{what}_bytes")()) != has:
                raise ModelFileError(
                    f"{path}: its code has an {what} of {takes} bytes, its bundle.json one of {has}; export it again"
                )

    def logits(self, features: np.ndarray) -> np.ndarray:
        """(channels, n_mels, frames) features to (K,) float32 logits. Calls from several threads take turns."""
        x = quantize(check_features(features, self.input_shape), self.taken)
        x = np.ascontiguousarray(x.transpose(1, 2, 0))
        answer = np.empty(self.n_classes, self._given["dtype"])
        with self._turn:
            self._library.tinyasc_invoke(x.ctypes.data_as(ctypes.c_void_p), answer.ctypes.data_as(ctypes.c_void_p))
        return dequantize(answer, self._given)


def _details(values: Values) -> dict[str, Any]:
    return {"dtype": np.dtype(values.dtype).type, "quantization": (values.scale, values.zero_point)}
