"""Trains a recipe in a run folder; killed and run again, it resumes at the last finished epoch."""

from __future__ import annotations

import io
import json
import logging
import os
import pickle
import signal
import threading
import time
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import torch
from lightning.pytorch.callbacks import Callback, ModelCheckpoint
from lightning.pytorch.plugins.io import TorchCheckpointIO
from torch import nn

from tinyasc.errors import InputError
from tinyasc.files import write_atomic
from tinyasc.models import build, check_input
from tinyasc.training.augmentation import gain_scale
from tinyasc.training.classifier import Classifier
from tinyasc.training.features import Prepared, loader
from tinyasc.training.progress import Report, progress
from tinyasc.training.recipe import Recipe
from tinyasc.training.run import Run, Trained


def fit(
    recipe: Recipe, run: Run, data: Prepared, *, teacher: np.ndarray | None = None, title: str = "train"
) -> Trained:
    """Trains, or resumes, or returns what is already trained.

    Args:
        recipe: resolved; written into the run folder.
        run: the folder, which the caller holds locked.
        data: features.
        teacher: (training clips, K) logits of a teacher on the clean training clips, for distillation.
        title: of the progress bar.

    Raises:
        InputError: the folder holds another recipe, or a damaged checkpoint.
    """
    if recipe.distill is not None and teacher is None:
        raise InputError(
            f"{recipe.name}: distils from a teacher, so it is a recipe for `tinyasc compress --student`; "
            "without one, train it with --set distill=null"
        )
    run.claim(recipe, data.identity)
    if run.finished:
        return run.load()
    settings = recipe.training
    torch.manual_seed(settings.seed)
    front_end = data.front_end
    if recipe.augment.gain_db and not front_end.log:
        raise InputError(f"{recipe.name}: augment.gain_db adds dB, so it needs front_end.log; take one of them out")
    module = build(
        recipe.family,
        n_classes=len(data.labels),
        n_mels=front_end.n_mels,
        in_channels=front_end.channels,
        **recipe.model_options,
    )
    for frames in {front_end.n_frames(), recipe.augment.crop_frames} - {0}:
        check_input(module, recipe.family, shape=(front_end.channels, front_end.n_mels, frames))
    weights, validation = train_module(module, recipe, run, data, teacher=teacher, title=title)
    run.save(
        weights,
        recipe=recipe,
        labels=data.labels,
        front_end=data.front_end,
        validation=validation,
        synthetic=data.synthetic,
    )
    return run.load()


def train_module(
    module: nn.Module,
    recipe: Recipe,
    run: Run,
    data: Prepared,
    *,
    teacher: np.ndarray | None = None,
    reference: nn.Module | None = None,
    title: str = "train",
    callbacks: Sequence[Callback] = (),
) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """Trains any module by a recipe, or resumes it; `fit` without building, claiming and saving.

    Args:
        module: (batch, channels, bands, frames) -> logits (batch, K).
        recipe: its training, augmentation and distillation.
        run: where checkpoints and metrics go.
        data: features.
        teacher: as in `fit`.
        reference: a module to distil from in a teacher's place; see `Classifier`.
        title: of the progress bar.
        callbacks: more of Lightning's.

    Returns:
        The state dict of the epoch that `training.select` keeps, and its line of metrics.

    Raises:
        InputError: a damaged checkpoint or journal.
    """
    settings = recipe.training
    train = loader(data.train, settings.batch_size, seed=settings.seed, teacher=teacher)
    classifier = Classifier(
        module,
        recipe,
        n_classes=len(data.labels),
        band_scale=gain_scale(data.front_end),
        steps_per_epoch=len(train),
        front_end=data.front_end,
        reference=reference,
    )
    last = run.checkpoints / "last.ckpt"
    resume = last if last.is_file() else None
    journal_file = run.path / "metrics.jsonl"
    with progress(title) as report, _quiet(), _signals_kept():
        journal = _Journal(journal_file, report, settings.epochs)
        # Two keepers: Lightning's own save_last follows the monitored metric, so it is not the last epoch.
        every = {"dirpath": run.checkpoints, "save_on_train_epoch_end": True, "enable_version_counter": False}
        best = _Keeper(filename="best", monitor="val_log_loss", **every)
        newest = _Keeper(filename="last", **every)
        trainer = L.Trainer(
            max_epochs=settings.epochs,
            logger=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            num_sanity_val_steps=0,
            deterministic="warn",
            # More processes only where torchrun starts them.
            devices="auto" if "TORCHELASTIC_RUN_ID" in os.environ else 1,
            callbacks=[*callbacks, journal, best, newest],
            plugins=[_WholeFiles()],
        )
        try:
            trainer.fit(
                classifier,
                train,
                loader(data.validation, settings.batch_size, seed=None),
                ckpt_path=resume,
                weights_only=True,
            )
        except (RuntimeError, KeyError, EOFError, TypeError, OSError, pickle.UnpicklingError) as error:
            if resume is None or trainer.global_step:
                raise
            line = (str(error).splitlines() or [type(error).__name__])[0]
            raise InputError(f"{resume}: cannot resume from it ({line}); delete it to start again") from error
        except SystemExit:
            # Lightning turns Ctrl-C into an exit without a word, and leaves the signal ignored.
            if not trainer.interrupted:
                raise
            raise KeyboardInterrupt from None
    chosen = run.checkpoints / ("best.ckpt" if settings.select == "best" else "last.ckpt")
    try:
        state = torch.load(chosen, map_location="cpu", weights_only=True)
        weights = {k.removeprefix("module."): v for k, v in state["state_dict"].items()}
        epoch = state["epoch"]
    except (RuntimeError, KeyError, EOFError, TypeError, OSError, pickle.UnpicklingError) as error:
        line = (str(error).splitlines() or [type(error).__name__])[0]
        raise InputError(f"{chosen}: cannot be read ({line}); delete {run.path} and train again") from None
    validation = next((line for line in _lines(journal_file) if line["epoch"] == epoch), None)
    if validation is None:
        raise InputError(f"{journal_file}: its line of epoch {epoch} is lost; delete {run.path}, train again")
    return weights, validation


class _WholeFiles(TorchCheckpointIO):
    """Checkpoints under a temporary name beside the old one; Lightning's own way crosses from /tmp, which copies."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        buffer = io.BytesIO()
        torch.save(checkpoint, buffer)
        write_atomic(Path(path), buffer.getvalue())


class _Keeper(ModelCheckpoint):
    """Goes on with the best score so far when the run folder was moved between a kill and now."""

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        old, new = str(state_dict["dirpath"]), str(self.dirpath)
        scores = {path.replace(old, new, 1): score for path, score in state_dict["best_k_models"].items()}
        names = ("kth_best_model_path", "last_model_path", "best_model_path")
        paths = {name: state_dict[name].replace(old, new, 1) for name in names}
        super().load_state_dict(state_dict | paths | {"dirpath": self.dirpath, "best_k_models": scores})


class _Journal(Callback):
    """Appends one JSON line per epoch, and moves the progress bar."""

    def __init__(self, file: Path, report: Report, epochs: int) -> None:
        self.file, self.report, self.epochs = file, report, epochs
        self.started = 0.0

    def on_train_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if not self.started:
            # Epochs after the checkpoint that is resumed from are trained again.
            kept = [line for line in _lines(self.file) if line["epoch"] < trainer.current_epoch]
            write_atomic(self.file, "".join(json.dumps(line) + "\n" for line in kept))
        self.started = time.monotonic()

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        assert isinstance(pl_module, Classifier)
        line = pl_module.history | {"seconds": round(time.monotonic() - self.started, 3)}
        with open(self.file, "a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")
        note = f"validation accuracy {line['val_accuracy']:.3f}, log loss {line['val_log_loss']:.3f}"
        self.report(trainer.current_epoch + 1, self.epochs, note=note)


def _lines(file: Path) -> list[dict[str, Any]]:
    if not file.is_file():
        return []
    lines = []
    for text in file.read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            line = json.loads(text)
            lines.append({"epoch": line["epoch"]} | line)
        except (ValueError, KeyError, TypeError):
            # A kill can leave half a line at the end.
            break
    return lines


@contextmanager
def _quiet() -> Iterator[None]:
    """Keeps Lightning's banners and advice off the user's screen."""
    logger = logging.getLogger("lightning.pytorch")
    level = logger.level
    logger.setLevel(logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            yield
        finally:
            logger.setLevel(level)


@contextmanager
def _signals_kept() -> Iterator[None]:
    handler = signal.getsignal(signal.SIGINT)
    try:
        yield
    finally:
        if threading.current_thread() is threading.main_thread() and handler is not None:
            signal.signal(signal.SIGINT, handler)


def logits(trained: Trained, features: np.ndarray, batch_size: int = 64) -> np.ndarray:
    """Logits (clips, K) float32 of normalised features (clips, channels, bands, frames)."""
    out = []
    with torch.inference_mode():
        for start in range(0, len(features), batch_size):
            out.append(trained.module(torch.from_numpy(features[start : start + batch_size])).numpy())
    return np.concatenate(out)
