"""Which width of a student family holds a budget: found by the exact counter, without training."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from torch import nn

from tinyasc.compress.budget import Budget
from tinyasc.errors import InputError
from tinyasc.frontend import FrontEnd
from tinyasc.models import FAMILIES, build, check_input
from tinyasc.training.recipe import Recipe
from tinyasc_export.capture import capture
from tinyasc_export.count import macs
from tinyasc_export.graph import WEIGHTED, Graph
from tinyasc_export.lower import lower
from tinyasc_export.tflite_rules import check_int16_operators


@dataclass(frozen=True)
class Plan:
    """A student that holds the budget: its width, and what it will cost at int8.

    Args:
        option: the family's option that sets the width.
        width: its value.
        parameter_bytes: at int8.
        macs: of one inference.
    """

    option: str
    width: float
    parameter_bytes: int
    macs: int


def solve(recipe: Recipe, front_end: FrontEnd, n_classes: int, budget: Budget, *, wide: bool = False) -> Plan:
    """The widest student up to the recipe's width (see `Family.width`) whose int8 constants hold the budget.

    `wide` says that it will be written at int16x8 too.

    Raises:
        InputError: a family that cannot be deployed, a budget that the narrowest student breaks, or an operator that
            int16x8 lacks where that is wanted.
    """
    family = FAMILIES.get(recipe.family)
    if family is None:
        raise InputError(f"model family {recipe.family!r} is unknown; choose one of: {', '.join(sorted(FAMILIES))}")
    if not family.capturable:
        raise InputError(f"model family {recipe.family} cannot be a student: the deployed graph lacks its operators")
    torch.manual_seed(0)
    option, step = family.width.option, family.width.step

    @cache
    def cost(steps: int) -> Plan:
        options: dict[str, Any] = recipe.model_options | {option: steps * step}
        channels, n_mels, n_frames = front_end.shape
        module = build(
            recipe.family, n_classes=n_classes, n_mels=n_mels, in_channels=channels, n_frames=n_frames, **options
        )
        check_input(module, recipe.family, shape=front_end.shape)
        graph, _, _ = lower(capture(as_if_trained(module), (1, *front_end.shape)))
        if wide or (recipe.qat is not None and recipe.qat.precision == "int16x8"):
            check_int16_operators(graph)  # now, and not after hours of training
        return Plan(option, steps * step, int8_bytes(graph), macs(graph))

    widest = recipe.model_options.get(option, family.width.default)
    number = isinstance(widest, int | float if isinstance(step, float) else int) and not isinstance(widest, bool)
    if not number or not step <= widest < math.inf or widest % step:
        raise InputError(f"{recipe.name}: {option} must be a multiple of {step}, got {widest!r}")
    low, high = 1, round(widest / step)
    if cost(low).parameter_bytes > budget.bytes:
        raise InputError(
            f"budget {budget.text} ({budget.bytes} bytes) cannot be met: the narrowest {recipe.family} "
            f"({option} {step}) needs {cost(low).parameter_bytes} bytes; give at least that"
        )
    # Bytes grow with the width, so the widest that fits lies by bisection.
    while low < high:
        middle = math.ceil((low + high) / 2)
        low, high = (middle, high) if cost(middle).parameter_bytes <= budget.bytes else (low, middle - 1)
    return cost(low)


def as_if_trained(module: nn.Module) -> nn.Module:
    """Moves all that is learnt off the zeros and ones where it begins, which lowering would spare and training changes.

    A gain of zero is a dead channel, a bias of zero passes zero padding; after training neither is there any more.
    """
    with torch.no_grad():
        for values in (*module.parameters(), *module.buffers()):
            if values.is_floating_point():
                values.add_(0.1 * torch.rand_like(values))
    return module


def int8_bytes(graph: Graph) -> int:
    """Bytes that a float graph's constants will take at int8: biases 4, everything else 1."""
    biases = {op.inputs[2] for op in graph.ops if op.kind in WEIGHTED and len(op.inputs) == 3}
    return sum(math.prod(t.shape) * (4 if t.name in biases else 1) for t in graph.constants())
