"""`tinyasc train`: trains a recipe in a run folder, and resumes there."""

from __future__ import annotations

from pathlib import Path

import click

from tinyasc.cli.table import print_recipes
from tinyasc.errors import InputError
from tinyasc.files import write_atomic
from tinyasc.training.catalogue import catalogue
from tinyasc.training.distributed import connected, first_here_first, rank
from tinyasc.training.features import DEMO_ROOT, open_data, prepare
from tinyasc.training.fit import fit
from tinyasc.training.recipe import Recipe, load_recipe
from tinyasc.training.recipe_parts import Data
from tinyasc.training.run import RUNS, Run
from tinyasc.training.waveforms import with_waveforms

DEFAULT_RECIPE = "teachers/demo"
CLIP = Path("clip.wav")


@click.command("train")
@click.argument("recipe", required=False)
@click.option(
    "--data",
    "data_name",
    metavar="NAME",
    help="Data set; `tinyasc data list` names them [default: the recipe's].",
)
@click.option("--root", metavar="DIR", type=click.Path(), help="The data set's folder, or for csv the file.")
@click.option(
    "--set",
    "overrides",
    metavar="PART.KEY=VALUE",
    multiple=True,
    help="Overrides one value of the recipe; repeatable.",
)
@click.option(
    "--run",
    "folder",
    metavar="DIR",
    type=click.Path(path_type=Path, file_okay=False),
    help="Run folder [default: runs/NAME-FINGERPRINT].",
)
@click.option("--fast", is_flag=True, help="Take the recipe's quick variant, for two cores.")
@click.option(
    "--list",
    "list_recipes",
    is_flag=True,
    help="List the recipes that come with tinyasc: family, size, published figure.",
)
def command(
    recipe: str | None,
    data_name: str | None,
    root: str | None,
    overrides: tuple[str, ...],
    folder: Path | None,
    fast: bool,
    list_recipes: bool,
) -> None:
    """Train a model by a recipe.

    RECIPE is a YAML file or the name of a shipped one; without it a small teacher is trained on synthetic scenes, which
    are generated here, and clip.wav, one of their test clips, is left to try. The same command run again resumes where
    it was killed. Under torchrun its processes share every batch.

    \b
    Examples:
      tinyasc train
      tinyasc train --list
      tinyasc train teachers/esc10 --root ESC-50-master
      tinyasc train teachers/esc10 --root ESC-50-master --fast
      tinyasc train my.yaml --set training.epochs=300 --set training.seed=1
    """  # noqa: D301 (click reads the backspace)
    if list_recipes:
        print_recipes(catalogue())
        return
    with connected():
        _train(recipe, data_name, root, overrides, folder, fast)


def _train(
    recipe: str | None,
    data_name: str | None,
    root: str | None,
    overrides: tuple[str, ...],
    folder: Path | None,
    fast: bool,
) -> None:
    for override in overrides:
        part = override.partition("=")[0].partition(".")[0]
        if part in ("qat", "calibration"):
            raise InputError(f"--set {override}: {part} belongs to quantisation; give it to `tinyasc compress`")
    if recipe is None:
        _say(f"recipe: {DEFAULT_RECIPE} (default)", err=True)
    loaded = with_data(load_recipe(recipe or DEFAULT_RECIPE, overrides, fast=fast, data=data_name), data_name, root)
    if loaded.data is None or loaded.front_end is None:
        raise InputError(
            f"{recipe}: a student's recipe, without data and front end; use it with `tinyasc compress --student`"
        )
    run = Run(folder or Path(RUNS) / f"{loaded.name}-{loaded.fingerprint()}")
    _say(f"run: {run.path}{' (finished before)' if run.finished else ''}", err=True)
    # Before the run folder is made: a data set that cannot be used leaves nothing behind.
    with first_here_first():
        data = with_waveforms(prepare(loaded.data, loaded.front_end.record()), loaded)
    if len(data.sample_rates) > 1:
        kinds = ", ".join(f"{rate} Hz ({n} files)" for rate, n in sorted(data.sample_rates.items()))
        _say(f"sample rates: mixed: {kinds}; every file is resampled to {data.front_end.sample_rate} Hz", err=True)
    with run.locked():
        trained = fit(loaded, run, data)
    synthetic = " (synthetic scenes)" if trained.synthetic else ""
    scores = trained.validation
    if loaded.training.final:
        told = f"on training and validation clips, so without validation; training loss {scores['train_loss']:.3f}"
    else:
        told = f"validation accuracy {scores['val_accuracy']:.3f}, log loss {scores['val_log_loss']:.3f}"
    _say(f"trained: {run.path}, {told}{synthetic}")
    if loaded.data.name == "demo" and loaded.data.test_fold is not None and rank() == 0:
        leave_clip(loaded.data)


def _say(line: str, *, err: bool = False) -> None:
    # One of torchrun's processes speaks for all.
    if rank() == 0:
        click.echo(line, err=err)


def with_data(recipe: Recipe, name: str | None, root: str | None) -> Recipe:
    """The recipe, loaded for that data set, with what the command line says of it.

    Raises:
        InputError: `--set data.name` names another one.
    """
    data = recipe.data
    if name is not None and data is None:
        data = Data(name=name)
    if name is not None and data is not None and name != data.name:
        raise InputError(f"--data {name}: --set data.name={data.name} names another; leave one of them out")
    if data is None:
        return recipe
    root = root or data.root or (str(DEMO_ROOT) if data.name == "demo" else None)
    # Absolute, so that the run can be measured from any folder.
    where = None if root is None else str(Path(root).expanduser().absolute())
    return recipe.model_copy(update={"data": data.model_copy(update={"root": where})})


def leave_clip(data: Data) -> None:
    """Copies the first test clip to clip.wav, unless a file of that name is there."""
    if CLIP.exists():
        click.echo(f"{CLIP} is there already and is left as it is", err=True)
        return
    _, split = open_data(data)
    write_atomic(CLIP, split.test[0].path.read_bytes())
    click.echo(f"try: tinyasc compress --budget 128KB, then tinyasc infer {CLIP} (synthetic, {split.test[0].scene})")
