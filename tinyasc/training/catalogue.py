"""What the shipped recipes are: family, size, what was published of them."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from tinyasc.data.groups import parents
from tinyasc.data.tau_years import TAU_YEARS
from tinyasc.models import build
from tinyasc.training.recipe import Recipe, has_fast, load_recipe, shipped_recipes
from tinyasc.training.recipe_parts import FrontEndPart

CLASSES = 10


@dataclass(frozen=True)
class Entry:
    """One recipe.

    Args:
        name: as `tinyasc train` takes it.
        family: of its model.
        parameters: for 10 classes, at the recipe's front end; a student's at the default one.
        published: what the model's authors report.
        fast: whether it has a quick variant.
    """

    name: str
    family: str
    parameters: int
    published: str | None
    fast: bool


def catalogue() -> list[Entry]:
    """Every shipped recipe, by name."""
    found = []
    for name in shipped_recipes():
        recipe = load_recipe(name)
        found.append(Entry(name, recipe.family, parameters(recipe), recipe.published, has_fast(name)))
    return found


def parameters(recipe: Recipe) -> int:
    """Parameters of a recipe's model for 10 classes, counted without memory for them."""
    front_end = (recipe.front_end or FrontEndPart.model_validate({})).record()
    channels, n_mels, n_frames = front_end.shape
    data = recipe.data
    groups = {} if data is None else data.groups
    year = None if data is None else TAU_YEARS.get(data.name)
    with torch.device("meta"):
        module = build(
            recipe.family,
            n_classes=CLASSES,
            n_mels=n_mels,
            in_channels=channels,
            n_frames=n_frames,
            parents=parents([scene for scenes in groups.values() for scene in scenes], groups),
            n_devices=0 if year is None or year.devices is None else len(year.devices),
            **recipe.model_options,
        )
    return sum(p.numel() for p in module.parameters())
