"""The written files, loaded again in every runtime that takes them, against what they were written from.

Float files must answer as torch does, integer files as the numpy reference does: bit for bit in TensorFlow Lite Micro,
to a unit in the last place of int8 in LiteRT's reference kernels (decision 0022). A .tflite file must also hold every
weight, scale and zero point as they are: a single wrong weight may change no answer of these clips.
"""

from __future__ import annotations

import importlib.metadata
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from tinyasc.compress import micro
from tinyasc.compress.deploy import Deployed, Written, arena_bytes, graph_features, run_file
from tinyasc.errors import TinyascError
from tinyasc.evaluate import metrics
from tinyasc.infer.quiet import quiet_stderr
from tinyasc.infer.runner import Model, load
from tinyasc.training.features import Part
from tinyasc_export import reference
from tinyasc_export.drift import quantize_input
from tinyasc_export.graph import Graph
from tinyasc_export.tflite import unlike_graph

# Largest difference between torch's logits and those of a float file, as a share of their range.
FLOAT_TOLERANCE = 1e-3
# Of LiteRT's reference kernels. At int8 one rounding may fall otherwise. At int16x8 its sigmoid, hard swish and means
# compute otherwise than TensorFlow Lite Micro's; 16 units are a quarter of one at int8, for the two bits of headroom.
LITERT_UNITS = {"int8": 1, "int16x8": 16}
UNITS = "units in the last place of the logits"
# The reference and TensorFlow Lite Micro are slow: so many validation clips, evenly taken.
REFERENCE_CLIPS = 32
MICRO_CLIPS = 256


class DisagreementError(TinyascError):
    """A written file does not answer as what it was written from; it stays where it was written."""


@dataclass(frozen=True)
class _Check:
    """One runtime's answers beside those that they must be."""

    runtime: str
    answers: np.ndarray  # (clips, K) float32 logits
    picked: np.ndarray  # which validation clips
    against: str
    compared: int  # clips
    difference: float
    bound: float
    unit: str

    @property
    def agrees(self) -> bool:
        return self.difference <= self.bound  # NaN does not


def verify(files: list[Written], deployed: Deployed, validation: Part, expected: np.ndarray) -> list[Written]:
    """Loads every file again and holds its answers against what it was written from.

    Args:
        files: as written.
        deployed: whose front end feeds them.
        validation: clips.
        expected: (clips, K) float32 logits of torch's float32 student on these clips.

    Returns:
        The files with what was found: "arena" and "runtimes", for report.json.

    Raises:
        DisagreementError: a file that disagrees, or that a runtime refuses.
    """
    features = graph_features(validation.features, deployed.scale, deployed.offset)
    checked = []
    for file in files:
        try:
            with quiet_stderr():
                model = load(file.path, exact=True)
            answers = run_file(model, features, f"verify {file.path.name}")
            integer = file.graph.tensors[file.graph.input].quantized
            found = _integer(file, features, answers) if integer else _float(file, features, answers, expected)
        except DisagreementError:
            raise
        except TinyascError as error:
            raise DisagreementError(f"{file.path}: cannot be verified, and is left there: {error}") from None
        for check in found["checks"]:
            if not check.agrees:
                raise DisagreementError(
                    f"{file.path}: {check.runtime} differs from {check.against} by {check.difference:.3g} "
                    f"{check.unit}, allowed is {check.bound:g}; it is left there, not fit for use; please report this"
                )
        if not np.array_equal(answers, file.answers):
            raise DisagreementError(
                f"{file.path}: its logits are up to {_largest(answers - file.answers):.3g} from those that were "
                "measured before it was written; it is left there, not fit for use"
            )
        if file.path.suffix == ".tflite" and (unlike := unlike_graph(file.path.read_bytes(), file.graph)):
            raise DisagreementError(
                f"{file.path}: {len(unlike)} of its tensors differ from what was to be written, the first is "
                f"{unlike[0]}; it is left there, not fit for use; please report this"
            )
        runtimes = {c.runtime: _entry(c, model, validation) for c in found["checks"]} | found["absent"]
        arena = arena_bytes(file.graph) | found["arena"]
        checked.append(replace(file, verified={"arena": arena, "runtimes": runtimes}))
    return checked


def versions() -> dict[str, str]:
    """The versions of the runtimes, by the names of their packages; of those that are installed."""
    found = {}
    for name in ("ai-edge-litert", "numpy", "onnxruntime", micro.DISTRIBUTION, "torch"):
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def _float(file: Written, features: np.ndarray, answers: np.ndarray, expected: np.ndarray) -> dict[str, Any]:
    runtime = "onnxruntime" if file.path.suffix == ".onnx" else "LiteRT"
    if file.precision == "fp16":  # whose weights are rounded, so torch is no oracle
        picked = _evenly(len(features), REFERENCE_CLIPS)
        right, against = reference.run(file.graph, np.moveaxis(features[picked], 1, -1)), "the numpy reference"
    else:
        picked, right, against = np.arange(len(features)), expected, "torch"
    error = _largest(answers[picked] - right) / max(1.0, float(np.abs(right).max()))
    every = np.arange(len(features))
    check = _Check(runtime, answers, every, against, len(picked), error, FLOAT_TOLERANCE, "of the logits' range")
    return {"checks": [check], "absent": {}, "arena": {}}


def _integer(file: Written, features: np.ndarray, answers: np.ndarray) -> dict[str, Any]:
    """TensorFlow Lite Micro on the file's bytes against the numpy reference on its graph, and LiteRT against both."""
    graph = file.graph
    scale, zero = _output(graph)
    few = _evenly(len(features), REFERENCE_CLIPS)
    inputs = quantize_input(graph, np.moveaxis(features, 1, -1))
    right, against = reference.run(graph, inputs[few]).astype(np.int64), "the numpy reference"
    found: dict[str, Any] = {"checks": [], "absent": {}, "arena": {}}
    picked = few
    if (reason := micro.absent()) is None:
        many = np.union1d(few, _evenly(len(features), MICRO_CLIPS))
        ran = micro.run_micro(file.path.read_bytes(), inputs[many])
        units = ran.outputs.astype(np.int64)
        apart = _largest(units[np.isin(many, few)] - right)
        found["arena"] = {micro.NAME: ran.arena}
        real = ((units - zero) * scale).astype(np.float32)
        found["checks"].append(_Check(micro.NAME, real, many, against, len(few), apart, 0, UNITS))
        if apart == 0:
            picked, right, against = many, units, micro.NAME
    else:
        found["absent"] = {micro.NAME: reason}
        found["arena"] = {micro.NAME: reason}
    # Logits are units times the scale, so dividing gives whole units again, unless the file's scale is another.
    apart = round(_largest(answers[picked] / scale - (right - zero)), 2)
    every = np.arange(len(features))
    check = _Check(
        "LiteRT, reference kernels", answers, every, against, len(picked), apart, LITERT_UNITS[file.precision], UNITS
    )
    found["checks"].append(check)
    return found


def _entry(check: _Check, model: Model, validation: Part) -> dict[str, Any]:
    scores = metrics.evaluate(model.probabilities(check.answers), validation.labels[check.picked])
    return {
        "clips": len(check.picked),
        "accuracy": scores["accuracy"],
        "log_loss": scores["log_loss"],
        "against": check.against,
        "clips_compared": check.compared,
        "largest_difference": check.difference,
        "allowed": check.bound,
        "unit": check.unit,
    }


def _evenly(clips: int, most: int) -> np.ndarray:
    return np.unique(np.linspace(0, clips - 1, min(most, clips)).round().astype(int))


def _largest(differences: np.ndarray) -> float:
    return float(np.abs(differences).max())


def _output(graph: Graph) -> tuple[float, int]:
    t = graph.tensors[graph.output]
    assert t.scale is not None and t.zero_point is not None, "an integer graph's output is quantised"
    return float(t.scale.flat[0]), int(t.zero_point.flat[0])


def unverified(folder: Path) -> Path:
    """Where files lie until they are verified: commands look for none there."""
    return folder / "unverified"
