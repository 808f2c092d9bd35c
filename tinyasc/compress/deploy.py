"""From a trained student to its files: captured, lowered and quantised once, written, and read again."""

from __future__ import annotations

import copy
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np

from tinyasc.compress.costs import measure
from tinyasc.compress.limits import Check, Limits
from tinyasc.compress.on_board import OnBoard, count_on_board
from tinyasc.compress.stored import GRAPH_FILE, RANGES_FILE
from tinyasc.errors import InputError, TinyascError
from tinyasc.evaluate import metrics
from tinyasc.files import write_atomic
from tinyasc.frontend import FrontEnd
from tinyasc.infer.backends.litert_backend import LiteRtBackend
from tinyasc.infer.backends.onnx_backend import OnnxBackend
from tinyasc.infer.quiet import quiet_stderr
from tinyasc.infer.runner import Model
from tinyasc.training.features import Part
from tinyasc.training.progress import progress
from tinyasc.training.run import Trained
from tinyasc_export.bundle import Bundle
from tinyasc_export.calibration import activation_ranges
from tinyasc_export.capture import capture
from tinyasc_export.count import Counts, count
from tinyasc_export.graph import Graph
from tinyasc_export.graphfile import save_graph
from tinyasc_export.lower import cast, lower, store_float16
from tinyasc_export.memory import plan
from tinyasc_export.onnx import to_onnx
from tinyasc_export.quantize import Ranges, calibrate, quantize_int8
from tinyasc_export.tflite import constant_bytes, to_tflite

CALIBRATION_CLIPS = 256
OVER_BUDGET = "model-{}-over-budget.tflite"


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
        InputError: too few calibration clips.
    """
    check_calibration(len(calibration), len(trained.labels))
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


def check_calibration(clips: int, classes: int) -> None:
    """Raises InputError where there are fewer calibration clips than classes: ranges would be those of a few sounds."""
    if clips < classes:
        raise InputError(
            f"quantising measures activation ranges on training clips, at least one per class: {classes} are needed, "
            f"the data has {clips}; name data with more training clips"
        )


def graph_features(normalized: np.ndarray, scale: np.ndarray, offset: np.ndarray) -> np.ndarray:
    """What the lowered graph wants, from features as the student was trained on.

    (clips, channels, bands, frames) float32; the normalisation (bands,) is every channel's.
    """
    return (normalized * scale[:, None] + offset[:, None]).astype(np.float32)


@dataclass(frozen=True)
class Written:
    """One model file: where, what it costs, what it scores on the validation clips.

    Args:
        path: the file.
        precision: of its weights and activations.
        counts: with the file's bytes.
        validation: metrics of the file's answers.
        graph: that it was written from.
        answers: (clips, K) float32 logits of its runtime on the validation clips, before it was written.
        checks: the limits held against the main file as it is written; the others have none.
        on_board: how the main file's net ran on the board of a limit on latency.
        verified: what was found when it was loaded again, for report.json (see `verify`).
    """

    path: Path
    precision: str
    counts: Counts
    validation: dict[str, float]
    graph: Graph
    answers: np.ndarray
    checks: tuple[Check, ...] = ()
    on_board: OnBoard | None = None
    verified: dict[str, Any] = field(default_factory=dict)


def answers_of(deployed: Deployed, trained: Trained, precision: str, features: np.ndarray, title: str) -> np.ndarray:
    """Logits (clips, K) float32 of one graph in LiteRT, on features as the student was trained on.

    Integer graphs run on reference kernels, a microcontroller's answers.
    """
    bundle = Bundle(trained.labels, deployed.front_end.to_dict(), {})
    data = to_tflite(deployed.graphs()[precision], bundle)
    return run_file(_model(data, "tflite"), graph_features(features, deployed.scale, deployed.offset), title)


def write_files(
    deployed: Deployed,
    trained: Trained,
    validation: Part,
    card: dict[str, Any],
    folder: Path,
    limits: Limits,
    main: str = "int8",
    *,
    expected: np.ndarray,
    known: Mapping[str, np.ndarray] = MappingProxyType({}),
    float16: bool = False,
) -> list[Written]:
    """Writes model-fp32.tflite, model-fp32.onnx, model-int8.tflite, and where they are wanted model-int16x8.tflite and
    model-fp16.tflite, into a folder in which `verify` then finds them. With int16x8 as the main one there is no int8.

    A main model that breaks a limit is written as model-PRECISION-over-budget.tflite.

    Args:
        deployed: the graphs.
        trained: the student that they came from.
        validation: clips to measure on.
        card: what every file says of itself, as for `write_graphs`; precision and validation metrics are added.
        folder: where the files go.
        limits: that the main file has to hold.
        main: its precision, "int8" or "int16x8".
        expected: (clips, K) float32 logits of the float32 student on these clips.
        known: answers that were computed before, by precision.
        float16: model-fp16.tflite too, whose weights are stored as float16.

    Raises:
        TinyascError: a file stores other bytes than its graph has.
    """
    features = graph_features(validation.features, deployed.scale, deployed.offset)
    graphs = deployed.graphs() | ({"fp16": store_float16(deployed.float_graph)} if float16 else {})
    written = []
    if main != "int8":
        del graphs["int8"]
    for precision, suffix in [("fp32", "tflite"), ("fp32", "onnx"), *((p, "tflite") for p in graphs if p != "fp32")]:
        graph = graphs[precision]
        writer = to_onnx if suffix == "onnx" else to_tflite
        counts = count(graph)
        path = folder / f"model-{precision}.{suffix}"
        about = _about(card, precision, graph)
        # The card quotes what the file scores, so the file is measured once before its card is complete.
        model = _model(writer(graph, Bundle(trained.labels, deployed.front_end.to_dict(), about)), suffix)
        answers = known[precision] if precision in known else run_file(model, features, f"check {path.name}")
        scores = metrics.evaluate(model.probabilities(answers), validation.labels)
        scores["top1_agreement"] = float((answers.argmax(axis=1) == expected.argmax(axis=1)).mean())
        data = writer(graph, Bundle(trained.labels, deployed.front_end.to_dict(), about | {"validation": scores}))
        checks: list[Check] = []
        ran = None
        if precision == main:
            ran = count_on_board(graph, limits)
            counted = None if ran is None else ran.latency
            checks = limits.checks(measure(graph, deployed.front_end, len(data)), counted)
            checks += [] if ran is None else ran.checks
        if not all(check.met for check in checks):
            path = folder / OVER_BUDGET.format(precision)
        write_atomic(path, data)
        if suffix == "tflite" and constant_bytes(data) != counts.parameter_bytes:
            raise TinyascError(
                f"{path}: stores {constant_bytes(data)} bytes of constants, counted were {counts.parameter_bytes}"
            )
        written.append(Written(path, precision, count(graph, len(data)), scores, graph, answers, tuple(checks), ran))
    return written


def publish(files: list[Written], folder: Path) -> list[Written]:
    """Moves verified files to where commands look for them; those of other settings go.

    Args:
        files: in a folder of their own, which goes too.
        folder: of the compression.
    """
    moved = [replace(f, path=folder / f.path.name) for f in files]
    for f, there in zip(files, moved, strict=True):
        os.replace(f.path, there.path)
    files[0].path.parent.rmdir()
    # A file of an earlier compression in this folder with other settings would be taken for one of these.
    names = {name.format(p) for name in ("model-{}.tflite", OVER_BUDGET) for p in ("int8", "int16x8", "fp16")}
    for name in names - {f.path.name for f in moved}:
        (folder / name).unlink(missing_ok=True)
    return moved


def write_graphs(deployed: Deployed, trained: Trained, card: dict[str, Any], folder: Path) -> None:
    """Writes graph-PRECISION.npz and ranges.json, from which `profile` and `export` work.

    Args:
        deployed: the graphs.
        trained: the student that they came from.
        card: what every file says of itself; under "quantization" how each integer graph was made, and under
            "temperatures" what its logits are divided by, both by precision.
        folder: where the files go.
    """
    # A graph of an earlier compression in this folder with other settings would be taken for one of these.
    (folder / GRAPH_FILE.format("int16x8")).unlink(missing_ok=True)
    for precision, graph in deployed.graphs().items():
        bundle = Bundle(trained.labels, deployed.front_end.to_dict(), _about(card, precision, graph))
        write_atomic(folder / GRAPH_FILE.format(precision), save_graph(graph, bundle))
    write_atomic(folder / RANGES_FILE, json.dumps(deployed.ranges, indent=1, sort_keys=True))


def _about(card: dict[str, Any], precision: str, graph: Graph) -> dict[str, Any]:
    """The card of one file: how it was quantised is said by integer files alone; its temperature is its own."""
    counts = count(graph)
    names = ("parameters", "parameter_bytes", "quantization_bytes", "macs")
    own = {
        "precision": precision,
        "counts": {name: getattr(counts, name) for name in names},
        "arena": arena_bytes(graph),
    }
    how = card.get("quantization", {}).get(precision)
    # Weights stored as float16 answer nearly as those of float32.
    own |= card.get("temperatures", {}).get("fp32" if precision == "fp16" else precision, {})
    shared = {k: v for k, v in card.items() if k not in ("quantization", "temperatures")}
    return shared | ({"quantization": how} if how else {}) | own


def arena_bytes(graph: Graph) -> dict[str, int]:
    """Bytes of the planned arena, and of the one for kernels that cannot write a pool over its own input."""
    return {"planned": plan(graph).peak, "planned_pools_apart": plan(graph, pools_in_place=False).peak}


def _model(data: bytes, suffix: str) -> Model:
    with quiet_stderr():
        return Model(LiteRtBackend(data, exact=True) if suffix == "tflite" else OnnxBackend(data))


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
