"""`tinyasc data`: makes the synthetic scenes, and checks a data set's lists and files."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import click

from tinyasc.cli.data_show import show
from tinyasc.data import DATASETS
from tinyasc.data.scenes import write_scenes
from tinyasc.training.features import open_data
from tinyasc.training.progress import progress
from tinyasc.training.recipe import Data


@click.group("data")
def command() -> None:
    """Make or check data sets.

    \b
    Examples:
      tinyasc data demo scenes/
      tinyasc data check esc10 --root ESC-50-master
    """  # noqa: D301 (click reads the backspace)


command.add_command(show)


@command.command("demo")
@click.argument("folder", metavar="DIR", type=click.Path(path_type=Path, file_okay=False))
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Other seeds give other clips.")
@click.option(
    "--clips-per-scene",
    type=click.IntRange(min=12),
    default=90,
    show_default=True,
    help="Training clips of each scene.",
)
def demo(folder: Path, seed: int, clips_per_scene: int) -> None:
    """Write the synthetic scenes to DIR, in the layout of TAU Urban Acoustic Scenes 2020 Mobile.

    \b
    Example:
      tinyasc data demo scenes/
    """  # noqa: D301
    with progress("synthetic scenes") as report:
        write_scenes(folder, seed=seed, clips_per_scene=clips_per_scene, progress=report)
    click.echo(f"written: {folder} (synthetic)")


@command.command("check")
@click.argument("name", type=click.Choice(sorted(DATASETS)))
@click.option("--root", metavar="DIR", type=click.Path(file_okay=False), help="The data set's folder.")
@click.option("--test-fold", type=int, default=1, show_default=True, help="Fold that is held out.")
def check(name: str, root: str | None, test_fold: int) -> None:
    """Read a data set's lists, look for every file, and print its three sets.

    \b
    Example:
      tinyasc data check esc10 --root ESC-50-master
    """  # noqa: D301
    table, split = open_data(Data(name=name, root=root, test_fold=test_fold))
    click.echo(
        f"{name}{' (synthetic)' if table.synthetic else ''}: {len(table.clips)} clips, {len(table.labels)} labels"
    )
    for part, clips in split:
        devices = Counter(c.device or "-" for c in clips)
        locations = len({c.location for c in clips})
        click.echo(
            f"  {part:<10} {len(clips):>6} clips, {locations} locations, devices {dict(sorted(devices.items()))}"
        )
