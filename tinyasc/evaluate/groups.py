"""Coarse groups of scenes: what a model says of them, and its answers joined with a group model's."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np

from tinyasc.data.groups import Groups, parents
from tinyasc.errors import InputError
from tinyasc.evaluate import metrics
from tinyasc.evaluate.predictions import SEEN, Predictions


def group_scores(predictions: Predictions, groups: Groups, head: np.ndarray | None = None) -> dict[str, Any]:
    """Scores of the groups that follow from a model's scenes, and of its own head for them.

    Args:
        predictions: of scenes.
        groups: the scenes of every group.
        head: (rows, G) probabilities of a head that was trained on the groups, sorted by name.

    Returns:
        "scenes" of every group; "summed", scores of the sums over each group's scenes; with a head "head".

    Raises:
        InputError: groups that do not fit the scenes.
    """
    of = np.array(parents(predictions.names, groups))
    labels = of[predictions.labels]
    found: dict[str, Any] = {"scenes": {name: list(groups[name]) for name in sorted(groups)}}
    found["summed"] = metrics.evaluate(summed(predictions.probabilities, of), labels)
    return found if head is None else found | {"head": metrics.evaluate(head, labels)}


def summed(probabilities: np.ndarray, of: np.ndarray) -> np.ndarray:
    """(clips, G) sums of (clips, K) probabilities over the scenes of every group; `of` are the groups of the scenes."""
    return probabilities @ np.eye(of.max() + 1)[of]


def fuse(scenes: Predictions, grouped: Predictions, groups: Groups) -> Predictions:
    """Two models' answers to the same clips as one: p(scene) * p(its group), normalised.

    The fusion of separate classifiers in Shim et al. (2022), Table 2, which prints no formula. [ours]

    Args:
        scenes: of a model of scenes.
        grouped: of a model whose classes are the groups.
        groups: the scenes of every group.

    Raises:
        InputError: other groups, or other clips.
    """
    of = np.array(parents(scenes.names, groups))
    if grouped.names != tuple(sorted(groups)):
        raise InputError(
            f"the group model names {', '.join(grouped.names)}, the groups of scenes are {', '.join(sorted(groups))}"
        )
    if not (np.array_equal(scenes.clips, grouped.clips) and np.array_equal(of[scenes.labels], grouped.labels)):
        raise InputError("the scene and the group model were not measured on the same clips, or not with these groups")
    joint = scenes.probabilities * grouped.probabilities[:, of]
    total = joint.sum(axis=1, keepdims=True)
    # Where every product is too small for a float, the scenes alone answer.
    joint = np.where(total > 0, joint / np.where(total > 0, total, 1), scenes.probabilities)
    # A device that one of the two heard is not unseen; nor where it is not known of one.
    either = (scenes.seen == SEEN) | (grouped.seen == SEEN)
    seen = np.where(either, SEEN, np.minimum(scenes.seen, grouped.seen)).astype(np.int8)
    return dataclasses.replace(scenes, probabilities=joint, seen=seen)
