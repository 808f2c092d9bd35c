"""How long a student's training will take on this machine: a few batches of it are timed."""

from __future__ import annotations

import time
from dataclasses import dataclass

import torch
from torch.nn import functional

from tinyasc.models import build
from tinyasc.training.heard import Heard
from tinyasc.training.optim import make_optimizer
from tinyasc.training.recipe import Recipe
from tinyasc.training.run import Trained

BATCHES = 3
LONGEST_SECONDS = 10.0


@dataclass(frozen=True)
class Estimate:
    """Seconds of distillation, an estimate.

    Args:
        seconds_per_batch: of forward, backward and step on random features.
        batches: of one epoch; None where the teacher's run does not say how many clips there are.
        epochs: of the recipe, or of all trainings where it narrows.
    """

    seconds_per_batch: float
    batches: int | None
    epochs: int

    @property
    def seconds_per_epoch(self) -> float | None:
        """Of training alone."""
        return None if self.batches is None else self.seconds_per_batch * self.batches

    @property
    def seconds(self) -> float | None:
        """Of all epochs."""
        return None if self.seconds_per_epoch is None else self.seconds_per_epoch * self.epochs


def estimate(recipe: Recipe, teacher: Trained) -> Estimate:
    """Times a few batches of a student, after one that is not counted.

    Augmentation, validation, the teacher's answers, quantisation and checks are left out.

    Args:
        recipe: the student's, complete, at the planned size.
        teacher: whose run says how many clips are trained on.
    """
    torch.manual_seed(0)
    assert recipe.front_end is not None, "a complete recipe has a front end"
    channels, n_mels, n_frames = recipe.front_end.record().shape
    module = build(
        recipe.family,
        n_classes=len(teacher.labels),
        n_mels=n_mels,
        in_channels=channels,
        n_frames=n_frames,
        **recipe.model_options,
    )
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    module = module.to(device).train()
    optimizer = make_optimizer(module, recipe.training)
    x = torch.randn(recipe.training.batch_size, channels, n_mels, n_frames, device=device)
    y = torch.arange(recipe.training.batch_size, device=device) % len(teacher.labels)
    seconds: list[float] = []
    for _ in range(1 + BATCHES):
        started = time.perf_counter()
        optimizer.zero_grad()
        # Its value brings the work to an end on a GPU too.
        loss = functional.cross_entropy(module(x), y)
        loss.backward()
        optimizer.step()
        loss.item()
        if device.type == "cuda":
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - started)
        if len(seconds) > 1 and sum(seconds) > LONGEST_SECONDS:
            break
    timed = sorted(seconds[1:])
    return Estimate(timed[len(timed) // 2], _batches(recipe, teacher), _epochs(recipe))


def _epochs(recipe: Recipe) -> int:
    """Of all trainings: narrowing trains a pruned and a dense student for every seed."""
    epochs, narrow = recipe.training.epochs, recipe.narrow
    if narrow is None:
        return epochs
    return 2 * narrow.seeds * (epochs + (narrow.steps - 1) * narrow.epochs + narrow.final_epochs)


def _batches(recipe: Recipe, teacher: Trained) -> int | None:
    heard = Heard.load(teacher.path)
    if heard is None or not heard.train:
        return None
    clips = len(heard.train) + (len(heard.validation) if recipe.training.final else 0)
    return max(1, -(-clips // recipe.training.batch_size))
