"""`tinyasc data`: names the data sets, makes the synthetic one, and checks a data set's lists and files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

from tinyasc.cli.data_show import show
from tinyasc.cli.device_list import shipped_or_own
from tinyasc.data import DATASETS, load_table, split_table
from tinyasc.data.check import audio, counts
from tinyasc.data.devices import load_device_list
from tinyasc.data.microphones import write_devices
from tinyasc.data.scenes import write_scenes
from tinyasc.errors import InputError
from tinyasc.training.features import open_data
from tinyasc.training.progress import progress
from tinyasc.training.recipe_parts import Data


@click.group("data")
def command() -> None:
    """List, make, check or draw data sets.

    \b
    Examples:
      tinyasc data list
      tinyasc data demo scenes/
      tinyasc data check esc10 --root ESC-50-master
      tinyasc data show clip.wav
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


@command.command("list")
@click.option("--json", "as_json", is_flag=True, help="One JSON object per data set, for scripts.")
def list_(as_json: bool) -> None:
    """List the data sets that a recipe or --data can name, with their official numbers of clips.

    \b
    Example:
      tinyasc data list
    """  # noqa: D301
    for name, data_set in DATASETS.items():
        train, test = data_set.official or (None, None)
        if as_json:
            about = {"about": data_set.about, "train": train, "test": test, "unchecked": data_set.unchecked}
            click.echo(json.dumps({"name": name, **about}))
            continue
        numbers = "" if train is None or test is None else f": {train:,} train, {test:,} test"
        unchecked = f" ({data_set.unchecked})" if data_set.unchecked else ""
        click.echo(f"{name:<11} {data_set.about}{numbers}{unchecked}")


@command.command("through")
@click.argument("name", type=click.Choice(sorted(DATASETS)), metavar="NAME")
@click.option("--root", metavar="DIR", required=True, type=click.Path(), help="The data set's folder.")
@click.option(
    "--devices", default="devices/micirp", show_default=True, metavar="LIST", help="YAML list of microphones."
)
@click.option(
    "--device-root",
    required=True,
    metavar="DIR",
    type=click.Path(path_type=Path, exists=True, file_okay=False),
    help="Folder of their impulse responses.",
)
@click.option(
    "--rate", type=click.IntRange(1000, 655350), default=32000, show_default=True, help="Sample rate to write, Hz."
)
@click.option("--out", required=True, metavar="DIR", type=click.Path(path_type=Path, file_okay=False), help="Where to.")
def through(name: str, root: str, devices: str, device_root: Path, rate: int, out: Path) -> None:
    """Write a data set as several devices would have recorded it: each clip clean and through two microphones.

    One copy goes through a microphone of the list's `train`, one through one of its `test`, which is never trained on.
    With one official split only its test clips go through the latter. A set of several devices is refused. Train on the
    result with --set data.name=csv; its bank.txt is for augment.dirs. A killed command goes on.

    \b
    Examples:
      tinyasc data through esc10 --root ESC-50-master --device-root MICIRP --out esc10-devices
      tinyasc train teachers/esc10 --set data.name=csv --root esc10-devices
    """  # noqa: D301
    table, chosen = load_table(name, root), load_device_list(shipped_or_own(devices))
    with progress("through microphones") as report:
        written = write_devices(table, chosen, device_root, out, sample_rate=rate, progress=report)
    click.echo(f"written: {written}")


@command.command("check")
@click.argument("name", type=click.Choice(sorted(DATASETS)), metavar="NAME")
@click.option("--root", metavar="DIR", type=click.Path(), help="The data set's folder, or for csv the file.")
@click.option("--test-fold", type=int, default=1, show_default=True, help="Fold that is held out.")
@click.option("--lists-only", is_flag=True, help="Read the lists and look at no audio file.")
@click.option("--json", "as_json", is_flag=True, help="All counts as one JSON object, for scripts.")
def check(name: str, root: str | None, test_fold: int, lists_only: bool, as_json: bool) -> None:
    """Read a data set's lists, look at every file, and print what there is.

    NAME is one of `tinyasc data list`. Clips are counted per set, scene and device; audio files that are missing or
    unreadable are counted and the first few named, with exit code 2.

    \b
    Examples:
      tinyasc data check esc10 --root ESC-50-master
      tinyasc data check tau2022 --root TAU-urban-acoustic-scenes-2022-mobile-development --json
    """  # noqa: D301
    data = Data(name=name, root=root, test_fold=test_fold)
    if name == "demo":
        # Generated where it is not there.
        table, split = open_data(data)
    elif root is None:
        raise InputError(f"data set {name}: where is it? name its folder with --root DIR")
    else:
        table = load_table(name, root, audio=False)
        split = split_table(table, test_fold=test_fold) if table.labels else None
    found = counts(table, split)
    if not lists_only:
        with progress("audio files") as report:
            found["audio"] = audio(table.clips, report)
    if as_json:
        click.echo(json.dumps(found))
    else:
        _print(found)
    _refuse(found)


def _print(found: dict[str, Any]) -> None:
    synthetic = " (synthetic)" if found["synthetic"] else ""
    files = "" if found["files"] == found["clips"] else f" in {found['files']} files"
    click.echo(f"{found['data']}{synthetic}: {found['clips']} clips{files}, {len(found['labels'])} labels")
    for part, of in found["sets"].items():
        devices = ", ".join(f"{device} {n}" for device, n in of["devices"].items()) or "none named"
        click.echo(f"  {part:<10} {of['clips']:>6} clips, {of['locations']} locations, devices: {devices}")
    if found["labels"]:
        width = max(map(len, found["labels"]))
        click.echo(f"  {'':<{width}}" + "".join(f" {part:>10}" for part in found["sets"]))
        for label in found["labels"]:
            numbers = "".join(f" {of['scenes'].get(label, 0):>10}" for of in found["sets"].values())
            click.echo(f"  {label:<{width}}{numbers}")
    if found["unseen_devices"]:
        click.echo(f"  devices that only the test clips have: {', '.join(found['unseen_devices'])}")
    for note in found["notes"]:
        click.echo(f"  note: {note}")
    if "audio" not in found:
        return
    for what, unit in (("sample_rates", " Hz"), ("channels", " channel(s)")):
        kinds = [f"{value}{unit} ({n} files)" for value, n in found["audio"][what].items()]
        mixed = "mixed: " if len(kinds) > 1 else ""
        end = "; every file is resampled to the front end's rate" if mixed and what == "sample_rates" else ""
        click.echo(f"  {what.replace('_', ' ')}: {mixed}{', '.join(kinds) or 'none'}{end}")


def _refuse(found: dict[str, Any]) -> None:
    """Ends with exit code 2 where audio files cannot be used."""
    mend = {
        "missing": "; unpack every part of the audio, or download the rest",
        "unreadable": "",  # each says so itself
        "too_short": "; copy or download them again",
    }
    lines = []
    for kind, how in mend.items():
        bad = found.get("audio", {}).get(kind, {"count": 0, "first": []})
        if bad["count"]:
            more = ", ..." if bad["count"] > len(bad["first"]) else ""
            name = kind.replace("_", " ")
            lines.append(f"{bad['count']} of {found['files']} audio files {name}: {', '.join(bad['first'])}{more}{how}")
    if lines:
        raise InputError(f"data set {found['data']}: " + "; ".join(lines))
