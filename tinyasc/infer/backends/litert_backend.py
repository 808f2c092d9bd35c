"""Runs a .tflite file (float32, int8 or int16 activations) in LiteRT."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import numpy as np

from tinyasc.frontend import FrontEnd
from tinyasc.infer.backends.base import (
    check_features,
    one_line,
    read_model,
    without_card,
    wrong_input,
)
from tinyasc_export.bundle import Bundle
from tinyasc_export.errors import ModelFileError, TinyascError
from tinyasc_export.tflite_check import check_tflite
from tinyasc_export.tflite_metadata import read_tflite_bundle

DTYPES = (np.float32, np.int8, np.int16)


class LiteRtBackend:
    """A .tflite model of input (1, n_mels, frames, channels) and output (1, K).

    Args:
        path_or_bytes: the file, or its content.
        num_threads: threads of the runtime; one is quickest for nets this small.
        exact: run integer models on LiteRT's reference kernels, about 15 times slower than its default ones. They give
            TensorFlow Lite Micro's and the numpy reference's answers but for a rare unit in a linear layer; the
            default ones may differ by a few units in the last place. Float models always take the default ones.
        described: labels, front end and card of a file that has none of its own.

    Raises:
        ModelFileError: not a .tflite file, damaged, without a card, or of another input or output.
        TinyascError: no runtime is installed.
    """

    def __init__(
        self,
        path_or_bytes: Path | str | bytes,
        num_threads: int = 1,
        *,
        exact: bool = False,
        described: Bundle | None = None,
    ) -> None:
        content, where = read_model(path_or_bytes)
        check_tflite(content, where)
        bundle = read_tflite_bundle(content, where) or described
        if bundle is None:
            raise without_card(where)
        self.bundle = bundle
        self._lock = threading.Lock()
        self._interpreter = _interpreter(content, where, num_threads, exact=False)
        self._where = where
        try:
            inputs, outputs = self._interpreter.get_input_details(), self._interpreter.get_output_details()
        except ValueError as error:  # a tensor's name that is no text
            raise ModelFileError(f"{where}: damaged: {one_line(error)}") from None
        self._input = _only(inputs, "input", where)
        if exact and self._input["dtype"] != np.float32:
            self._interpreter = _interpreter(content, where, num_threads, exact=True)
        self._output = _only(outputs, "output", where)
        shape, classes = tuple(map(int, self._input["shape"])), tuple(map(int, self._output["shape"]))
        if len(shape) != 4 or shape[0] != 1:
            channels, mels, frames = FrontEnd.from_dict(bundle.front_end, where).shape
            raise wrong_input(where, shape, "(1, n_mels, frames, channels)", (1, mels, frames, channels))
        if len(classes) != 2 or classes[0] != 1:
            raise ModelFileError(f"{where}: its output is {classes}, expected (1, classes)")
        self.input_shape = (shape[3], shape[1], shape[2])
        self.n_classes = classes[1]
        self.taken = self._input

    def logits(self, features: np.ndarray) -> np.ndarray:
        """(channels, n_mels, frames) features to (K,) float32 logits. Calls from several threads take turns."""
        features = check_features(features, self.input_shape)
        quantized = np.ascontiguousarray(quantize(features, self._input).transpose(1, 2, 0))[None]
        try:
            with self._lock:
                self._interpreter.set_tensor(self._input["index"], quantized)
                self._interpreter.invoke()
                answer = self._interpreter.get_tensor(self._output["index"])[0]
        except (ValueError, RuntimeError) as error:
            raise ModelFileError(f"{self._where}: LiteRT cannot run this model: {one_line(error)}") from None
        return dequantize(answer, self._output)


def quantize(x: np.ndarray, details: dict[str, Any]) -> np.ndarray:
    """Real values to a tensor's type, by its scale and zero point. Ties round to even."""
    dtype = np.dtype(details["dtype"])
    if dtype == np.float32:
        return x
    scale, zero_point = details["quantization"]
    limits = np.iinfo(dtype)
    # float64, so that the division rounds once and the sum with the zero point is exact.
    q = np.rint(x.astype(np.float64) / scale) + zero_point
    return np.clip(q, limits.min, limits.max).astype(dtype)


def dequantize(q: np.ndarray, details: dict[str, Any]) -> np.ndarray:
    """A tensor's values as float32."""
    if q.dtype == np.float32:
        return q
    scale, zero_point = details["quantization"]
    return ((q.astype(np.float64) - zero_point) * scale).astype(np.float32)


def _interpreter(content: bytes, where: str, num_threads: int, *, exact: bool) -> Any:
    try:
        from ai_edge_litert.interpreter import Interpreter, OpResolverType
    except ModuleNotFoundError:
        try:  # ai-edge-litert has no wheel for armv7l
            from tflite_runtime.interpreter import (  # pyright: ignore[reportMissingImports]
                Interpreter,
                OpResolverType,
            )
        except ModuleNotFoundError:
            raise TinyascError(
                "no runtime for .tflite files is installed; install one with: pip install ai-edge-litert"
            ) from None
    try:
        kernels = OpResolverType.BUILTIN_REF if exact else OpResolverType.AUTO
        interpreter = Interpreter(model_content=content, num_threads=num_threads, experimental_op_resolver_type=kernels)
        interpreter.allocate_tensors()
    except (ValueError, RuntimeError) as error:
        raise ModelFileError(f"{where}: LiteRT refuses this model: {one_line(error)}") from None
    return interpreter


def _only(details: list[dict[str, Any]], what: str, where: str) -> dict[str, Any]:
    if len(details) != 1:
        raise ModelFileError(f"{where}: it has {len(details)} {what}s, expected one")
    dtype = np.dtype(details[0]["dtype"])
    if dtype not in DTYPES:
        raise ModelFileError(f"{where}: its {what} is {dtype.name}, expected float32, int8 or int16")
    scale = details[0]["quantization"][0]
    if dtype != np.float32 and not (np.isfinite(scale) and scale > 0):
        raise ModelFileError(f"{where}: its {what} is {dtype.name} without a usable scale ({scale})")
    return details[0]
