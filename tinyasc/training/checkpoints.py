"""Checkpoints: the newest epoch, from which a killed run goes on, and the best one. Each is whole or not there."""

from __future__ import annotations

import io
import math
import pickle
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

import lightning as L
import torch
from lightning.pytorch.callbacks import Checkpoint
from lightning.pytorch.plugins.io import TorchCheckpointIO

from tinyasc.files import write_atomic
from tinyasc.training.classifier import Classifier

# What torch raises at a checkpoint that is cut, empty, of other things, or not one at all.
DAMAGED = (RuntimeError, KeyError, EOFError, TypeError, OSError, pickle.UnpicklingError)


def first_line(error: Exception) -> str:
    """What an error says in one line, with its kind where that is not in words."""
    line = next(iter(str(error).splitlines()), "")
    return line if any(c.isalpha() for c in line) else f"{type(error).__name__} {line}".strip()


class WholeFiles(TorchCheckpointIO):
    """Checkpoints under a temporary name beside the old one; Lightning's own way crosses from /tmp, which copies.

    `storage_options` may name a second file, which gets the same bytes before.
    """

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Path | None = None) -> None:
        """Writes the checkpoint to one file or two."""
        buffer = io.BytesIO()
        # torch's writer loses an exception that is raised inside its calls to `buffer.write`.
        with _interrupts_wait():
            torch.save(checkpoint, buffer)
        for file in (storage_options, Path(path)):
            if file is not None:
                write_atomic(file, buffer.getvalue())


@contextmanager
def _interrupts_wait() -> Iterator[None]:
    """Ctrl-C takes effect at the end of the block."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    caught: list[tuple[int, FrameType | None]] = []
    handler = signal.signal(signal.SIGINT, lambda number, frame: caught.append((number, frame)))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, handler)
    if caught and callable(handler):
        handler(*caught[0])


class Keeper(Checkpoint):
    """Keeps `last.ckpt` after every epoch, and `best.ckpt` when the monitored metric was never better.

    Args:
        folder: where.
        monitor: a key of `Classifier.history`; log losses are best when low, all others when high. None keeps the
            last alone.
    """

    def __init__(self, folder: Path, monitor: str | None) -> None:
        self.folder, self.monitor = folder, monitor
        self.best = -math.inf

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Writes the checkpoints; the best first, so that a kill between them repeats the epoch."""
        best = None
        if self.monitor is not None:
            assert isinstance(pl_module, Classifier)
            score = pl_module.history[self.monitor] * (-1 if self.monitor.endswith("loss") else 1)
            if score > self.best:
                self.best, best = score, self.folder / "best.ckpt"
        trainer.save_checkpoint(self.folder / "last.ckpt", storage_options=best)

    def state_dict(self) -> dict[str, Any]:
        """The best score so far."""
        return {"best": self.best}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Takes the best score of a checkpoint."""
        self.best = state_dict["best"]


def load_weights(file: Path) -> tuple[dict[str, torch.Tensor], int]:
    """The weights that count (averaged, when they were averaged) and their epoch.

    Raises:
        Exception: one of `DAMAGED`.
    """
    state = torch.load(file, map_location="cpu", weights_only=True)
    tensors = state["state_dict"]
    prefix = "average." if any(k.startswith("average.") for k in tensors) else "module."
    return {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}, state["epoch"]
