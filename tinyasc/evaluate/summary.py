"""Everything that is reported about a set of predictions, as one dictionary that is written as JSON."""

from __future__ import annotations

from typing import Any

import numpy as np

from tinyasc.data.devices import CLEAN
from tinyasc.errors import InputError
from tinyasc.evaluate import bootstrap, metrics
from tinyasc.evaluate.predictions import SEEN, UNSEEN, Predictions

UNKNOWN = "unknown"  # the label of DCASE 2019 Task 1C's eleventh class
SCORES = ("accuracy", "class_average_accuracy", "log_loss")


def evaluate(predictions: Predictions, *, draws: int = bootstrap.DRAWS, seed: int = 0) -> dict[str, Any]:
    """All scores of one model, or of one recipe's folds and seeds together.

    Args:
        predictions: rows of several seeds count alike, so accuracy and log loss over all are the means over seeds.
        draws: bootstrap resamples.
        seed: of the draws.

    Returns:
        The scores of `metrics.evaluate` and class-averaged precision; "intervals"; "per_class", "confusion_matrix",
        "calibration"; "per_device", "mean_over_devices", "seen_devices" and "unseen_devices" where rows have devices;
        "tau2019_1c_score" where there are clips of a class called unknown, and others; "per_fold" and "over_seeds"
        where there are several.
    """
    p, labels = predictions.probabilities, predictions.labels
    found: dict[str, Any] = metrics.evaluate(p, labels)
    found["class_average_precision"] = metrics.class_average_precision(p, labels)
    found["calibration"] = metrics.calibration(p, labels)
    if UNKNOWN in predictions.names:
        unknown = predictions.names.index(UNKNOWN)
        if 0 < (labels == unknown).sum() < len(labels):
            found["tau2019_1c_score"] = metrics.open_set_score(p, labels, unknown)
    found["intervals"] = _intervals(predictions, draws, seed)
    found["labels"] = list(predictions.names)
    found["confusion_matrix"] = metrics.confusion_matrix(p, labels).tolist()
    found["per_class"] = metrics.per_class(p, labels, predictions.names)
    if (predictions.devices != "").all():
        found |= per_device(predictions)
    folds = np.unique(predictions.folds)
    if len(folds) > 1:
        found["per_fold"] = {str(f): _part(predictions.where(predictions.folds == f), draws, seed) for f in folds}
    if len(np.unique(predictions.seeds)) > 1:
        found["over_seeds"] = over_seeds(predictions)
    return found


def per_device(predictions: Predictions) -> dict[str, Any]:
    """Scores of each device, their mean over devices, and of the devices that training heard or did not.

    "mean_over_devices" weighs devices alike, however many clips they have (Ren et al., 2020); "seen_devices" and
    "unseen_devices" are such means over their devices, and left out where there are none.
    """
    table: dict[str, dict[str, Any]] = {}
    for device in np.unique(predictions.devices):
        rows = predictions.where(predictions.devices == device)
        table[str(device)] = {
            **metrics.evaluate(rows.probabilities, rows.labels),
            "seen": {SEEN: True, UNSEEN: False}.get(int(rows.seen.max())),
            "confusion_matrix": metrics.confusion_matrix(rows.probabilities, rows.labels).tolist(),
        }
    found: dict[str, Any] = {"per_device": table, "mean_over_devices": _mean(list(table.values()))}
    for key, seen in (("seen_devices", True), ("unseen_devices", False)):
        if part := {name: scores for name, scores in table.items() if scores["seen"] is seen}:
            found[key] = {"devices": list(part), **_mean(list(part.values()))}
    return found


def device_views(views: Predictions, *, draws: int = bootstrap.DRAWS, seed: int = 0) -> dict[str, Any]:
    """Scores of clips as they are, through microphones that training may hear, and through those kept for testing.

    Args:
        views: from `clips.measure_views`.
        draws: as in `evaluate`.
        seed: as in `evaluate`.

    Returns:
        "clean", "seen" and "unseen", each with scores, "intervals" (whole recording places are drawn, so a clip's many
        views are no more clips) and "devices"; "per_device".
    """
    found: dict[str, Any] = {}
    parts = {"clean": views.devices == CLEAN, "seen": views.seen == SEEN, "unseen": views.seen == UNSEEN}
    for name, mask in parts.items():
        rows = views.where(mask)
        found[name] = {**_part(rows, draws, seed), "devices": [str(device) for device in np.unique(rows.devices)]}
    found["per_device"] = per_device(views)["per_device"]
    return found


def over_seeds(predictions: Predictions) -> dict[str, Any]:
    """Each seed's scores over all its clips, with their mean and standard deviation (n - 1 in the denominator)."""
    seeds = {
        str(seed): metrics.evaluate(rows.probabilities, rows.labels)
        for seed in np.unique(predictions.seeds)
        for rows in [predictions.where(predictions.seeds == seed)]
    }
    found: dict[str, Any] = {"seeds": seeds}
    for name in SCORES:
        values = [scores[name] for scores in seeds.values()]
        found[name] = {
            "mean": float(np.mean(values)),
            "standard_deviation": float(np.std(values, ddof=1)) if len(values) > 1 else None,
        }
    return found


def compare(first: Predictions, second: Predictions, *, draws: int = bootstrap.DRAWS, seed: int = 0) -> dict[str, Any]:
    """Paired bootstrap of first - second on the same clips; each clip's scores are averaged over its seeds.

    Returns:
        "clips", "by" (what was drawn), "draws", "seed", "level", and for "accuracy" and "log_loss" what
        `bootstrap.paired` gives.

    Raises:
        InputError: other classes, other clips, or other labels.
    """
    if first.names != second.names:
        raise InputError("the two models name different classes, so their answers cannot be paired")
    one, two = _by_clip(first), _by_clip(second)
    if one.keys() != two.keys():
        alone = sorted({key[0] for key in one.keys() ^ two.keys()})
        raise InputError(
            f"the two models were not measured on the same clips ({len(alone)} differ, {alone[0]} for one); "
            "measure both on one data set, split and fold"
        )
    for key, scores in one.items():
        if scores[3] != two[key][3]:
            raise InputError(f"{key[0]} has two labels in the two sets of predictions; evaluate both again")
    keys = sorted(one)
    by = first.groups[1]
    groups = np.array([one[key][2] if by == "location" else key[0] for key in keys])
    common = {"draws": draws, "seed": seed, "level": bootstrap.LEVEL}
    found: dict[str, Any] = {"clips": len({key[0] for key in keys}), "by": by, **common}
    for name, i in (("accuracy", 0), ("log_loss", 1)):
        a, b = (np.array([scores[key][i] for key in keys]) for scores in (one, two))
        found[name] = bootstrap.paired(a, b, groups, **common)
    return found


def _by_clip(predictions: Predictions) -> dict[tuple[str, str], tuple[float, float, str, int]]:
    """(clip, device) -> share of right answers and mean log loss over seeds, location, label."""
    hits = predictions.probabilities.argmax(axis=1) == predictions.labels
    losses = metrics.clip_log_loss(predictions.probabilities, predictions.labels)
    rows: dict[tuple[str, str], list[int]] = {}
    for i, key in enumerate(zip(predictions.clips, predictions.devices, strict=True)):
        rows.setdefault((str(key[0]), str(key[1])), []).append(i)
    return {
        key: (
            float(hits[at].mean()),
            float(losses[at].mean()),
            str(predictions.locations[at[0]]),
            int(predictions.labels[at[0]]),
        )
        for key, at in rows.items()
    }


def _intervals(predictions: Predictions, draws: int, seed: int) -> dict[str, Any] | None:
    """Bootstrap intervals, with how they were made; None where there are too few groups to draw from."""
    groups, by = predictions.groups
    if len(np.unique(groups)) < 2:
        return None
    found = bootstrap.intervals(predictions.probabilities, predictions.labels, groups, draws=draws, seed=seed)
    about = {"by": by, "groups": len(np.unique(groups)), "draws": draws, "seed": seed, "level": bootstrap.LEVEL}
    return {**about, **{name: list(values) for name, values in found.items()}}


def _part(rows: Predictions, draws: int, seed: int) -> dict[str, Any]:
    """Scores of some rows, with their intervals and, where there are several seeds, what these change."""
    found: dict[str, Any] = metrics.evaluate(rows.probabilities, rows.labels)
    found["intervals"] = _intervals(rows, draws, seed)
    if len(np.unique(rows.seeds)) > 1:
        found["over_seeds"] = over_seeds(rows)
    return found


def _mean(scores: list[dict[str, Any]]) -> dict[str, float]:
    return {name: float(np.mean([s[name] for s in scores])) for name in SCORES}
