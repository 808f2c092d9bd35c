"""`tinyasc data show`: pictures of a recipe's augmentation on a real clip."""

from __future__ import annotations

from pathlib import Path

import click

from tinyasc.cli.train import with_data
from tinyasc.data import DATASETS, Clip
from tinyasc.errors import InputError
from tinyasc.training.features import open_data
from tinyasc.training.pictures import draw, examples, needs_partner, one_of_each_scene, pictures, transforms_of
from tinyasc.training.recipe import load_recipe
from tinyasc.training.recipe_parts import Data, FrontEndPart


@click.command("show")
@click.argument("clips", metavar="[CLIP]...", nargs=-1, type=click.Path(path_type=Path))
@click.option("--recipe", metavar="RECIPE", help="Whose augmentation and front end [default: every transform].")
@click.option("--set", "overrides", metavar="KEY=VALUE", multiple=True, help="Override one value of the recipe.")
@click.option("--data", "data_name", type=click.Choice(sorted(DATASETS)), help="Data set to take clips from.")
@click.option("--root", metavar="DIR", type=click.Path(), help="The data set's folder, or for csv the file.")
@click.option("--dirs", metavar="DIR | LIST", help="Impulse responses to show, or synthetic for drawn ones.")
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Of the transforms.")
@click.option(
    "--out",
    metavar="FILE",
    type=click.Path(path_type=Path, dir_okay=False),
    default=Path("pictures.png"),
    show_default=True,
    help="A .png, .svg or .pdf file.",
)
def show(
    clips: tuple[Path, ...],
    recipe: str | None,
    overrides: tuple[str, ...],
    data_name: str | None,
    root: str | None,
    dirs: str | None,
    seed: int,
    out: Path,
) -> None:
    """Draw the log-mel features of a clip before and after each transform.

    CLIP is an audio file, and further ones are what it is mixed with; by default the data set's first training clip,
    and one clip of each other scene. Transforms that have a probability are shown as they act when they do.

    \b
    Examples:
      tinyasc data show street.wav
      tinyasc data show street.wav --dirs synthetic
      tinyasc data show --recipe teachers/esc10 --root ESC-50-master --out pictures.png
    """  # noqa: D301 (click reads the backspace)
    if overrides and recipe is None:
        raise InputError("--set changes a recipe; name one with --recipe")
    loaded = with_data(load_recipe(recipe, overrides, data=data_name), data_name, root) if recipe else None
    front_end = ((loaded.front_end if loaded else None) or FrontEndPart.model_validate({})).record()
    shown = [Clip(path, "", "", "", 0) for path in clips]
    data = loaded.data if loaded else Data(name=data_name, root=root) if data_name else None
    if root and data is None:
        raise InputError(f"--root {root}: the folder of which data set? name it with --data, or a recipe that has data")
    if root or data_name or not shown:
        _, split = open_data(data or Data())
        shown += one_of_each_scene(split.train)
    settings = loaded.augment if loaded else None
    if settings is not None and dirs:
        settings = settings.model_copy(update={"dirs": dirs, "dir_prob": settings.dir_prob or 1.0})
    singles = examples(front_end, dirs) if settings is None else transforms_of(settings)
    drawn = pictures(shown, front_end, singles, seed=seed)
    draw(drawn, front_end, out)
    click.echo(f"written: {out}, {shown[0].path.name} and {len(drawn) - 1} transforms of it")
    if len(shown) == 1 and any(map(needs_partner, singles)):
        click.echo("left out, as they mix clips: give a second CLIP, or --data and --root", err=True)
    if settings is None and not dirs:
        click.echo("left out: impulse responses; name some with --dirs", err=True)
    if settings is not None and settings.mask_layers:
        click.echo("left out: mask_layers, which act inside the model", err=True)
