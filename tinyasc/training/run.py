"""A run is a folder: resolved recipe, metrics, checkpoints, weights. Every file is written whole or not at all."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors.torch
from torch import Tensor, nn

from tinyasc.data.groups import parents
from tinyasc.errors import InputError
from tinyasc.files import locked, write_atomic
from tinyasc.frontend import FrontEnd
from tinyasc.models import build
from tinyasc.models.widths import narrow_layers
from tinyasc.training.distributed import rank
from tinyasc.training.heard import Heard
from tinyasc.training.recipe import Recipe, check_recipe, load_recipe

RUNS = "runs"


@dataclass(frozen=True)
class Trained:
    """A trained model with what is needed to use it. `module` is in evaluation mode.

    `devices` are the names of the devices that it was trained on.
    """

    module: nn.Module
    labels: tuple[str, ...]
    front_end: FrontEnd
    recipe: Recipe
    validation: dict[str, float]
    synthetic: bool
    path: Path
    devices: tuple[str, ...] = ()


class Run:
    """One run folder.

    Args:
        path: the folder; made when something is written.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    @property
    def finished(self) -> bool:
        """Whether training ended and the weights are there."""
        return (self.path / "model.json").is_file() and (self.path / "model.safetensors").is_file()

    @property
    def checkpoints(self) -> Path:
        """The folder of Lightning's checkpoints."""
        return self.path / "checkpoints"

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Holds the folder against a second process.

        Raises:
            InUseError: another process works in it.
            InputError: it holds something else than a run.
        """
        if rank() > 0:
            # The first of torchrun's processes holds it for all.
            yield
            return
        self.path.mkdir(parents=True, exist_ok=True)
        strange = [p.name for p in self.path.iterdir() if not p.name.startswith(".")]
        if strange and not any((self.path / name).is_file() for name in ("recipe.yaml", "plan.json")):
            raise InputError(f"{self.path}: holds {strange[0]} and no run; name an empty or a new folder with --run")
        with locked(self.path, "run"):
            yield

    def claim(self, recipe: Recipe, data_identity: str) -> None:
        """Writes the resolved recipe and what data it is for, or checks that those that are there are the same.

        Raises:
            InputError: the folder holds a run of another recipe, or of other data.
        """
        data = self.path / "data.blake2b"
        if data.exists() and data.read_text(encoding="utf-8").strip() != data_identity:
            raise InputError(
                f"{self.path}: this run was trained on other clips than these; name their folder with --root, "
                "or another run folder with --run"
            )
        file = self.path / "recipe.yaml"
        if file.exists():
            if load_recipe(file).fingerprint() != recipe.fingerprint():
                raise InputError(f"{self.path}: holds a run of another recipe; name another folder with --run")
            return
        write_atomic(data, data_identity + "\n")
        write_atomic(file, recipe.to_yaml())

    def save(
        self,
        state: dict[str, Tensor],
        *,
        recipe: Recipe,
        labels: tuple[str, ...],
        front_end: FrontEnd,
        validation: dict[str, float],
        synthetic: bool,
        heard: Heard,
        devices: tuple[str, ...] = (),
        widths: Mapping[str, list[int]] | None = None,
    ) -> None:
        """Writes the weights and the clips that were heard, then the record that marks the run as finished.

        `widths` are those of narrowed layers, where they are not the recipe's.
        """
        tensors = {k: v.detach().cpu().contiguous() for k, v in state.items()}
        write_atomic(self.path / "model.safetensors", safetensors.torch.save(tensors))
        heard.save(self.path)
        record = {
            "labels": list(labels),
            "devices": list(devices),
            "front_end": front_end.to_dict(),
            "recipe": recipe.model_dump(mode="json"),
            # With `training.final` nothing was held out, so there are no validation metrics.
            "trained_on": ["train", "validation"] if recipe.training.final else ["train"],
            "validation": validation,
            "synthetic": synthetic,
        } | ({"widths": dict(widths)} if widths else {})
        write_atomic(self.path / "model.json", json.dumps(record, indent=1))

    def load(self) -> Trained:
        """Loads the trained model.

        Raises:
            InputError: the run is not finished, or its files are damaged.
        """
        record = self.record()
        recipe = check_recipe(record["recipe"], str(self.path / "model.json"))
        front_end = FrontEnd.from_dict(record["front_end"], str(self.path / "model.json"))
        labels, devices = tuple(record["labels"]), tuple(record.get("devices", ()))
        groups = recipe.data.groups if recipe.data is not None and recipe.data.target == "scene" else {}
        module = build(
            recipe.family,
            n_classes=len(labels),
            n_mels=front_end.n_mels,
            in_channels=front_end.channels,
            n_frames=front_end.n_frames(),
            parents=parents(labels, groups),
            n_devices=len(devices),
            **recipe.model_options,
        )
        try:
            narrow_layers(module, record.get("widths", {}))
        except InputError as error:
            raise InputError(
                f"{self.path / 'model.json'}: damaged ({error}); delete it and run the same command again, it resumes"
            ) from None
        file = self.path / "model.safetensors"
        try:
            module.load_state_dict(safetensors.torch.load_file(file))
        except Exception as error:
            line = str(error).splitlines()[0]
            raise InputError(
                f"{file}: its weights cannot be loaded ({line}); delete it and run the same command again, it resumes"
            ) from None
        scores, synthetic = record["validation"], record["synthetic"]
        return Trained(module.eval(), labels, front_end, recipe, scores, synthetic, self.path, devices)

    def record(self) -> dict[str, Any]:
        """What `save` wrote beside the weights."""
        file = self.path / "model.json"
        try:
            record = json.loads(file.read_text(encoding="utf-8"))
            kinds = {"labels": list, "front_end": dict, "recipe": dict, "validation": dict, "synthetic": bool}
            if not isinstance(record, dict) or not all(isinstance(record.get(k), kind) for k, kind in kinds.items()):
                raise ValueError("a part is missing")
            if not isinstance(record.get("devices", []), list):
                raise ValueError("its devices are no list")
            if not isinstance(record.get("widths", {}), dict):
                raise ValueError("its widths are no mapping")
            final = record.get("trained_on") == ["train", "validation"]
            if not final and not {"val_accuracy", "val_log_loss"} <= set(record["validation"]):
                raise ValueError("its validation metrics are missing")
        except FileNotFoundError:
            raise InputError(f"{self.path}: no finished training here; run `tinyasc train` again, it resumes") from None
        except ValueError as error:
            raise InputError(
                f"{file}: damaged ({error}); delete it and run the same command again, it resumes"
            ) from None
        return record


def newest_teacher(folder: Path, *, option: str = "--teacher") -> Run:
    """The finished training run in `folder`/runs that ended last and is no compressed student.

    Args:
        folder: where the commands are run.
        option: of the command line, which names another one.

    Raises:
        InputError: there is none.
    """
    records = sorted((folder / RUNS).glob("*/model.json"), key=lambda p: p.stat().st_mtime)
    runs = [Run(p.parent) for p in records if not (p.parent / "plan.json").exists()]
    if not runs:
        raise InputError(
            f"no finished training run in {folder / RUNS}; run `tinyasc train` first, or name one with {option}"
        )
    return runs[-1]


def relative(path: Path) -> Path:
    """The path as a reader in the current folder would type it."""
    shown = Path(os.path.relpath(path))
    return path if str(shown).startswith("..") else shown
