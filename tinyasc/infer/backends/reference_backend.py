"""Runs a deployed graph in the numpy reference: the specification's own answers, without a runtime and slowly."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from tinyasc.infer.backends.base import TFLITE_IDENTIFIER, check_features, one_line, read_model, without_card
from tinyasc.infer.backends.litert_backend import dequantize, quantize
from tinyasc_export.bundle import Bundle
from tinyasc_export.errors import GraphError, ModelFileError
from tinyasc_export.graph import Graph, Tensor
from tinyasc_export.graphfile import load_graph
from tinyasc_export.reference import run
from tinyasc_export.tflite_metadata import read_tflite_bundle

GRAPH_FILE = "graph-{}.npz"
PRECISIONS = ("fp32", "int8", "int16x8")
INPUTS = ("float32", "int8", "int16")
# No student comes near. A file that does is damaged, or made to fill the memory.
LARGEST_TENSOR = 1 << 26  # values


class ReferenceBackend:
    """A deployed graph as `tinyasc compress` keeps it: graph-fp32.npz, graph-int8.npz, graph-int16x8.npz.

    A .tflite file is answered by the graph that it was written from, where that lies beside it under the name of its
    precision. Its answers are those of TensorFlow Lite Micro bit for bit at int8 and int16x8 (rounding `tflite`).

    Args:
        path: a .npz graph, or a .tflite file beside its graph.

    Raises:
        ModelFileError: neither, damaged, without a card, of another input or output; or a .tflite file whose graph is
            not there or is not the one it was written from.
    """

    def __init__(self, path: Path | str) -> None:
        content, where = read_model(path)
        bundle = None
        if content[4:8] == TFLITE_IDENTIFIER:
            file, written = where, content
            bundle = read_tflite_bundle(content, where)
            if bundle is None:
                raise without_card(where)
            content, where = _beside(Path(path), bundle)
            self._graph, other = _read(content, where)
            if other is None or not _same_model(self._graph, other, written, bundle):
                raise ModelFileError(
                    f"{file}: was not written from {where}, so the numpy reference of that is another model's; "
                    "compress again, or name the .npz file itself"
                )
        else:
            self._graph, bundle = _read(content, where)
            if bundle is None:
                raise without_card(where)
        self.bundle, self._where = bundle, where
        self._input, self._output = self._graph.tensors[self._graph.input], self._graph.tensors[self._graph.output]
        shape, classes = self._input.shape, self._output.shape
        if len(shape) != 4 or shape[0] != 1:
            raise ModelFileError(f"{where}: its input is {shape}, expected (1, n_mels, frames, channels)")
        if len(classes) != 2 or classes[0] != 1:
            raise ModelFileError(f"{where}: its output is {classes}, expected (1, classes)")
        self.taken = _details(self._input, "input", where)
        self._given = _details(self._output, "output", where)
        self.input_shape = (shape[3], shape[1], shape[2])
        self.n_classes = classes[1]

    def logits(self, features: np.ndarray) -> np.ndarray:
        """(channels, n_mels, frames) features to (K,) float32 logits."""
        x = quantize(check_features(features, self.input_shape), self.taken).transpose(1, 2, 0)[None]
        try:
            answer = run(self._graph, np.ascontiguousarray(x))
        except (GraphError, ArithmeticError, LookupError, TypeError, ValueError, AssertionError) as error:
            # What a graph may hold is checked when it is read; what a kernel makes of odd values, here.
            raise ModelFileError(f"{self._where}: the reference cannot run this graph: {one_line(error)}") from None
        return dequantize(answer[0], self._given)


def _beside(path: Path, bundle: Bundle) -> tuple[bytes, str]:
    """The graph that lies beside a .tflite file under the name of its precision, and its name."""
    precision = bundle.card.get("precision")
    if precision not in PRECISIONS:
        raise ModelFileError(
            f"{path}: its precision is {precision!r:.40}, of which no graph is kept; the numpy reference takes .tflite "
            f"files of {', '.join(PRECISIONS)}"
        )
    graph = path.absolute().parent / GRAPH_FILE.format(precision)
    if not graph.is_file():
        raise ModelFileError(
            f"{path}: the numpy reference runs the graph that a file was written from, and there is no {graph.name} "
            "beside it; name that file, or take --backend litert"
        )
    return read_model(graph)


def _read(content: bytes, where: str) -> tuple[Graph, Bundle | None]:
    graph, bundle = load_graph(content, where)
    for t in graph.tensors.values():
        if np.prod(t.shape, dtype=np.float64) > LARGEST_TENSOR:
            raise ModelFileError(f"{where}: its tensor {t.name!r:.40} is of shape {t.shape}; compress again")
    return graph, bundle


def _same_model(graph: Graph, graph_bundle: Bundle, written: bytes, bundle: Bundle) -> bool:
    """Whether a .tflite file holds a graph's weights and scales, and says the same of labels, front end and training.

    This is no proof that the operators are the same; that takes the workshop half (`tinyasc profile` has it).
    """
    if (graph_bundle.labels, graph_bundle.front_end) != (bundle.labels, bundle.front_end):
        return False
    if any(graph_bundle.card.get(key) != bundle.card.get(key) for key in ("precision", "weights_blake2b")):
        return False
    for t in graph.tensors.values():
        data = None if t.data is None else np.ascontiguousarray(t.data, t.data.dtype.newbyteorder("<"))
        parts = [part.tobytes() for part in (data, None if t.scale is None else _float32(t.scale)) if part is not None]
        if any(part not in written for part in parts):
            return False
    return True


def _details(t: Tensor, what: str, where: str) -> dict[str, Any]:
    """What `quantize` and `dequantize` want of a tensor, as a runtime would tell it: the scale is float32."""
    if t.dtype not in INPUTS or t.data is not None:
        raise ModelFileError(f"{where}: its {what} is {t.dtype}, expected float32, int8 or int16")
    scale, zero_point = (0.0, 0) if t.scale is None or t.zero_point is None else (t.scale.flat[0], t.zero_point.flat[0])
    scale = float(_float32(scale))
    if t.dtype != "float32" and not (np.isfinite(scale) and scale > 0):
        raise ModelFileError(f"{where}: its {what} is {t.dtype} without a usable scale ({scale})")
    return {"dtype": np.dtype(t.dtype).type, "quantization": (scale, int(zero_point))}


def _float32(scale: np.ndarray | float) -> np.ndarray:
    """Scales as a file stores them; what float32 cannot hold becomes infinite, and is refused as such."""
    with np.errstate(over="ignore"):
        return np.asarray(scale, "<f4")
