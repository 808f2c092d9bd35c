"""The graphs that `compress` left in a run folder, and the model files that were written from them.

Nothing here needs torch: `tinyasc simulate` reads its net with it.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path

from tinyasc.errors import InputError, ModelFileError
from tinyasc.frontend import FrontEnd
from tinyasc.infer.run_folder import main_precision
from tinyasc_export.bundle import Bundle
from tinyasc_export.c99.folder import BUNDLE
from tinyasc_export.graph import Graph
from tinyasc_export.graphfile import load_graph
from tinyasc_export.quantize import Ranges, quantize_int16x8
from tinyasc_export.tflite_metadata import read_tflite_bundle

# What later commands read a student from: its graphs, and the ranges of its activations on the calibration clips.
GRAPH_FILE = "graph-{}.npz"
RANGES_FILE = "ranges.json"
# What the input of each precision's graph holds.
DTYPES = {"fp32": "float32", "int8": "int8", "int16x8": "int16"}


@dataclass(frozen=True)
class Stored:
    """One deployed graph: where it lies, what goes with it, and the file that was written from it, if one is there."""

    path: Path
    precision: str
    graph: Graph
    bundle: Bundle
    file_bytes: int | None

    @property
    def front_end(self) -> FrontEnd:
        """How samples become the graph's input."""
        return FrontEnd.from_dict(self.bundle.front_end, str(self.path))

    @property
    def clip_seconds(self) -> float:
        """Seconds of sound per inference."""
        return self.front_end.clip_samples / self.front_end.sample_rate


def has_graphs(folder: Path) -> bool:
    """Whether `compress` left its graphs in a folder."""
    return (folder / GRAPH_FILE.format("fp32")).is_file()


def open_stored(target: Path, precision: str | None = None) -> Stored:
    """The graph of a run folder, of a graph file, or of a .tflite file that lies beside its graph.

    Args:
        target: a run folder of `compress`, or a graph-*.npz or .tflite file in one.
        precision: one of `DTYPES`, for a folder, by default the one it was made for; a file says its own.

    Raises:
        InputError: no such folder or file, or a run without graphs.
        ModelFileError: a damaged file, or one that was not written from the graph beside it.
    """
    if target.is_file():
        return _read(target) if target.suffix == ".npz" else _of_file(target)
    if not target.is_dir():
        raise InputError(f"{target}: no such run folder or .tflite file")
    if not has_graphs(target) and (target / BUNDLE).is_file():
        raise InputError(f"{target}: is a folder of C; name the run that it was written from")
    precision = precision or main_precision(target)
    stored = read_graph(target, precision)
    file = target / f"model-{precision}.tflite"
    return stored if not file.is_file() else _with_file(stored, file)


def read_graph(folder: Path, precision: str) -> Stored:
    """One graph of a run folder; int16x8, where it was not trained, from the float graph and its ranges.

    Raises:
        InputError: the folder holds none, or an operator that int16x8 lacks.
        ModelFileError: it is damaged.
    """
    path = folder / GRAPH_FILE.format(precision)
    if precision == "int16x8" and not path.is_file():
        return _in_16_bits(read_graph(folder, "fp32"))
    stored = _read(path)
    if stored.precision != precision:
        raise ModelFileError(f"{path}: holds a graph of another precision; compress again")
    return stored


def _read(path: Path) -> Stored:
    try:
        data = path.read_bytes()
    except OSError:
        raise InputError(f"{path.parent}: no {path.name} here; run `tinyasc compress`, which writes it") from None
    graph, bundle = load_graph(data, str(path))
    found = [p for p, dtype in DTYPES.items() if dtype == graph.tensors[graph.input].dtype]
    if not found:
        raise ModelFileError(f"{path}: holds a graph of another precision; compress again")
    if bundle is None:
        raise ModelFileError(f"{path}: holds no labels and no front end; compress again")
    return Stored(path, found[0], graph, bundle, None)


def _in_16_bits(stored: Stored) -> Stored:
    how = {"quantization": {"how": "per-channel weights, true ranges on training clips", "qat_epochs": 0}}
    bundle = replace(stored.bundle, card=stored.bundle.card | how)
    graph = quantize_int16x8(stored.graph, read_ranges(stored.path.parent))
    return replace(stored, precision="int16x8", graph=graph, bundle=bundle)


def read_ranges(folder: Path) -> Ranges:
    """The calibration ranges that `compress` measured.

    Raises:
        InputError: there are none, or they are damaged.
    """
    path = folder / RANGES_FILE
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
        return {str(name): (float(low), float(high)) for name, (low, high) in values.items()}
    except OSError:
        raise InputError(f"{folder}: no {RANGES_FILE} here; run `tinyasc compress`, which writes it") from None
    except (ValueError, TypeError, AttributeError):
        raise InputError(f"{path}: damaged; compress again") from None


def _of_file(file: Path) -> Stored:
    from tinyasc_export.tflite import to_tflite  # the writer's packages; a graph needs none of them

    data = file.read_bytes()
    bundle = read_tflite_bundle(data, str(file))
    if bundle is None:
        raise ModelFileError(f"{file}: a model file without a tinyasc card; take one that `tinyasc compress` wrote")
    precision = str(bundle.card.get("precision"))
    if precision not in DTYPES:
        raise InputError(
            f"{file}: is {precision}, of which no graph is kept; take a file of {', '.join(DTYPES)} that `tinyasc "
            "compress` wrote"
        )
    stored = read_graph(file.absolute().parent, precision)
    # Files of earlier versions have no seal.
    if data not in (to_tflite(stored.graph, bundle, sealed=sealed) for sealed in (True, False)):
        raise ModelFileError(
            f"{file}: was not written from {stored.path}, so its operators are unknown; compress again"
        )
    return Stored(file, stored.precision, stored.graph, bundle, len(data))


def _with_file(stored: Stored, file: Path) -> Stored:
    found = _of_file(file)
    return Stored(stored.path.parent, stored.precision, stored.graph, found.bundle, found.file_bytes)
