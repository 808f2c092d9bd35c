"""Trains a recipe in a run folder; killed and run again, it resumes at the last finished epoch."""

from __future__ import annotations

import dataclasses
import hashlib
import logging
import signal
import threading
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import torch
import torch.utils.deterministic
from lightning.pytorch.callbacks import Callback
from torch import nn

from tinyasc.augment.hidden import check_layers
from tinyasc.errors import InputError
from tinyasc.models import build, check_input
from tinyasc.models.widths import layer_widths
from tinyasc.training.attention_transfer import check_maps
from tinyasc.training.augmentation import gain_scale, heard_responses
from tinyasc.training.checkpoints import DAMAGED, Keeper, WholeFiles, first_line, load_weights
from tinyasc.training.classifier import Classifier
from tinyasc.training.distributed import barrier, processes_here, rank, world_size
from tinyasc.training.features import Prepared, loader
from tinyasc.training.heard import Heard
from tinyasc.training.journal import SECONDS, Journal, lines
from tinyasc.training.progress import progress
from tinyasc.training.recipe import Recipe
from tinyasc.training.recipe_parts import Tasks, Training
from tinyasc.training.run import Run, Trained
from tinyasc.training.start import start_from
from tinyasc.training.tasks import TASKS, known_device, reads_device, scene_logits, task_logits
from tinyasc.training.teaching import LiveTeachers


def fit(
    recipe: Recipe,
    run: Run,
    data: Prepared,
    *,
    teacher: np.ndarray | None = None,
    teachers: LiveTeachers | None = None,
    title: str = "train",
    module: nn.Module | None = None,
    callbacks: Sequence[Callback] = (),
) -> Trained:
    """Trains, or resumes, or returns what is already trained.

    Args:
        recipe: resolved; written into the run folder.
        run: the folder, which the caller holds locked.
        data: features.
        teacher: (training clips, K) logits of a teacher on the clean training clips, for distillation; with
            `training.final` those of the validation clips follow.
        teachers: models that answer every batch, in place of stored answers.
        title: of the progress bar.
        module: to go on with in place of the recipe's fresh model: the same with some layers narrower, whose widths
            are kept with the run.
        callbacks: more of Lightning's, which may end the training with an exception.

    Raises:
        InputError: the folder holds another recipe, or a damaged checkpoint.
    """
    if recipe.distill is not None and teacher is None and teachers is None:
        raise InputError(
            f"{recipe.name}: distils from a teacher, so it is a recipe for `tinyasc compress --student`; "
            "without one, train it with --set distill=null"
        )
    # Before the folder is claimed: a recipe that cannot be trained leaves it free for the mended one.
    fresh, heard = _built(recipe, data)
    module = fresh if module is None else module
    if rank() == 0:
        run.claim(recipe, _identity(module, recipe, data))
    barrier()
    if not (run.path / "recipe.yaml").is_file():
        raise InputError(
            f"{run.path}: process {rank()} does not see it; name a folder that all machines share with --run"
        )
    if run.finished:
        return run.load()
    usual = layer_widths(fresh)
    lessons = {"teacher": teacher, "teachers": teachers}
    weights, validation = train_module(module, recipe, run, data, **lessons, title=title, callbacks=callbacks)
    if rank() == 0:
        run.save(
            weights,
            recipe=recipe,
            labels=data.labels,
            front_end=data.front_end,
            validation=validation,
            synthetic=data.synthetic,
            heard=heard,
            devices=data.devices,
            widths={name: own for name, own in layer_widths(module).items() if own != usual[name]},
        )
    barrier()
    return run.load()


def check_trainable(recipe: Recipe, data: Prepared) -> None:
    """Raises InputError for a recipe that `fit` would refuse before it claims a folder."""
    _built(recipe, data)


def _built(recipe: Recipe, data: Prepared) -> tuple[nn.Module, Heard]:
    """The recipe's model, with the seed's weights, and what it will have heard.

    After what can be known of the recipe before training.

    Raises:
        InputError: a gain in dB or a crop that the features cannot take, a decision weight of no label, features that
            the model cannot take, a hidden layer that it does not have or that gives no map, weights of tasks that it
            does not learn, tasks that cannot be balanced, a run that it cannot start from.
    """
    front_end, settings = data.front_end, recipe.augment
    frames, crop = front_end.n_frames(), settings.crop_frames
    in_db = next((key for key in ("gain_db", "filter_db") if getattr(settings, key)), None)
    if in_db and not front_end.log:
        raise InputError(f"{recipe.name}: augment.{in_db} adds dB, so it needs front_end.log; take one of them out")
    if crop > frames:
        raise InputError(
            f"augment.crop_frames: cannot crop {crop} frames out of {frames}; set it to 1..{frames}, or 0 for none"
        )
    for label in recipe.decision_weights:
        if label not in data.labels:
            raise InputError(
                f"{recipe.name}: decision_weights: {label!r} is none of the data's labels ({', '.join(data.labels)})"
            )
    torch.manual_seed(recipe.training.seed)
    module = build(
        recipe.family,
        n_classes=len(data.labels),
        n_mels=front_end.n_mels,
        in_channels=front_end.channels,
        n_frames=front_end.n_frames(),
        parents=data.parents,
        n_devices=len(data.devices),
        **recipe.model_options,
    )
    for length in {frames, crop} - {0}:
        check_input(module, recipe.family, shape=(front_end.channels, front_end.n_mels, length))
    check_layers(module, settings.mask_layers)
    if recipe.distill is not None and recipe.distill.feature_layers:
        check_maps(module, [layer for layer, _ in recipe.distill.feature_layers], front_end.shape, "student")
    _check_tasks(module, recipe, front_end.shape)
    devices = sorted({*data.heard.train_devices, *heard_responses(settings)})
    heard = dataclasses.replace(data.heard, train_devices=tuple(devices))
    if recipe.training.start_from is not None:
        heard = heard.joined(start_from(module, Path(recipe.training.start_from), recipe, data))
    return module, heard


def _check_tasks(module: nn.Module, recipe: Recipe, shape: tuple[int, int, int]) -> None:
    module.eval()
    with torch.inference_mode():
        learnt = task_logits(module, torch.zeros(1, *shape), None) if hasattr(module, "tasks") else ("scene",)
    module.train()
    settings = recipe.tasks
    for task in TASKS[1:]:
        for key in Tasks.model_fields:
            changed = getattr(settings, key) != Tasks.model_fields[key].default
            if changed and key.startswith(f"{task}_") and task not in learnt:
                raise InputError(f"{recipe.name}: tasks.{key}: the model does not learn the {task}; take it out")
    if settings.balance == "fixed":
        return
    if len(learnt) < 2 or not hasattr(module, "shared_parameters"):
        raise InputError(
            f"{recipe.name}: tasks.balance: gradnorm needs a model that shares layers between tasks; leave it out"
        )
    if recipe.training.precision == "16-mixed":
        raise InputError(f"{recipe.name}: gradnorm measures gradients, which 16-mixed scales; use bf16-mixed or 32")


def _identity(module: nn.Module, recipe: Recipe, data: Prepared) -> str:
    """Of the data and of all else outside the recipe that the training depends on."""
    parts: list[bytes] = []
    if reads_device(module) or hasattr(module, "tasks"):
        parts = [repr(data.devices).encode()]
        parts += [part.devices.tobytes() for part in (data.train, data.validation) if part.devices is not None]
    if recipe.training.start_from is not None:
        parts.append((Path(recipe.training.start_from) / "model.safetensors").read_bytes())
    if not parts:
        return data.identity
    return hashlib.blake2b(b"\n".join([data.identity.encode(), *parts]), digest_size=16).hexdigest()


def train_module(
    module: nn.Module,
    recipe: Recipe,
    run: Run,
    data: Prepared,
    *,
    teacher: np.ndarray | None = None,
    teachers: LiveTeachers | None = None,
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
        teachers: as in `fit`.
        reference: a module to distil from in a teacher's place; see `Classifier`.
        title: of the progress bar.
        callbacks: more of Lightning's.

    Returns:
        The state dict of the epoch that `training.select` keeps, and its line of metrics.

    Raises:
        InputError: a damaged checkpoint or journal.
    """
    settings = recipe.training
    _check_hardware(settings)
    part = data.trained_on(settings.final)
    if teacher is not None and len(teacher) != len(part.labels):
        raise InputError(
            f"{recipe.name}: the teacher answered {len(teacher)} clips of the {len(part.labels)} to train on"
        )
    train = loader(part, settings.batch_size, seed=settings.seed, teacher=teacher)
    classifier = Classifier(
        module,
        recipe,
        n_classes=len(data.labels),
        band_scale=gain_scale(data.front_end),
        steps_per_epoch=len(train),
        front_end=data.front_end,
        parents=data.parents,
        n_devices=len(data.devices),
        teachers=teachers,
        reference=reference,
    )
    last = run.checkpoints / "last.ckpt"
    resume = last if last.is_file() else None
    journal_file = run.path / "metrics.jsonl"
    with progress(title) as report, _quiet(), _signals_kept(), _torch_as_before():
        trainer = L.Trainer(
            max_epochs=settings.epochs,
            precision=settings.precision,
            gradient_clip_val=settings.clip_grad_norm,
            logger=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            num_sanity_val_steps=0,
            deterministic="warn",
            # More processes only where torchrun starts them; `loader` shares every batch out among them.
            devices=processes_here(),
            num_nodes=world_size() // processes_here(),
            strategy="auto" if world_size() == 1 else "ddp",
            use_distributed_sampler=False,
            callbacks=[
                *callbacks,
                Journal(journal_file, report, settings.epochs, writes=rank() == 0),
                Keeper(run.checkpoints, None if settings.final else settings.monitor),
            ],
            plugins=[WholeFiles()],
        )
        validation = None if settings.final else loader(data.validation, settings.batch_size, seed=None)
        try:
            trainer.fit(classifier, train, validation, ckpt_path=resume, weights_only=True)
        except DAMAGED as error:
            if resume is None or trainer.global_step:
                raise
            raise InputError(
                f"{resume}: cannot resume from it ({first_line(error)}); delete it to start again"
            ) from error
        except SystemExit:
            # Lightning turns Ctrl-C into an exit without a word, and leaves the signal ignored.
            if not trainer.interrupted:
                raise
            raise KeyboardInterrupt from None
    chosen = run.checkpoints / ("best.ckpt" if settings.select == "best" else "last.ckpt")
    try:
        weights, epoch = load_weights(chosen)
    except DAMAGED as error:
        raise InputError(f"{chosen}: cannot be read ({first_line(error)}); delete {run.path} and train again") from None
    measured = next((line for line in lines(journal_file) if line["epoch"] == epoch), None)
    if measured is None:
        raise InputError(f"{journal_file}: its line of epoch {epoch} is lost; delete {run.path}, train again")
    # Not its seconds: what a run leaves is the same however long it took.
    return weights, {key: value for key, value in measured.items() if key not in SECONDS}


def _check_hardware(settings: Training) -> None:
    # Lightning would take bfloat16 in its place, and only warn.
    if settings.precision == "16-mixed" and not torch.accelerator.is_available():
        raise InputError("training.precision: 16-mixed needs a GPU, and none is here; use bf16-mixed or 32")


@contextmanager
def _torch_as_before() -> Iterator[None]:
    """Ends the deterministic mode that Lightning leaves on.

    While it is on, it does not fill every new tensor with NaN, a help for debugging that costs a tenth of the time.
    """
    switch: Any = torch.utils.deterministic  # a property of the module, which type checkers do not see
    before, switch.fill_uninitialized_memory = switch.fill_uninitialized_memory, False
    mode = torch.get_deterministic_debug_mode()
    try:
        yield
    finally:
        switch.fill_uninitialized_memory = before
        torch.set_deterministic_debug_mode(mode)


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


def logits(
    trained: Trained, features: np.ndarray, devices: Sequence[str] | None = None, batch_size: int = 64
) -> np.ndarray:
    """Logits (clips, K) float32 of normalised features (clips, channels, bands, frames).

    Args:
        trained: the model.
        features: normalised by its front end.
        devices: (clips,) names of recording devices, for models that are conditioned on them.
        batch_size: clips at once.
    """
    index = {device: i for i, device in enumerate(trained.devices)}
    told = torch.tensor([index.get(device, -1) for device in devices or [""] * len(features)])
    out = []
    with torch.inference_mode():
        for start in range(0, len(features), batch_size):
            part = slice(start, start + batch_size)
            device = known_device(told[part], len(trained.devices)) if trained.devices else None
            out.append(scene_logits(trained.module, torch.from_numpy(features[part]), device).numpy())
    return np.concatenate(out)
