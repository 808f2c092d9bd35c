"""The metrics of a run: one JSON line per epoch."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import Callback

from tinyasc.files import naming, write_atomic
from tinyasc.training.classifier import Classifier
from tinyasc.training.progress import Report

# What a line says of time.
SECONDS = ("seconds", "waited")


class Journal(Callback):
    """Appends one line per epoch, and moves the progress bar.

    A line holds the metrics, `seconds` of the whole epoch, and `waited`, the seconds of it from the end of one training
    batch to the start of the next: fetching data, and the training loop's own overhead.

    Args:
        file: of the lines.
        report: moves the bar.
        epochs: in all.
        writes: whether this process is the one that writes.
    """

    def __init__(self, file: Path, report: Report, epochs: int, *, writes: bool) -> None:
        self.file, self.report, self.epochs, self.writes = file, report, epochs, writes
        self.started = self.idle_since = self.waited = 0.0

    def on_train_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Drops the lines of epochs that are trained again."""
        if not self.started and self.writes:
            # Epochs after the checkpoint that is resumed from are trained again.
            kept = [line for line in lines(self.file) if line["epoch"] < trainer.current_epoch]
            write_atomic(self.file, "".join(json.dumps(line) + "\n" for line in kept))
        self.started = self.idle_since = time.monotonic()
        self.waited = 0.0

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Ends a wait."""
        self.waited += time.monotonic() - self.idle_since

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Begins a wait."""
        self.idle_since = time.monotonic()

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Writes the epoch's line."""
        assert isinstance(pl_module, Classifier)
        pl_module.finish_epoch()
        if not self.writes:
            return
        seconds = (round(time.monotonic() - self.started, 3), round(self.waited, 4))
        line = pl_module.history | dict(zip(SECONDS, seconds, strict=True))
        with naming(self.file), open(self.file, "a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")
        note = f"training loss {line['train_loss']:.3f}"
        if "val_accuracy" in line:
            note = f"validation accuracy {line['val_accuracy']:.3f}, log loss {line['val_log_loss']:.3f}"
        self.report(trainer.current_epoch + 1, self.epochs, note=note)


def lines(file: Path, key: str = "epoch") -> list[dict[str, Any]]:
    """The lines that are whole and hold a key; a kill can leave half a line at the end."""
    if not file.is_file():
        return []
    found = []
    for text in file.read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            line = json.loads(text)
            found.append({key: line[key]} | line)
        except (ValueError, KeyError, TypeError):
            break
    return found
