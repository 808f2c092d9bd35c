"""Quantisation-aware training of a deployed student, in a folder of its own inside the run.

The integer graph learns to answer as the float32 student does, on the same augmented clips: what it is for is to
lose nothing by rounding, so the float32 file stays what the integer file is held against.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from pathlib import Path

import lightning as L
import numpy as np
import torch
from lightning.pytorch.callbacks import Callback
from torch import Tensor, nn

from tinyasc.compress.deploy import Deployed
from tinyasc.errors import GraphError, InputError, ModelFileError
from tinyasc.files import write_atomic
from tinyasc.training.classifier import DivergedError
from tinyasc.training.features import Prepared
from tinyasc.training.fit import train_module
from tinyasc.training.recipe_parts import Distill, Qat, Training
from tinyasc.training.run import Run, Trained
from tinyasc_export.calibration import activation_ranges
from tinyasc_export.graph import Graph
from tinyasc_export.graphfile import load_graph, save_graph
from tinyasc_export.qat import QuantizedModule, to_module
from tinyasc_export.quantize import quantize_int8, quantize_int16x8

# Ranges that the next epoch measures anew come from every such calibration clip; those that are kept, from all.
RANGING_STEP = 4
# What such a training ends with, in its folder.
GRAPH = "graph.npz"


def quantization_aware(deployed: Deployed, trained: Trained, settings: Qat, run: Run, data: Prepared) -> Graph:
    """Trains the quantised graph to the float student's answers, and returns it; a finished one is kept.

    Args:
        deployed: quantised after training; left as it is.
        trained: the float student, which is learned from; its recipe's batches and augmentation are used.
        settings: precision, how long and how fast.
        run: the compression; checkpoints go to a folder inside it, one for each `settings`.
        data: features as the student was trained on.

    Raises:
        InputError: an operator that int16x8 lacks, or a training that diverged.
    """
    wide = settings.precision == "int16x8"
    ranges = deployed.ranges if wide else deployed.int8_ranges
    method = "minmax" if wide else deployed.method
    folder = run.path / settings.folder(method)
    if (kept := _kept(folder / GRAPH)) is not None:
        return kept
    torch.manual_seed(trained.recipe.training.seed)
    quantized = to_module(deployed.float_graph, ranges, activation_bits=16 if wide else 8)
    module = _OnFeatures(quantized, deployed.scale, deployed.offset)
    # The student's own optimiser and schedule are for training from the start.
    own = trained.recipe.training.model_dump(include={"batch_size", "seed", "final"})
    training = Training(**own, epochs=settings.epochs, lr=settings.lr, weight_decay=0.0, select="last")
    distill = Distill(temperature=settings.temperature, kd_lambda=1.0)
    # The quantised graph has no submodules of the float model's names, and takes whole clips alone.
    augment = trained.recipe.augment.model_copy(update={"mask_layers": (), "crop_frames": 0})
    recipe = trained.recipe.model_copy(update={"training": training, "augment": augment, "distill": distill})
    try:
        state, _ = train_module(
            module,
            recipe,
            Run(folder),
            data,
            reference=copy.deepcopy(trained.module),
            title=f"quantisation-aware {settings.precision}",
            callbacks=[_Ranging(module.quantized, deployed.calibration, settings, method)],
        )
        _check_finite(state)
        # Ranges are part of the state, so what was trained with is what is exported.
        module.load_state_dict(state)
        quantize = quantize_int16x8 if wide else quantize_int8
        graph = quantize(quantized.trained_graph(), quantized.ranges())
        # As files store them.
        _check_finite({name: torch.tensor(t.scale, dtype=torch.float32) for name, t in graph.tensors.items()})
    except DivergedError as error:
        raise InputError(
            f"{folder}: quantisation-aware training diverged; lower qat.lr (it is {settings.lr:g})"
        ) from error
    write_atomic(folder / GRAPH, save_graph(graph))
    return graph


def _kept(file: Path) -> Graph | None:
    """The graph of a finished training; None where there is none, or a damaged one, which is made again."""
    try:
        return load_graph(file.read_bytes(), str(file))[0]
    except (FileNotFoundError, ModelFileError):
        return None


def _check_finite(state: Mapping[str, Tensor]) -> None:
    for name, values in state.items():
        if not values.isfinite().all():
            raise DivergedError(f"{name} is not finite")


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
    """Measures the ranges anew before every epoch but the last few."""

    def __init__(self, module: QuantizedModule, features: np.ndarray, settings: Qat, method: str) -> None:
        self.module, self.features, self.settings, self.method = module, features, settings, method

    def on_train_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        _check_finite(self.module.state_dict())
        measured = self.settings.epochs - self.settings.freeze_epochs
        if trainer.current_epoch < measured:
            kept = trainer.current_epoch == measured - 1
            features = self.features if kept else self.features[::RANGING_STEP]
            try:
                ranges = activation_ranges(self.method, self.module.trained_graph(), features)
            except GraphError as error:  # an activation is not finite, though all weights are
                raise DivergedError(str(error)) from error
            self.module.set_ranges(ranges)
        else:
            # After a resume the checkpoint's ranges are there, but not yet their scales.
            self.module.set_ranges(self.module.ranges())
