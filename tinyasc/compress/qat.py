"""Quantisation-aware training of a deployed student, in a folder of its own inside the run."""

from __future__ import annotations

import dataclasses

import lightning as L
import numpy as np
import torch
from lightning.pytorch.callbacks import Callback
from torch import Tensor, nn

from tinyasc.compress.deploy import Deployed
from tinyasc.training.features import Prepared
from tinyasc.training.fit import train_module
from tinyasc.training.recipe import Qat, Recipe, Training
from tinyasc.training.run import Run
from tinyasc_export.calibration import least_squares_ranges
from tinyasc_export.graph import Graph
from tinyasc_export.qat import QuantizedModule, to_module
from tinyasc_export.quantize import Ranges, calibrate, quantize_int8


def quantization_aware(
    deployed: Deployed, student: Recipe, settings: Qat, run: Run, data: Prepared, teacher: np.ndarray | None
) -> Deployed:
    """Trains the int8 graph on, and returns the student with the trained one; the float graph stays as it was.

    Args:
        deployed: quantised after training.
        student: its recipe.
        settings: how long and how fast.
        run: the compression; checkpoints go to a folder inside it, one for each `settings`.
        data: features as the student was trained on.
        teacher: (training clips, K) logits, for the distillation loss.
    """
    torch.manual_seed(student.training.seed)
    module = _OnFeatures(to_module(deployed.float_graph, deployed.int8_ranges), deployed.scale, deployed.offset)
    # The student's own optimiser and schedule are for training from the start.
    kept = student.training.model_dump(include={"batch_size", "weight_decay", "seed", "final"})
    training = Training(**kept, epochs=settings.epochs, lr=settings.lr, select="last")
    recipe = student.model_copy(update={"training": training, "qat": settings})
    ranging = _Ranging(module.quantized, deployed.calibration, settings)
    state, _ = train_module(
        module,
        recipe,
        Run(run.path / f"qat-{settings.epochs}-{settings.lr:g}-{settings.freeze_epochs}"),
        data,
        teacher=teacher,
        title="quantisation-aware",
        callbacks=[ranging],
    )
    module.load_state_dict(state)
    # Ranges are part of the state, so what was trained with is what is exported.
    module.quantized.set_ranges(module.quantized.ranges())
    ranges = module.quantized.ranges()
    return dataclasses.replace(
        deployed, int8_graph=quantize_int8(module.quantized.trained_graph(), ranges), int8_ranges=ranges
    )


class _OnFeatures(nn.Module):
    """The quantised graph behind the normalisation that lowering took out of it."""

    scale: Tensor
    offset: Tensor

    def __init__(self, quantized: QuantizedModule, scale: np.ndarray, offset: np.ndarray) -> None:
        super().__init__()
        self.quantized = quantized
        for name, values in (("scale", scale), ("offset", offset)):
            self.register_buffer(name, torch.from_numpy(values.astype(np.float32))[:, None])

    def forward(self, x: Tensor) -> Tensor:
        return self.quantized(x * self.scale + self.offset)


class _Ranging(Callback):
    """Measures the ranges anew before every epoch but the first and the last few."""

    def __init__(self, module: QuantizedModule, features: np.ndarray, settings: Qat) -> None:
        self.module, self.features, self.settings = module, features, settings

    def on_train_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if trainer.current_epoch < self.settings.epochs - self.settings.freeze_epochs:
            self.module.set_ranges(_int8_ranges(self.module.trained_graph(), self.features))
        else:
            # After a resume the checkpoint's ranges are there, but not yet their scales.
            self.module.set_ranges(self.module.ranges())


def _int8_ranges(graph: Graph, features: np.ndarray) -> Ranges:
    return least_squares_ranges(graph, features, calibrate(graph, features, batch_size=4))
