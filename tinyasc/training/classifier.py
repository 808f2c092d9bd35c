"""The Lightning module: augmentation, cross-entropy or distillation loss, validation metrics."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any, NamedTuple

import lightning as L
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tinyasc.errors import InputError
from tinyasc.evaluate import metrics
from tinyasc.frontend import FrontEnd
from tinyasc.training import average
from tinyasc.training.attention_transfer import attention_transfer, outputs_of
from tinyasc.training.augmentation import AugmentedFeatures, masks_inside
from tinyasc.training.distributed import gathered, rank, world_size
from tinyasc.training.losses import focal_loss
from tinyasc.training.optim import freeze_statistics, make_optimizer, prepare_norms
from tinyasc.training.recipe import Recipe
from tinyasc.training.schedule import schedule
from tinyasc.training.tasks import TaskWeights, known_device, scene_logits, soft_cross_entropy, task_logits
from tinyasc.training.teaching import LiveTeacher, LiveTeachers

Batch = dict[str, Tensor]


class Augmented(NamedTuple):
    """Features, soft targets (batch, K), the teacher's probabilities (batch, K) and the devices (batch, n_devices)."""

    features: Tensor
    target: Tensor
    teacher: Tensor | None
    device: Tensor | None


class DivergedError(InputError):
    """Weights or answers are not finite: the learning rate was too high."""


class Classifier(L.LightningModule):
    """Trains a model by a recipe.

    After every epoch `history` holds its metrics: `epoch`, `train_loss` and, unless validation clips are trained on,
    `val_accuracy`, `val_class_average_accuracy` and `val_log_loss`, and of further tasks `val_group_accuracy` and,
    where a validation clip is of a device of the training clips, `val_device_accuracy`.

    Args:
        module: (batch, channels, bands, frames) -> logits (batch, K); with more tasks see `tinyasc.training.tasks`.
        recipe: training, augmentation and distillation.
        n_classes: K.
        band_scale: (channels, bands) of what a gain of 1 dB adds to the features.
        steps_per_epoch: for the learning rate schedule.
        front_end: for recipes that augment waveforms.
        parents: the group of every class, for models that learn groups.
        n_devices: training devices, for models that learn them or are told them.
        teachers: frozen models whose answers to the same augmented batch are the distillation targets, in place of
            stored ones. No part of the state, but moved to the device of training with it.
        reference: one such model that reads the same features.
    """

    def __init__(
        self,
        module: nn.Module,
        recipe: Recipe,
        *,
        n_classes: int,
        band_scale: Tensor,
        steps_per_epoch: int,
        front_end: FrontEnd | None = None,
        parents: tuple[int, ...] = (),
        n_devices: int = 0,
        teachers: LiveTeachers | None = None,
        reference: nn.Module | None = None,
    ) -> None:
        super().__init__()
        # Depthwise convolutions on a CPU train 1.4 to 1.7 times as fast with channels last.
        self.module = module.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
        self.recipe = recipe
        self.n_classes, self.steps_per_epoch = n_classes, steps_per_epoch
        self.n_devices, self.parents = n_devices, torch.tensor(parents, dtype=torch.long)
        settings = recipe.training
        prepare_norms(self.module, affine=settings.norm_affine, frozen=settings.freeze_norm)
        self.average = average.averaged_copy(self.module) if settings.ema_decay else None
        if reference is not None:
            teachers = LiveTeachers([LiveTeacher(reference)])
        self.augmentation = AugmentedFeatures(
            recipe.augment,
            band_scale=band_scale,
            front_end=front_end,
            wave_rate=teachers.sample_rate if teachers else None,
            crop_last=teachers is not None and teachers.whole,
        )
        # In a tuple, so that Lightning neither saves nor trains them.
        self._teachers: tuple[LiveTeachers, ...] = () if teachers is None else (teachers,)
        self.task_weights = TaskWeights(recipe.tasks) if hasattr(self.module, "tasks") else None
        self._epoch_loss: list[Tensor] = []
        self._answers: list[tuple[Tensor, Tensor]] = []
        self._right: dict[str, list[Tensor]] = {}
        self._measured: dict[str, float] = {}
        self.history: dict[str, float] = {}

    def configure_optimizers(self) -> Any:
        """The recipe's optimiser, and its schedule from step to step."""
        optimizer = make_optimizer(self.module, self.recipe.training)
        factor = schedule(self.recipe.training, self.steps_per_epoch)
        rates = torch.optim.lr_scheduler.LambdaLR(optimizer, factor)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": rates, "interval": "step"}}

    def on_fit_start(self) -> None:
        """Moves the teachers, which are no submodule, to where the module is."""
        for teachers in self._teachers:
            teachers.to(self.device)

    def on_train_epoch_start(self) -> None:
        """Frozen batch norms normalise as in evaluation."""
        if self.recipe.training.freeze_norm:
            freeze_statistics(self.module)

    def on_train_batch_start(self, batch: Batch, batch_idx: int) -> None:
        """Seeds dropout from (seed, epoch, batch), so that a resumed run draws what an unbroken one draws."""
        # torch.manual_seed would queue the seed, with its call stack, for every kind of GPU that is not in use.
        seed, kind = self._seed(batch_idx), self.device.type
        torch.default_generator.manual_seed(seed)
        if kind != "cpu":
            torch.get_device_module(kind).manual_seed(seed)

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Loss of one augmented batch."""
        generator = torch.Generator().manual_seed(self._seed(batch_idx) + 1)
        distill = self.recipe.distill
        layers = distill.feature_layers if distill is not None else ()
        with self._maps([there for _, there in layers], of_teacher=True) as theirs:
            x, target, teacher, device = self.augmented(batch, generator)
        bands, frames = x.shape[2:]
        masks = masks_inside(self.module, self.recipe.augment, generator, bands=bands, frames=frames)
        with masks, self._maps([here for here, _ in layers]) as own:
            answers = task_logits(self.module, x, device)
        loss = self.loss(answers, target, teacher, device)
        for here, there in layers:
            assert distill is not None
            loss = loss + distill.feature_weight * attention_transfer(own[here], theirs[there])
        if "weight" in batch:
            # Processes average their gradients, whatever the sizes of their shares.
            loss = loss * batch["weight"]
        self._epoch_loss.append(loss.detach())
        return loss

    def on_train_batch_end(self, outputs: Any, batch: Batch, batch_idx: int) -> None:
        """Moves the averaged weights after the optimiser's step."""
        if self.average is not None:
            decay, step = self.recipe.training.ema_decay, self.trainer.global_step - 1
            average.update(self.average, self.module, decay=decay, step=step)

    def augmented(self, batch: Batch, generator: torch.Generator) -> Augmented:
        """A batch after augmentation."""
        distill = self.recipe.distill
        target = F.one_hot(batch["label"], self.n_classes).float()
        teacher = None
        if "teacher" in batch and distill is not None:
            teacher = (batch["teacher"] / distill.temperature).softmax(dim=1)
        device = self._one_hot_device(batch)
        views = self.augmentation.views(batch, generator)
        for mix in views.mixes:
            target = mix(target)
            teacher, device = (None if values is None else mix(values) for values in (teacher, device))
        for teachers in self._teachers:
            assert distill is not None, "teachers are learned from by a recipe that distils"
            teacher = (teachers(views, device, distill) / distill.temperature).softmax(dim=1)
        return Augmented(views.features, target, teacher, device)

    def loss(self, answers: dict[str, Tensor], target: Tensor, teacher: Tensor | None, device: Tensor | None) -> Tensor:
        """The scene's loss, or the weighted sum of all tasks' losses.

        Args:
            answers: logits by task.
            target: (batch, K) soft.
            teacher: (batch, K) probabilities, or None.
            device: (batch, n_devices), or None.
        """
        losses = {"scene": self.scene_loss(answers["scene"], target, teacher)}
        if self.task_weights is None:
            return losses["scene"]
        if "group" in answers:
            groups = target.new_zeros(answers["group"].shape)
            losses["group"] = soft_cross_entropy(
                answers["group"], groups.index_add(1, self.parents.to(target.device), target)
            )
        if "device" in answers:
            assert device is not None, "a model that learns devices is built from data that names them"
            losses["device"] = soft_cross_entropy(answers["device"], device)
        shared = self.module.shared_parameters() if self.recipe.tasks.balance == "gradnorm" else []
        return self.task_weights(losses, shared)

    def scene_loss(self, logits: Tensor, target: Tensor, teacher: Tensor | None) -> Tensor:
        """Cross-entropy or focal loss, or with a teacher (1 - kd_lambda) * that + kd_lambda * T^2 * KL.

        KL is averaged over the batch, and with `reduction: mean` over the classes.
        """
        hard = focal_loss(logits, target, self.recipe.training.focal_gamma)
        if teacher is None or self.recipe.distill is None:
            return hard
        t, share = self.recipe.distill.temperature, self.recipe.distill.kd_lambda
        soft = F.kl_div((logits / t).log_softmax(dim=1), teacher, reduction="batchmean")
        if self.recipe.distill.reduction == "mean":
            # torch's own "mean" is to become "batchmean".
            soft = soft / self.n_classes
        return (1 - share) * hard + share * t * t * soft

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """Keeps the answers of one clean batch, of the averaged weights where there are any."""
        del batch_idx
        module = self.module if self.average is None else self.average
        x, device = batch["features"], self._one_hot_device(batch)
        # In float32, whatever precision the model computes in: the metrics want rows that sum to 1.
        self._answers.append((scene_logits(module, x, device).float().softmax(dim=1), batch["label"]))
        truth = {
            "device": batch.get("device"),
            "group": self.parents[batch["label"].cpu()] if len(self.parents) else None,
        }
        if hasattr(module, "tasks"):
            for task, logits in task_logits(module, x, device).items():
                if (wanted := truth.get(task)) is not None:
                    known = wanted.to(logits.device) >= 0
                    right = logits.argmax(dim=1) == wanted.to(logits.device)
                    self._right.setdefault(task, []).append(right[known].cpu())

    def on_validation_epoch_end(self) -> None:
        """Metrics over the whole validation set."""
        answers = torch.cat([p for p, _ in self._answers]).cpu().double().numpy()
        parts = gathered((answers, torch.cat([y for _, y in self._answers]).cpu().numpy()))
        self._answers.clear()
        probabilities, labels = (np.concatenate(values) for values in zip(*parts, strict=True))
        self._check_finite(np.isfinite(probabilities).all(), "the model answers with NaN")
        measured = metrics.evaluate(probabilities, labels)
        names = ("accuracy", "class_average_accuracy", "log_loss")
        self._measured = {f"val_{name}": measured[name] for name in names}
        for task, right in self._right.items():
            every = np.concatenate(gathered(torch.cat(right).numpy()))
            if len(every):
                self._measured[f"val_{task}_accuracy"] = float(every.mean())
        self._right.clear()
        if self.task_weights is not None:
            self.task_weights.note_device_accuracy(self._measured.get("val_device_accuracy", 0.0))

    def finish_epoch(self) -> None:
        """Makes `history`; every process calls it."""
        loss = float(torch.stack(self._epoch_loss).mean())
        self._epoch_loss.clear()
        loss = float(np.mean(gathered(loss)))
        self._check_finite(np.isfinite(loss), "the loss is NaN")
        self.history = {"epoch": self.current_epoch, **self._measured, "train_loss": loss}

    def _maps(self, layers: list[str], *, of_teacher: bool = False) -> AbstractContextManager[dict[str, Tensor]]:
        """What layers of the module, or of its only teacher, put out."""
        if not layers:
            return nullcontext({})
        return outputs_of(self._teachers[0].models[0] if of_teacher else self.module, layers)

    def _one_hot_device(self, batch: Batch) -> Tensor | None:
        return known_device(batch["device"], self.n_devices) if self.n_devices and "device" in batch else None

    def _check_finite(self, finite: bool | np.bool_, what: str) -> None:
        if not finite:
            raise DivergedError(
                f"training diverged in epoch {self.current_epoch}: {what}; "
                f"lower training.lr (it is {self.recipe.training.lr:g})"
            )

    def _seed(self, batch_idx: int) -> int:
        # Each process has draws of its own.
        number = batch_idx * world_size() + rank()
        return (self.recipe.training.seed * 1_000_003 + self.current_epoch) * 1_000_003 + 2 * number
