"""What quantisation loses on the validation clips, and the second try, in training, where that is too much."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from tinyasc.compress.deploy import Deployed, answers_of, deploy
from tinyasc.compress.qat import GRAPH, quantization_aware
from tinyasc.compress.stages import Stages
from tinyasc.evaluate import metrics
from tinyasc.infer.runner import softmax
from tinyasc.training.features import Prepared
from tinyasc.training.recipe_parts import Qat
from tinyasc.training.run import Run, Trained
from tinyasc_export.calibration import METHODS
from tinyasc_export.quantize import quantize_int16x8

MAX_DROP = 1.0


@dataclass(frozen=True)
class Drop:
    """How much worse an integer graph answers than the float32 student, on the same clips.

    Args:
        accuracy_points: hundredths of accuracy lost; negative where it is better.
        log_loss: nats gained.
        points: the larger loss of the two, each in hundredths of its scale: 1 for accuracy, the log loss of chance,
            ln K, for log loss. One clip more or less is chance, and no loss of accuracy. `--max-drop` is held against
            it.
    """

    accuracy_points: float
    log_loss: float
    points: float


def drop(expected: np.ndarray, answers: np.ndarray, labels: np.ndarray) -> Drop:
    """The drop from the float32 student's logits (clips, K) to an integer graph's, of right classes (clips,)."""
    exact, rounded = (metrics.evaluate(softmax(z), labels) for z in (expected, answers))
    lost = round(len(labels) * exact["accuracy"]) - round(len(labels) * rounded["accuracy"])
    accuracy = 100 * lost / len(labels)
    loss = rounded["log_loss"] - exact["log_loss"]
    return Drop(accuracy, loss, max(accuracy if lost > 1 else 0.0, 100 * loss / math.log(expected.shape[1])))


@dataclass(frozen=True)
class Outcome:
    """How one integer precision came about.

    Args:
        answers: (clips, K) float32 logits of the graph that was kept, on the validation clips.
        ptq: the drop after quantisation alone.
        qat: the drop after quantisation-aware training; None where that did not run.
        settings: of that training.
        why: it ran, or did not.
        kept: "ptq" or "qat".
        ranges: how activation ranges were found.
    """

    answers: np.ndarray
    ptq: Drop
    qat: Drop | None
    settings: Qat | None
    why: str
    kept: str
    ranges: str

    def card(self) -> dict[str, Any]:
        """What the integer file says of its quantisation."""
        trained = self.settings if self.kept == "qat" else None
        how = {
            "how": f"per-channel weights, {self.ranges} on training clips",
            "qat_epochs": 0 if trained is None else trained.epochs,
        }
        return how | ({} if trained is None else {"qat": trained.model_dump()})

    def report(self) -> dict[str, Any]:
        """What report.json says of it."""
        trained = None
        if self.qat is not None and self.settings is not None:
            trained = asdict(self.qat) | {"settings": self.settings.model_dump()}
        return {
            "ptq": asdict(self.ptq),
            "qat": trained,
            "why": self.why,
            "kept": self.kept,
        }


def quantized(
    trained: Trained,
    run: Run,
    data: Prepared,
    expected: np.ndarray,
    *,
    calibration: str,
    precisions: tuple[str, ...],
    settings: Qat | None,
    max_drop: float,
    stages: Stages,
) -> tuple[Deployed, dict[str, Outcome]]:
    """Quantises after training, and in training where that is asked for or drops too far; the better one is kept.

    Args:
        trained: the float32 student.
        run: the compression.
        data: features.
        expected: (clips, K) float32 logits of the student on the validation clips.
        calibration: how int8 ranges are found on training clips.
        precisions: that are wanted; that of `settings` is quantised too.
        settings: of the recipe, which always runs and is kept, for its precision alone; None leaves it to `max_drop`.
        max_drop: points (see `Drop`) above which quantisation-aware training runs with its defaults.
        stages: that says what runs.

    Returns:
        The graphs that were kept, and the outcome of every integer precision.

    Raises:
        InputError: an operator that int16x8 lacks, or a training that diverged.
    """
    if settings is not None and settings.precision not in precisions:
        precisions = (*precisions, settings.precision)
    outcomes: dict[str, Outcome] = {}
    with stages.stage("quantise"):
        deployed = deploy(trained, data.train.features, calibration)
        if "int16x8" in precisions:
            graph = quantize_int16x8(deployed.float_graph, deployed.ranges)
            deployed = replace(deployed, int16x8_graph=graph)
        for precision in precisions:
            outcomes[precision] = _after_training(deployed, trained, data, expected, precision)
    for precision, after in outcomes.items():
        asked = settings is not None and settings.precision == precision
        if not asked and (settings is not None or after.ptq.points <= max_drop):
            why = "the recipe's qat is for another precision" if settings is not None else _beside(after.ptq, max_drop)
            outcomes[precision] = replace(after, why=why)
            continue
        wanted = settings if asked and settings is not None else Qat.model_validate({"precision": precision})
        done = run.path / wanted.folder("minmax" if precision == "int16x8" else deployed.method) / GRAPH
        with stages.stage(f"qat {precision}" if len(precisions) > 1 else "qat", done):
            graph = quantization_aware(deployed, trained, wanted, run, data)
            candidate = replace(deployed, **{f"{precision}_graph": graph})
            answers = answers_of(candidate, trained, precision, data.validation.features, f"check {precision}")
        found = drop(expected, answers, data.validation.labels)
        why = "the recipe asks for it" if asked else _beside(after.ptq, max_drop)
        outcome = replace(after, qat=found, settings=wanted, why=why)
        if asked or found.points < after.ptq.points:
            deployed, outcome = candidate, replace(outcome, answers=answers, kept="qat")
        outcomes[precision] = outcome
    return deployed, outcomes


def _after_training(
    deployed: Deployed, trained: Trained, data: Prepared, expected: np.ndarray, precision: str
) -> Outcome:
    answers = answers_of(deployed, trained, precision, data.validation.features, f"check {precision}")
    ranges = METHODS["minmax" if precision == "int16x8" else deployed.method].about
    return Outcome(answers, drop(expected, answers, data.validation.labels), None, None, "", "ptq", ranges)


def _beside(found: Drop, max_drop: float) -> str:
    which = "above" if found.points > max_drop else "within"
    return f"quantisation alone drops {found.points:.2f} points, {which} the {max_drop:g} allowed"


def said(outcomes: dict[str, Outcome]) -> Sequence[str]:
    """A line for the terminal on every precision."""
    lines = []
    for precision, o in outcomes.items():
        trained = "" if o.qat is None else f"; with quantisation-aware training {_line(o.qat)}; kept: {o.kept}"
        lines.append(f"{precision} against float32: after training {_line(o.ptq)}{trained}")
    return lines


def _line(d: Drop) -> str:
    return f"accuracy {0 - d.accuracy_points:+.2f} points, log loss {d.log_loss:+.4f}"
