"""From a trained student to its files: captured, lowered and quantised once, written, and read again."""

from __future__ import annotations

import copy
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from tinyasc.errors import TinyascError
from tinyasc.evaluate import metrics
from tinyasc.files import write_atomic
from tinyasc.frontend import FrontEnd
from tinyasc.infer.backends.litert_backend import quiet_stderr
from tinyasc.infer.runner import Model, load
from tinyasc.training.features import Part
from tinyasc.training.fit import logits
from tinyasc.training.progress import progress
from tinyasc.training.run import Trained
from tinyasc_export.bundle import Bundle
from tinyasc_export.calibration import activation_ranges
from tinyasc_export.capture import capture
from tinyasc_export.count import Counts, count
from tinyasc_export.graph import Graph
from tinyasc_export.graphfile import save_graph
from tinyasc_export.lower import cast, lower
from tinyasc_export.onnx import to_onnx
from tinyasc_export.quantize import Ranges, calibrate, quantize_int8
from tinyasc_export.tflite import constant_bytes, to_tflite

CALIBRATION_CLIPS = 256
OVER_BUDGET = "model-int8-over-budget.tflite"
# Largest relative difference between torch's logits and those of a float file.
FLOAT_TOLERANCE = 1e-3
# What later commands read a student from: its graphs, and the ranges of its activations on the calibration clips.
GRAPH_FILE = "graph-{}.npz"
RANGES_FILE = "ranges.json"


@dataclass(frozen=True)
class Deployed:
    """The graphs of one student, the front end that feeds them, their ranges, and what those were measured on.

    `int16x8_graph` is there when it was trained; otherwise `export` quantises it from `ranges` when asked.
    """

    float_graph: Graph
    int8_graph: Graph
    front_end: FrontEnd
    scale: np.ndarray
    offset: np.ndarray
    ranges: Ranges
    int8_ranges: Ranges
    calibration: np.ndarray
    method: str
    int16x8_graph: Graph | None = None

    def graphs(self) -> dict[str, Graph]:
        """Every graph by its precision."""
        wide = {} if self.int16x8_graph is None else {"int16x8": self.int16x8_graph}
        return {"fp32": self.float_graph, "int8": self.int8_graph} | wide


def deploy(trained: Trained, calibration: np.ndarray, method: str = "mse") -> Deployed:
    """Captures, lowers (in float64, so that folding loses nothing) and quantises a student.

    Args:
        trained: the student.
        calibration: (clips, channels, bands, frames) training features; at most `CALIBRATION_CLIPS`, evenly taken, are
            used.
        method: of `tinyasc_export.calibration.METHODS`, for int8.

    Raises:
        CaptureError: an operator that the deployed graph lacks.
    """
    front_end = trained.front_end
    exact, scale, offset = lower(capture(copy.deepcopy(trained.module).double(), (1, *front_end.shape)))
    graph = cast(exact, "float32")
    picked = np.linspace(0, len(calibration) - 1, min(CALIBRATION_CLIPS, len(calibration))).round().astype(int)
    normalization = front_end.with_normalization(scale, offset)
    wanted = np.moveaxis(graph_features(calibration[picked], scale, offset), 1, -1)
    with progress("calibrate") as report:
        ranges = calibrate(graph, wanted, batch_size=4, progress=report)
    with progress("narrow ranges") as report:
        narrow = activation_ranges(method, graph, wanted, ranges=ranges, progress=report)
    return Deployed(graph, quantize_int8(graph, narrow), normalization, scale, offset, ranges, narrow, wanted, method)


def graph_features(normalized: np.ndarray, scale: np.ndarray, offset: np.ndarray) -> np.ndarray:
    """What the lowered graph wants, from features as the student was trained on.

    (clips, channels, bands, frames) float32; the normalisation (bands,) is every channel's.
    """
    return (normalized * scale[:, None] + offset[:, None]).astype(np.float32)


@dataclass(frozen=True)
class Written:
    """One model file: where, what it costs, what it scores on the validation clips."""

    path: Path
    precision: str
    counts: Counts
    validation: dict[str, float]


def write_files(
    deployed: Deployed, trained: Trained, validation: Part, card: dict[str, Any], folder: Path, budget_bytes: int
) -> list[Written]:
    """Writes model-fp32.tflite, model-fp32.onnx, model-int8.tflite and, where it was trained, model-int16x8.tflite, and
    reads each again in its runtime.

    An int8 model over its budget is written as model-int8-over-budget.tflite. Those of these names that are not written
    are removed.

    Args:
        deployed: the graphs.
        trained: the student that they came from.
        validation: clips to measure on.
        card: what every file says of itself, as for `write_graphs`; precision and validation metrics are added.
        folder: where the files go.
        budget_bytes: limit of the int8 constants.

    Raises:
        TinyascError: a float file's logits are not torch's.
    """
    expected = logits(trained, validation.features)
    features = graph_features(validation.features, deployed.scale, deployed.offset)
    written = []
    plans = [("fp32", "tflite", to_tflite), ("fp32", "onnx", to_onnx), ("int8", "tflite", to_tflite)]
    plans += [("int16x8", "tflite", to_tflite)] if deployed.int16x8_graph is not None else []
    for precision, suffix, writer in plans:
        graph = deployed.graphs()[precision]
        counts = count(graph)
        over = precision == "int8" and counts.parameter_bytes > budget_bytes
        path = folder / (OVER_BUDGET if over else f"model-{precision}.{suffix}")
        about = _about(card, precision, counts)
        draft = folder / f".draft-{precision}.{suffix}"
        # The card quotes what the file scores, so the file is measured once before its card is complete.
        write_atomic(draft, writer(graph, Bundle(trained.labels, deployed.front_end.to_dict(), about)))
        model = _open(draft)
        answers = run_file(model, features, f"check {path.name}")
        draft.unlink()
        if precision == "fp32":
            error = float(np.abs(answers - expected).max() / max(1.0, np.abs(expected).max()))
            if error > FLOAT_TOLERANCE:
                raise TinyascError(
                    f"{path}: its logits differ from torch's by {error:.2g} of their range; please report this"
                )
        scores = metrics.evaluate(model.probabilities(answers), validation.labels)
        scores["top1_agreement"] = float((answers.argmax(axis=1) == expected.argmax(axis=1)).mean())
        data = writer(graph, Bundle(trained.labels, deployed.front_end.to_dict(), about | {"validation": scores}))
        write_atomic(path, data)
        if suffix == "tflite" and constant_bytes(data) != counts.parameter_bytes:
            raise TinyascError(
                f"{path}: stores {constant_bytes(data)} bytes of constants, counted were {counts.parameter_bytes}"
            )
        if not np.array_equal(run_file(_open(path), features[:8]), answers[:8]):
            raise TinyascError(f"{path}: answers otherwise than when it was measured; please report this")
        written.append(Written(path, precision, count(graph, len(data)), scores))
    # A file of an earlier compression in this folder with other settings would be taken for one of these.
    for name in {"model-int8.tflite", OVER_BUDGET, "model-int16x8.tflite"} - {w.path.name for w in written}:
        (folder / name).unlink(missing_ok=True)
    return written


def write_graphs(deployed: Deployed, trained: Trained, card: dict[str, Any], folder: Path) -> None:
    """Writes graph-PRECISION.npz and ranges.json, from which `profile` and `export` work.

    Args:
        deployed: the graphs.
        trained: the student that they came from.
        card: what every file says of itself; under "quantization" how each integer graph was made, by precision.
        folder: where the files go.
    """
    # A graph of an earlier compression in this folder with other settings would be taken for one of these.
    (folder / GRAPH_FILE.format("int16x8")).unlink(missing_ok=True)
    for precision, graph in deployed.graphs().items():
        bundle = Bundle(trained.labels, deployed.front_end.to_dict(), _about(card, precision, count(graph)))
        write_atomic(folder / GRAPH_FILE.format(precision), save_graph(graph, bundle))
    write_atomic(folder / RANGES_FILE, json.dumps(deployed.ranges, indent=1, sort_keys=True))


def _about(card: dict[str, Any], precision: str, counts: Counts) -> dict[str, Any]:
    """The card of one file: how it was quantised is said by integer files alone."""
    names = ("parameters", "parameter_bytes", "quantization_bytes", "macs")
    own = {"precision": precision, "counts": {name: getattr(counts, name) for name in names}}
    how = card.get("quantization", {}).get(precision)
    return {k: v for k, v in card.items() if k != "quantization"} | ({"quantization": how} if how else {}) | own


def _open(path: Path) -> Model:
    with quiet_stderr():
        return load(path, exact=True)


def run_file(model: Model, features: np.ndarray, title: str | None = None) -> np.ndarray:
    """Logits (clips, K) float32 of a model file on (clips, channels, bands, frames) features."""
    if title is None:
        return np.stack([model.backend.logits(f) for f in features])
    out = []
    with progress(title) as report:
        for i, f in enumerate(features, start=1):
            out.append(model.backend.logits(f))
            report(i, len(features))
    return np.stack(out)
