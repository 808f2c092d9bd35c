"""Losses of several tasks, weighed against each other: fixed weights, a device weight in two stages, GradNorm.

A model with more tasks than the scene has `tasks(x, device)`, which gives logits by task: "scene", "group" (the coarse
class of the scene), "device". One that is conditioned on the recording device has `reads_device`, and takes `device`,
(batch, n_devices), a one-hot row per clip or zeros for a device that no training clip has.
"""

from __future__ import annotations

from typing import Any, cast

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn

from tinyasc.training.distributed import world_size
from tinyasc.training.recipe_parts import Tasks

TASKS = ("scene", "group", "device")


def reads_device(module: nn.Module) -> bool:
    """Whether a model is conditioned on the recording device."""
    return bool(getattr(module, "reads_device", False))


def scene_logits(module: nn.Module, x: Tensor, device: Tensor | None) -> Tensor:
    """Logits of the scenes, (batch, K)."""
    return module(x, device) if reads_device(module) else module(x)


def task_logits(module: nn.Module, x: Tensor, device: Tensor | None) -> dict[str, Tensor]:
    """Logits by task, "scene" among them; that alone from a model without `tasks`."""
    if not hasattr(module, "tasks"):
        return {"scene": scene_logits(module, x, device)}
    found = cast(Any, module).tasks(x, device)
    return {task: found[task] for task in TASKS if task in found}


def known_device(index: Tensor, n_devices: int) -> Tensor:
    """(batch, n_devices) float32 one-hot rows of device indices (batch,); zeros where the index is -1."""
    return F.one_hot(index.clamp(min=0), n_devices).float() * (index >= 0).unsqueeze(1)


def soft_cross_entropy(logits: Tensor, target: Tensor) -> Tensor:
    """Mean cross-entropy with soft targets (batch, classes); rows of zeros, which say nothing, are left out."""
    count = (target.sum(dim=1) > 0).sum().clamp(min=1)
    return -(target * logits.log_softmax(dim=1)).sum() / count


class TaskWeights(nn.Module):
    """Weights of the tasks' losses; their state is kept in checkpoints.

    `balance: fixed` takes the recipe's. With `balance: gradnorm` (Chen et al., ICML 2018, algorithm 1) the weights move
    so that the tasks' gradients on the last shared layer get like sizes, larger for tasks that learn more slowly.

    Args:
        settings: of the recipe.
    """

    weights: Tensor
    first_losses: Tensor
    devices_known: Tensor

    def __init__(self, settings: Tasks) -> None:
        super().__init__()
        self.settings = settings
        fixed = [getattr(settings, f"{task}_weight") for task in TASKS]
        self.register_buffer("weights", torch.tensor(fixed if settings.balance == "fixed" else [1.0] * len(TASKS)))
        self.register_buffer("first_losses", torch.full((len(TASKS),), torch.nan))
        self.register_buffer("devices_known", torch.tensor(False))

    def of(self, tasks: list[str]) -> Tensor:
        """The present weights of some tasks, (tasks,)."""
        weights = self.weights.clone()
        if self.settings.balance == "fixed" and self.devices_known:
            weights[TASKS.index("device")] = self.settings.device_weight_after
        return weights[[TASKS.index(task) for task in tasks]]

    def note_device_accuracy(self, accuracy: float) -> None:
        """From the epoch on in which the validation devices are told apart, their loss counts little."""
        if accuracy >= self.settings.device_accuracy:
            self.devices_known.fill_(True)

    def forward(self, losses: dict[str, Tensor], shared: list[nn.Parameter]) -> Tensor:
        """The weighted sum; with GradNorm the weights move after it, for the next batch.

        Args:
            losses: scalars by task.
            shared: weights of the last layer that all tasks share; read by GradNorm alone.
        """
        tasks = list(losses)
        values = torch.stack([losses[task] for task in tasks])
        if len(tasks) == 1:
            return values[0]  # nothing to weigh it against: a weight would only change the learning rate
        total = (self.of(tasks) * values).sum()
        if self.settings.balance == "gradnorm":
            self._balance(tasks, values, shared)
        return total

    def _balance(self, tasks: list[str], values: Tensor, shared: list[nn.Parameter]) -> None:
        parts = [torch.autograd.grad(value, shared, retain_graph=True) for value in values]
        norms = torch.stack([torch.cat([g.flatten() for g in part]).norm() for part in parts]).detach()
        losses = values.detach().clone()
        if world_size() > 1:
            for numbers in (norms, losses):
                dist.all_reduce(numbers)
                numbers /= world_size()
        every = [TASKS.index(task) for task in tasks]
        # The loss of a batch without a known device is 0, which is not where that task began.
        told = losses != 0
        at, losses, norms = torch.tensor(every, device=losses.device)[told], losses[told], norms[told]
        first = self.first_losses[at]
        first = torch.where(first.isnan(), losses, first)
        self.first_losses[at] = first
        old = self.weights[at]
        rate = losses / first
        rate = rate / rate.mean()
        sizes = old * norms
        target = sizes.mean() * rate**self.settings.gradnorm_alpha
        # The gradient of sum |sizes - target| by the weights, with the target held fixed.
        self.weights[at] = (old - self.settings.gradnorm_lr * (sizes - target).sign() * norms).clamp(min=1e-3)
        self.weights[every] = self.weights[every] * len(tasks) / self.weights[every].sum()
