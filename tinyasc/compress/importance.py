"""How much a unit of channels matters, and which units go."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor, nn

from tinyasc.compress.channels import ChannelSet, Unit
from tinyasc.errors import InputError
from tinyasc.models.widths import BATCH_NORM
from tinyasc.training.augmentation import gain_scale
from tinyasc.training.classifier import Classifier
from tinyasc.training.features import Prepared
from tinyasc.training.recipe import Recipe

TAYLOR_CLIPS, TAYLOR_BATCH = 512, 64


def unit_scores(module: nn.Module, sets: Sequence[ChannelSet], importance: str) -> dict[str, np.ndarray]:
    """The importance of every unit, by the name of its set.

    "magnitude": the L2 norm of all its weights: filters, what reads them, scales of batch norms.
    "taylor": the sum over the same weights of |weight * gradient|, the first-order change of the loss without that
    weight (Molchanov et al., CVPR 2019); every weight needs its `grad`.
    "bn_scale": the mean |scale| of its batch norms (Liu et al., ICCV 2017); sets without a batch norm have no entry.

    Args:
        module: the one that the sets are of.
        sets: from `channel_sets`.
        importance: one of these.
    """
    layers = dict(module.named_modules())
    vectors: dict[tuple[str, str], np.ndarray] = {}

    def of(name: str, side: str) -> np.ndarray:
        if (name, side) not in vectors:
            vectors[name, side] = _per_channel(layers[name], side, importance)
        return vectors[name, side]

    scores = {}
    for group in sets:
        places = [[(n, s, c) for n, s, c in sorted(unit) if _counts(layers[n], importance)] for unit in group.units]
        if places[0]:
            sums = np.array([sum(float(of(n, s)[c]) for n, s, c in unit) for unit in places])
            scores[group.name] = {
                "magnitude": np.sqrt(sums),
                "taylor": sums,
                "bn_scale": sums / np.array([len(unit) for unit in places]),
            }[importance]
    return scores


def _counts(layer: nn.Module, importance: str) -> bool:
    norm = isinstance(layer, BATCH_NORM)
    return layer.weight is not None and (norm or importance != "bn_scale")


@torch.no_grad()
def _per_channel(layer: nn.Module, side: str, importance: str) -> np.ndarray:
    weight = layer.weight
    assert isinstance(weight, Tensor)
    if importance == "taylor":
        assert weight.grad is not None, "gradients are measured before"
        values = (weight * weight.grad).abs()
    else:
        values = weight.abs() if importance == "bn_scale" else weight.square()
    axis = 0 if side == "out" else 1
    return values.double().movedim(axis, 0).flatten(1).sum(1).numpy() if values.ndim > 1 else values.double().numpy()


def with_gradients(module: nn.Module, recipe: Recipe, data: Prepared, teacher: np.ndarray | None) -> nn.Module:
    """A copy whose weights have the gradient of the recipe's loss, the mean over clean training clips.

    Args:
        module: as trained.
        recipe: its distillation and focal loss.
        data: `TAYLOR_CLIPS` of its training clips, evenly taken, are used.
        teacher: (training clips, K) logits, as for `fit`.
    """
    copied = copy.deepcopy(module).requires_grad_(True)
    classifier = Classifier(
        copied, recipe, n_classes=len(data.labels), band_scale=gain_scale(data.front_end), steps_per_epoch=1
    )
    copied.requires_grad_(True).eval()
    part = data.train
    picked = np.linspace(0, len(part.labels) - 1, min(TAYLOR_CLIPS, len(part.labels))).round().astype(int)
    for start in range(0, len(picked), TAYLOR_BATCH):
        index = picked[start : start + TAYLOR_BATCH]
        target = nn.functional.one_hot(torch.from_numpy(part.labels[index]), len(data.labels)).float()
        soft = None
        if teacher is not None and recipe.distill is not None:
            soft = (torch.from_numpy(teacher[index]) / recipe.distill.temperature).softmax(dim=1)
        loss = classifier.scene_loss(copied(torch.from_numpy(part.features[index])), target, soft)
        (loss * (len(index) / len(picked))).backward()
    return copied


def less_important(
    sets: Sequence[ChannelSet], scores: dict[str, np.ndarray], share: float, *, round_to: int, scope: str
) -> list[Unit]:
    """The units to remove.

    Of a set that loses any a multiple of `round_to` units stays, at least that many. What is to stay is rounded up, so
    a larger share never removes fewer.

    Args:
        sets: from `channel_sets`; those without a score, and those of up to `round_to` units, stay as they are.
        scores: of `unit_scores`.
        share: of all units that are to go, 0 to 1.
        round_to: channels.
        scope: "layers" takes that share of every set; "global" the least important of all sets together, each unit's
            score divided by the mean of its set.
    """
    open_sets = [s for s in sets if s.name in scores and len(s.units) > round_to]
    kept = {s.name: math.ceil((1 - share) * len(s.units) - 1e-9) for s in open_sets}
    if scope == "global" and open_sets:
        scaled = [scores[s.name] / max(float(scores[s.name].mean()), 1e-30) for s in open_sets]
        owner = np.repeat(np.arange(len(open_sets)), [len(values) for values in scaled])
        order = np.argsort(np.concatenate(scaled), kind="stable")
        going = np.bincount(owner[order[: math.floor(share * len(order) + 1e-9)]], minlength=len(open_sets))
        kept = {s.name: len(s.units) - int(n) for s, n in zip(open_sets, going, strict=True)}
    gone: list[Unit] = []
    for group in open_sets:
        n = len(group.units)
        wanted = max(1, math.ceil(kept[group.name] / round_to)) * round_to
        if wanted < n:
            order = np.argsort(scores[group.name], kind="stable")
            gone += [group.units[i] for i in order[: n - wanted]]
    return gone


def least_share(fits: Callable[[float], bool], *, steps: int = 512) -> float:
    """The smallest of the shares 0, 1/steps, ..., 1 that fits, by bisection; a larger share never fits worse.

    Raises:
        InputError: not even a share of 1 fits.
    """
    if not fits(1.0):
        raise InputError("narrow: no share of the channels that may go is enough for the budget; raise it")
    low, high = -1, steps
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if fits(middle / steps) else (middle, high)
    return high / steps
