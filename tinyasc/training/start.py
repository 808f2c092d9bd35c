"""Weights to start from: fine-tuning a run that was trained on other classes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import safetensors.torch
from torch import nn

from tinyasc.data import Clip
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


def check_start(folder: Path, names: Sequence[str], clips: Sequence[Clip]) -> Heard:
    """Makes sure that a run to start from has heard no test clip.

    Args:
        folder: the run.
        names: of the test clips (see `clip_names`).
        clips: the test clips.

    Returns:
        What that run heard.

    Raises:
        InputError: no finished run, one that does not say what it heard, or that was trained on one of them.
    """
    heard = heard_by(folder)
    if heard is None:
        raise InputError(f"{folder}: does not say which clips it was trained on; train it again, then start from it")
    known = {*heard.train, *heard.validation}
    places = {*heard.train_locations, *heard.validation_locations}
    same = [name for name in names if name in known]
    same += [str(clip.path) for clip in clips if clip.location in places]
    if same:
        raise InputError(
            f"training.start_from: {folder}, or a run before it, was trained on clips that are test clips here, or on "
            f"others of their names or places ({same[0]}); pre-train with the same data.test_fold, or rename the clips "
            "if they are other recordings"
        )
    return heard


def start_from(module: nn.Module, folder: Path, recipe: Recipe, data: Prepared) -> Heard:
    """Gives a model a run's weights wherever name and shape agree; what is left keeps its random start.

    Returns:
        What that run heard.

    Raises:
        InputError: no finished run, no weight that fits, or a run that was trained on clips that are tested on here.
    """
    heard = check_start(folder, data.test_names, data.split.test)
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
