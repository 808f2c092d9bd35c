"""Models measured for `tinyasc evaluate`: alone, folds and seeds together, and one against another."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import numpy as np

from tinyasc.cli.candidates import FILES, Candidate, base_data, candidates
from tinyasc.data import Clip, ClipTable, Split
from tinyasc.data.devices import DeviceList, read_responses
from tinyasc.errors import InputError
from tinyasc.evaluate import predictions as stored
from tinyasc.evaluate import summary
from tinyasc.evaluate.clips import measure, measure_views, probabilities
from tinyasc.evaluate.groups import group_scores
from tinyasc.evaluate.predictions import Predictions
from tinyasc.training.cross_validation import are_present, fold_runs
from tinyasc.training.features import open_data
from tinyasc.training.heard import Heard
from tinyasc.training.progress import progress
from tinyasc.training.recipe_parts import Data
from tinyasc.training.run import Run, relative

# What answers that are kept say of how they were made.
SETTINGS = ("data", "split", "tta", "seed")


@dataclass(frozen=True)
class Measured:
    """Answers of one model, or of one recipe's folds and seeds; no `candidate` where the answers alone are kept."""

    name: str
    predictions: Predictions
    record: dict[str, Any]
    candidate: Candidate | None = None
    views: Predictions | None = None


@dataclass(frozen=True)
class Settings:
    """What the command line says about measuring."""

    part: str
    test_fold: int | None
    tta: int
    seed: int
    devices: DeviceList | None
    device_root: Path | None


def measure_all(
    targets: Sequence[Path], name: str | None, root: str | None, settings: Settings, *, beside: bool = False
) -> list[Measured]:
    """Every model of every target, measured once; `beside` others, for which the data set's folder is named too."""
    for target in targets:
        if not target.exists():
            raise InputError(f"{target}: no such run or model file")
    kept = [target for target in targets if _keeps_answers(target, name, root, settings)]
    rest = tuple(target for target in targets if target not in kept)
    if kept and not rest and not beside and root is not None:
        raise InputError(f"{kept[0]}: holds answers alone, for which no audio is read; leave --root out")
    found = [stored_answers(target) for target in kept]
    if not rest:
        return found
    for target in rest:
        if not all(Run(run).finished for run in fold_runs(target)):
            raise InputError(f"{target}: not every fold is trained; run the same `tinyasc evaluate --folds` again")
    data = base_data(rest, name, root, settings.test_fold)
    tables: dict[str, tuple[ClipTable, Split]] = {}
    once: set[tuple[str, Path]] = set()
    listed = _unique_names([c for target in rest for c in candidates(target, named=len(targets) > 1)])
    todo: list[tuple[Candidate, Data, ClipTable, Split]] = []
    for candidate, own in [(c, c.data(data, settings.test_fold, settings.part)) for c in listed]:
        if (candidate.system, path := candidate.path.resolve()) in once:
            continue
        once.add((candidate.system, path))
        key = own.model_dump_json()
        if key not in tables:
            tables[key] = open_data(own)
        todo.append((candidate, own, *tables[key]))
    # All are checked before the first is measured, which may take minutes.
    for candidate, own, table, split in todo:
        check_unheard(candidate, own, table, split, settings.part)
        if settings.devices is not None:
            check_microphones(candidate, settings.devices, getattr(split, settings.part))
    return found + [_measure(*job, settings) for job in todo]


def check_unheard(candidate: Candidate, data: Data, table: ClipTable, split: Split, part: str) -> None:
    """Makes sure that a model is not measured on what it was trained on, under whatever name of the data set.

    Folds that are dealt by a hash of names move when files are added, and lists may be edited.

    Raises:
        InputError: clips or places of its training, or for the test set of its validation.
    """
    where = candidate.trained_on
    clips: tuple[Clip, ...] = getattr(split, part)
    if candidate.heard is None:
        if data.name != where.get("name"):
            return
        stated = where.get("split_blake2b")
        if stated is None:
            why = "does not say which clips it was trained on"
        elif stated != Heard.of(table, split).digest:
            why = f"was trained on other clips of {data.name} than the present lists name"
        else:
            return
        click.echo(f"{candidate.name}: {why}, so some of those measured may not be new to it", err=True)
        return
    if not (known := candidate.heard.known(table, clips, validation=part == "test")):
        return
    first = f"{len(known)} of {len(clips)} {part} clips ({known[0]}{', ...' if len(known) > 1 else ''})"
    if _folder(where.get("root")) != _folder(data.root):
        click.echo(
            f"{candidate.name}: {first} in {data.root} are named like clips, or come from places, that it was trained "
            "on; if they are the same recordings, the scores are too good",
            err=True,
        )
        return
    raise InputError(
        f"{candidate.name}: {first} or their places were in its training; the lists or files may have changed since: "
        "train again, or name clips that are new to it with --root"
    )


def _folder(root: str | None) -> Path | None:
    """The folder of a data set that is named by its folder, or by a list in it."""
    if root is None:
        return None
    path = Path(root).expanduser().resolve()
    return path.parent if path.is_file() else path


def check_microphones(candidate: Candidate, devices: DeviceList, clips: Sequence[Clip]) -> None:
    """Makes sure that a list's microphones can be called seen and unseen.

    Raises:
        InputError: training heard one that is kept for testing, or the clips are recorded through one already.
    """
    if known := [name for name in devices.stems("test") if name in candidate.devices_heard]:
        raise InputError(
            f"{candidate.name}: its training, or its teacher's, heard the microphone {known[0]} (in clips or by "
            f"augment.dirs), which the list {devices.name} keeps for testing; leave --devices out, or name a list "
            "without it"
        )
    recorded = {clip.device for clip in clips}
    if through := [name for name in devices.stems("train", "bank", "test") if name in recorded]:
        raise InputError(
            f"{candidate.name}: its clips are already recorded through {through[0]}, a microphone of {devices.name}; "
            "leave --devices out"
        )


def _unique_names(listed: list[Candidate]) -> list[Candidate]:
    """Models of different files under one name are called by their paths."""
    home: dict[str, set[Path]] = {}
    for c in listed:
        home.setdefault(c.name, set()).add(c.path.resolve())
    return [c if len(home[c.name]) == 1 else dataclasses.replace(c, name=str(relative(c.path))) for c in listed]


def _keeps_answers(target: Path, name: str | None, root: str | None, settings: Settings) -> bool:
    """Whether a folder's answers are those that are asked for; a cross-validation is measured anew for others.

    Raises:
        InputError: answers alone, made with other settings.
    """
    if not (target / stored.FILE).is_file():
        return False
    about = stored.load(target / stored.FILE).about
    asked = {"--split": ("split", settings.part), "--tta": ("tta", settings.tta)}
    if settings.tta > 1:
        asked["--seed"] = ("seed", settings.seed)
    if name is not None:
        asked["--data"] = ("data", name)
    other = [f"{option} {about.get(key)}" for option, (key, value) in asked.items() if about.get(key) != value]
    given = {"--test-fold": settings.test_fold, "--devices": settings.devices}
    more = [option for option, value in given.items() if value is not None]
    if fold_runs(target):
        return not other and not more and root is None and are_present(about, target)
    if not set(SETTINGS) <= set(about):
        raise InputError(f"{target}: its answers do not say how they were measured; measure their model again")
    if other:
        raise InputError(
            f"{target}: holds answers alone, measured with {', '.join(other)}; give the same, or name their run"
        )
    if more:
        raise InputError(
            f"{target}: holds answers alone, which {more[0]} cannot change; leave it out, or name their run"
        )
    return True


def stored_answers(folder: Path) -> Measured:
    """What a cross-validation or `--out` kept."""
    kept = stored.load(folder / stored.FILE)
    record = {"answers": str(folder / stored.FILE), **{key: kept.about[key] for key in SETTINGS}}
    return Measured(folder.name, kept, {**record, **summary.evaluate(kept)})


def _measure(candidate: Candidate, data: Data, table: ClipTable, split: Split, settings: Settings) -> Measured:
    clips: tuple[Clip, ...] = getattr(split, settings.part)
    common = {"fold": data.test_fold or 0, "run_seed": candidate.seed, "tta": settings.tta, "seed": settings.seed}
    # Read first, since a missing one should be said before minutes are spent.
    seen, unseen = _responses(settings, candidate.model.front_end.sample_rate)
    with progress(f"evaluate {candidate.name}") as report:
        found = measure(candidate.model, table, clips, heard=candidate.devices_heard, progress=report, **common)
    record: dict[str, Any] = {
        "data": data.name,
        "synthetic": table.synthetic,
        "split": settings.part,
        "test_fold": data.test_fold,
        "tta": settings.tta,
        "seed": settings.seed,
        "training_seed": candidate.seed,
        "parameters": candidate.parameters,
        "parameter_bytes": candidate.parameter_bytes,
        "file_bytes": candidate.file_bytes,
        "macs": candidate.macs,
        **summary.evaluate(found),
    }
    if data.groups and data.target == "scene":
        head = None
        if candidate.groups is not None and candidate.trained_on["groups"] == data.groups:
            with progress(f"evaluate {candidate.name}, groups") as report:
                head = probabilities(candidate.groups, clips, tta=settings.tta, seed=settings.seed, progress=report)
        record["groups"] = group_scores(found, data.groups, head)
    views = None
    if settings.devices is not None:
        with progress(f"evaluate {candidate.name} through {len(seen) + len(unseen)} microphones") as report:
            views = measure_views(candidate.model, table, clips, seen=seen, unseen=unseen, progress=report, **common)
        record["device_views"] = {"list": settings.devices.name, **summary.device_views(views)}
    return Measured(candidate.name, found, record, candidate, views)


def _responses(settings: Settings, rate: int) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Impulse responses of the microphones of training and of test; none without --devices."""
    if settings.devices is None or settings.device_root is None:
        return {}, {}
    lists = (settings.devices.train, settings.devices.test)
    seen, unseen = (read_responses(files, settings.device_root, rate) for files in lists)
    return seen, unseen


def pool(measured: Sequence[Measured]) -> list[Measured]:
    """The folds and seeds of one system together, where several were measured."""
    systems: dict[str, list[Measured]] = {}
    for m in measured:
        if m.candidate is not None:
            systems.setdefault(m.candidate.system, []).append(m)
    found = []
    for members in systems.values():
        cells = [(int(m.predictions.seeds[0]), int(m.predictions.folds[0])) for m in members]
        seeds, folds = sorted({s for s, _ in cells}), sorted({f for _, f in cells})
        if len(members) < 2:
            continue
        names = ", ".join(m.name for m in members)
        if len(set(cells)) < len(cells):
            click.echo(f"not scored together: {names}, since two of them have one seed and fold", err=True)
            continue
        if len(cells) < len(seeds) * len(folds):
            click.echo(f"not scored together: {names}, since not every seed has every fold", err=True)
            continue
        together = stored.join([m.predictions for m in members])
        record: dict[str, Any] = {"pooled": [m.name for m in members], "seeds": seeds, "folds": folds}
        record |= {key: members[0].record[key] for key in ("data", "synthetic", "split", "tta", "seed")}
        record |= summary.evaluate(together)
        parts = [m.views for m in members if m.views is not None]
        views = stored.join(parts) if parts else None
        if views is not None:
            record["device_views"] = {
                "list": members[0].record["device_views"]["list"], **summary.device_views(views)
            }  # fmt: skip
        found.append(Measured(f"{members[0].name} and {len(members) - 1} more", together, record, None, views))
    return found


def compare(
    measured: Sequence[Measured], against: Sequence[Path], name: str | None, root: str | None, settings: Settings
) -> list[dict[str, Any]]:
    """Paired bootstraps of every model against the one that --against names: a compression's deployed file."""
    plain = Settings(settings.part, settings.test_fold, settings.tta, settings.seed, None, None)
    others = measure_all(against, name, root, plain, beside=True)
    deployed = [m for m in others if m.name.endswith(FILES[1:])] or others
    if len(deployed) > 1:
        deployed = pool(deployed)
        if len(deployed) != 1:
            raise InputError(
                "--against: names several models that are not folds and seeds of one recipe; name one of them"
            )
    other = deployed[0]
    return [
        {"model": m.name, "against": other.name, **summary.compare(m.predictions, other.predictions)} for m in measured
    ]
