"""A graph and its bundle in one .npz file: JSON for the structure, one array per constant, no pickle.

The file is what a run folder keeps of a student, so that it can be profiled and exported again without its
torch module.
Scales are written as JSON numbers, which give every float64 back exactly.
"""

from __future__ import annotations

import io
import json
import zipfile
from typing import Any

import numpy as np

from tinyasc_export.bundle import Bundle
from tinyasc_export.errors import GraphError, ModelFileError
from tinyasc_export.graph import Graph, Op, Tensor

FORMAT_VERSION = 1
HEADER = "graph"
MAX_RANK = 8
LARGEST_UNPACKED = 1 << 28  # bytes; no student comes near, and what does is made to fill the memory


def save_graph(graph: Graph, bundle: Bundle | None = None) -> bytes:
    """The file's bytes, equal for equal graphs.

    Args:
        graph: valid.
        bundle: labels, front end and card that go with it.

    Raises:
        GraphError: the graph breaks its own rules.
    """
    graph.validate()
    names = sorted(graph.tensors)
    arrays: dict[str, np.ndarray] = {}
    tensors: list[dict[str, Any]] = []
    for i, name in enumerate(names):
        t = graph.tensors[name]
        entry: dict[str, Any] = {"name": name, "shape": [int(n) for n in t.shape], "dtype": t.dtype}
        if t.data is not None:
            entry["data"] = str(i)
            arrays[str(i)] = np.ascontiguousarray(t.data)
        if t.scale is not None and t.zero_point is not None:
            entry["scale"] = [float(s) for s in t.scale.reshape(-1)]
            entry["zero_point"] = [int(z) for z in t.zero_point.reshape(-1)]
            entry["axis"] = t.axis
        tensors.append(entry)
    ops = [
        {"kind": o.kind, "inputs": o.inputs, "output": o.output, "attrs": _plain(o.attrs), "module": o.module}
        for o in graph.ops
    ]
    header: dict[str, Any] = {
        "format": FORMAT_VERSION,
        "tensors": tensors,
        "ops": ops,
        "input": graph.input,
        "output": graph.output,
        "bundle": None if bundle is None else bundle.to_json(),
    }
    text = json.dumps(header, sort_keys=True, separators=(",", ":"), allow_nan=False)
    arrays[HEADER] = np.frombuffer(text.encode("utf-8"), np.uint8)
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **arrays)  # pyright: ignore[reportArgumentType]
    return buffer.getvalue()


def load_graph(data: bytes, where: str) -> tuple[Graph, Bundle | None]:
    """Reads what `save_graph` wrote.

    Args:
        data: the whole file.
        where: the file's name, for the error line.

    Returns:
        The graph, validated, and its bundle if it has one.

    Raises:
        ModelFileError: not such a file, damaged, of another format version, unpacking to more than `LARGEST_UNPACKED`,
            or holding no valid graph.
    """
    _check_unpacked(data, where)
    try:
        with np.load(io.BytesIO(data), allow_pickle=False) as archive:
            arrays = {name: archive[name] for name in archive.files}
        header = json.loads(arrays[HEADER].tobytes().decode("utf-8"))
    except Exception:  # zipfile, zlib and numpy's header parser each have their own errors for damage
        raise ModelFileError(f"{where}: not a graph file of tinyasc, or a damaged one; compress again") from None
    if not isinstance(header, dict) or header.get("format") != FORMAT_VERSION:
        raise ModelFileError(f"{where}: not a graph file of format {FORMAT_VERSION}; compress again with this version")
    try:
        graph = _graph(header, arrays)
        graph.validate()
    except (GraphError, LookupError, TypeError, ValueError, AttributeError, ArithmeticError) as error:
        line = " ".join(str(error).split()) or type(error).__name__
        raise ModelFileError(f"{where}: holds no valid graph ({line}); compress again") from None
    text = header.get("bundle")
    if text is not None and not isinstance(text, str):
        raise ModelFileError(f"{where}: its bundle is no text; compress again")
    return graph, None if text is None else Bundle.from_json(text, where)


def _check_unpacked(data: bytes, where: str) -> None:
    """Refuses a small file that unpacks to a large one, by what its directory says; reading holds it to that."""
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            size = sum(entry.file_size for entry in archive.infolist())
    except Exception:  # as in `load_graph`, which says what is wrong with it
        return
    if size > LARGEST_UNPACKED:
        raise ModelFileError(f"{where}: would unpack to {size} bytes, which no deployed graph takes; compress again")


def _graph(header: dict[str, Any], arrays: dict[str, np.ndarray]) -> Graph:
    graph = Graph(input=_text(header["input"]), output=_text(header["output"]))
    for entry in header["tensors"]:
        t = Tensor(_text(entry["name"]), _shape(entry["shape"]), _text(entry["dtype"]))
        if "data" in entry:
            t.data = arrays[entry["data"]]
        if "scale" in entry:
            t.scale = np.array(entry["scale"], np.float64)
            t.zero_point = np.array(entry["zero_point"], np.int64)
            t.axis = entry["axis"]
            if t.scale.ndim != 1 or t.scale.shape != t.zero_point.shape or not t.scale.size:
                raise ValueError(f"tensor {t.name} has {t.scale.shape} scales")
            if t.scale.size > 1 and t.shape[t.axis if t.axis is not None else 0] != t.scale.size:
                raise ValueError(f"tensor {t.name} has {t.scale.size} scales for shape {t.shape}")
        if t.name in graph.tensors:
            raise ValueError(f"tensor {t.name} stands there twice")
        graph.tensors[t.name] = t
    for entry in header["ops"]:
        attrs = {key: _tuple(value) for key, value in entry["attrs"].items()}
        inputs = [_text(name) for name in entry["inputs"]]
        graph.ops.append(Op(_text(entry["kind"]), inputs, _text(entry["output"]), attrs, _text(entry["module"])))
    return graph


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise ValueError(f"{value!r} is no text")
    return value


def _shape(value: Any) -> tuple[int, ...]:
    if not isinstance(value, list) or len(value) > MAX_RANK:
        raise ValueError(f"{value!r} is no shape")
    if not all(isinstance(n, int) and 0 < n < 2**31 for n in value):
        raise ValueError(f"{value!r} is no shape")
    return tuple(value)


def _plain(attrs: dict[str, Any]) -> dict[str, Any]:
    """Attributes as JSON has them: texts, whole numbers and lists of whole numbers."""
    return {k: v if isinstance(v, str) else _whole(v) for k, v in attrs.items()}


def _whole(value: Any) -> Any:
    return [int(v) for v in value] if isinstance(value, list | tuple | np.ndarray) else int(value)


def _tuple(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value
