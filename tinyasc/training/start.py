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


def heard_by(folder: Path) -> Heard | None:
    """What a finished run was trained and validated on, and before it those that it started from or learnt from.

    Raises:
        InputError: no finished run.
    """
    final = Run(folder).record().get("trained_on") == ["train", "validation"]
    heard = Heard.load(folder)
    return heard.trained_on(final) if heard else None


def start_from(module: nn.Module, folder: Path, recipe: Recipe, data: Prepared) -> Heard:
    """Gives a model a run's weights wherever name and shape agree; what is left keeps its random start.

    Returns:
        What that run heard.

    Raises:
        InputError: no finished run, no weight that fits, or a run that was trained on clips that are tested on here.
    """
    heard = heard_by(folder)
    if heard is None:
        raise InputError(f"{folder}: does not say which clips it was trained on; train it again, then start from it")
    known = {*heard.train, *heard.validation}
    places = {*heard.train_locations, *heard.validation_locations}
    same = [name for name in data.test_names if name in known]
    same += [str(clip.path) for clip in data.split.test if clip.location in places]
    if same:
        raise InputError(
            f"training.start_from: {folder}, or a run before it, was trained on clips that are test clips here, or on "
            f"others of their names or places ({same[0]}); pre-train with the same data.test_fold, or rename the clips "
            "if they are other recordings"
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
    return heard
