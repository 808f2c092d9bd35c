"""Weights to start from: fine-tuning a run that was trained on other classes."""

from __future__ import annotations

from pathlib import Path

import safetensors.torch
from torch import nn

from tinyasc.errors import InputError
from tinyasc.training.features import Prepared
from tinyasc.training.heard import Heard
from tinyasc.training.recipe import Recipe
from tinyasc.training.run import Run


def start_from(module: nn.Module, folder: Path, recipe: Recipe, data: Prepared) -> None:
    """Gives a model a run's weights wherever name and shape agree; what is left keeps its random start.

    Raises:
        InputError: no finished run, no weight that fits, or a run that was trained on clips that are tested on here.
    """
    run = Run(folder)
    record, heard = run.record(), Heard.load(folder)
    trained_on = (record["recipe"].get("data") or {}).get("name")
    if recipe.data is not None and trained_on == recipe.data.name:
        if heard is None:
            raise InputError(
                f"{folder}: does not say which clips it was trained on; train it again, then start from it"
            )
        known = {*heard.train, *heard.validation}
        places = {*heard.train_locations, *heard.validation_locations}
        if any(name in known for name in data.test_names) or any(c.location in places for c in data.split.test):
            raise InputError(
                f"training.start_from: {folder} was trained on clips that are test clips here; "
                "pre-train with the same data.test_fold"
            )
    try:
        weights = safetensors.torch.load_file(folder / "model.safetensors")
    except Exception as error:
        line = str(error).splitlines()[0]
        raise InputError(f"{folder / 'model.safetensors'}: its weights cannot be loaded ({line})") from None
    own = module.state_dict()
    fitting = {name: value for name, value in weights.items() if name in own and value.shape == own[name].shape}
    if not any(name in fitting for name, _ in module.named_parameters()):
        raise InputError(f"training.start_from: no weight of {folder} fits {recipe.family}; name a run of that family")
    module.load_state_dict(fitting, strict=False)
