"""Cross-validation: every fold is tested once by a model that never heard it, for one or several seeds.

Each test fold is validated on another fold (the next one, cyclic), so nothing is chosen on the clips that are scored.
Every fold and seed is a run folder of its own: killed and run again, the finished ones are kept and the others resume.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from tinyasc.data import Clip, ClipTable
from tinyasc.data.extract import file_mark
from tinyasc.errors import InputError
from tinyasc.evaluate.clips import clip_names, measure
from tinyasc.evaluate.predictions import Predictions, join, load
from tinyasc.files import write_atomic
from tinyasc.training.backend import torch_model
from tinyasc.training.features import open_data, prepare
from tinyasc.training.fit import fit
from tinyasc.training.heard import Heard
from tinyasc.training.progress import progress
from tinyasc.training.recipe import Recipe, load_recipe
from tinyasc.training.run import Run
from tinyasc.training.start import check_start, heard_by
from tinyasc.training.waveforms import with_waveforms

RECORD = "folds.json"
TEST = "test-predictions.npz"


def cross_validate(
    recipe: Recipe,
    folder: Path,
    *,
    seeds: Sequence[int],
    tta: int = 1,
    tta_seed: int = 0,
    done: Callable[[Predictions], None] | None = None,
) -> Predictions:
    """Trains a recipe once per fold and seed, and joins the answers on the test folds.

    Args:
        recipe: with data and front end, without distillation. Its folds and seed are replaced.
        folder: holds one run folder per fold and seed.
        seeds: of the trainings.
        tta: test-time copies per clip.
        tta_seed: of the copies.
        done: called with each fold's predictions.

    Returns:
        Out-of-fold predictions: every clip with a fold once per seed; `about` is what `are_present` checks.

    Raises:
        InputError: a recipe that cannot be trained alone, data with a single test fold or with one that cannot be
            tested, a run to start from that heard a test clip, a folder of another recipe.
    """
    if recipe.data is None or recipe.front_end is None:
        raise InputError(
            f"{recipe.name}: a student's recipe, without data and front end; take its teacher's with --like RECIPE"
        )
    if recipe.distill is not None:
        raise InputError(f"{recipe.name}: distils from a teacher, one per fold; train it alone with --set distill=null")
    table, _ = open_data(recipe.data.model_copy(update={"validation_fold": None}))
    check_folds(table)
    for fold in table.folds:
        # A fold that cannot be trained is said before hours of training the others.
        test = table.split(test_fold=fold).test
        if recipe.training.start_from is not None:
            check_start(Path(recipe.training.start_from), clip_names(table, test), test)
    claim(folder, recipe)
    parts, weights = [], {}
    for seed in seeds:
        for fold in table.folds:
            run = Run(folder / f"fold{fold}-seed{seed}")
            parts.append(_one(recipe, table, run, fold, seed, tta, tta_seed))
            weights[run.path.name] = parts[-1].about["weights"]
            if done:
                done(parts[-1])
    return join(parts).with_about({"runs": weights, "clips": _state(table.clips)})


def fold_runs(folder: Path) -> list[Path]:
    """The run folders of a cross-validation; none where the folder holds something else."""
    return sorted(folder.glob("fold*-seed*")) if (folder / RECORD).is_file() else []


def are_present(about: dict[str, Any], folder: Path) -> bool:
    """Whether answers are those of all the runs that a folder holds, on clips that are as they were, or are gone.

    Raises:
        InputError: lists or audio that cannot be read.
    """
    runs = fold_runs(folder)
    if about.get("runs") != {run.name: _weights(run) for run in runs}:
        return False
    data = load_recipe(runs[0] / "recipe.yaml").data
    assert data is not None and data.root is not None, "a run of a cross-validation says where its data is"
    return not Path(data.root).exists() or about.get("clips") == _state(open_data(data)[0].clips)


def check_folds(table: ClipTable) -> None:
    """Refuses data sets that cannot be cross-validated by fold.

    Raises:
        InputError: one split, or too few folds for training, validation and test.
    """
    # Fold 0 is only ever trained on: a split of its own, also where a third part validates.
    if len(table.folds) < 2 or any(clip.fold == 0 for clip in table.clips):
        raise InputError(
            f"data set {table.name}: has one split and no folds to go through; train it with several "
            "training.seed and name the runs to `tinyasc evaluate RUN...`"
        )
    if len(table.folds) == 2 and table.validation_by == "fold":
        raise InputError(f"data set {table.name}: two folds leave none to train on beside test and validation")


def claim(folder: Path, recipe: Recipe) -> None:
    """Notes whose cross-validation a folder is, or checks it.

    Raises:
        InputError: the folder holds another recipe's, or something else.
    """
    file = folder / RECORD
    stated = {"name": recipe.name, "fingerprint": fold_fingerprint(recipe)}
    if file.is_file():
        try:
            found = json.loads(file.read_text(encoding="utf-8"))["fingerprint"]
        except (ValueError, KeyError, TypeError):
            raise InputError(f"{file}: damaged; delete {folder} or name another folder with --run") from None
        if found != stated["fingerprint"]:
            raise InputError(f"{folder}: holds the folds of another recipe; name another folder with --run")
        return
    if folder.is_dir() and (strange := [p.name for p in folder.iterdir() if not p.name.startswith(".")]):
        raise InputError(f"{folder}: holds {strange[0]} and no folds; name an empty or a new folder with --run")
    write_atomic(file, json.dumps(stated, indent=1))


def fold_fingerprint(recipe: Recipe) -> str:
    """Changes when what is trained changes; not with the fold, the seed or the data's folder."""
    return _neutral(recipe).fingerprint()


def _neutral(recipe: Recipe) -> Recipe:
    assert recipe.data is not None
    data = recipe.data.model_copy(update={"test_fold": 1, "validation_fold": None, "root": None})
    return recipe.model_copy(update={"data": data, "training": recipe.training.model_copy(update={"seed": 0})})


def _state(clips: Sequence[Clip]) -> str:
    """A hash that changes with what clips are and with their files, wherever these lie."""
    digest = hashlib.blake2b(digest_size=16)
    for clip in clips:
        mark = file_mark(clip.path)
        file = None if mark is None else (mark.size, mark.changed_ns)
        digest.update(repr((clip.path.name, clip.segment, clip.scene, clip.device, clip.location, file)).encode())
    return digest.hexdigest()


def _weights(run: Path) -> str | None:
    file = run / "model.safetensors"
    return hashlib.blake2b(file.read_bytes(), digest_size=16).hexdigest() if file.is_file() else None


def _one(recipe: Recipe, table: ClipTable, run: Run, fold: int, seed: int, tta: int, tta_seed: int) -> Predictions:
    """One fold of one seed: trained where it is not yet, and measured on its test clips."""
    assert recipe.data is not None
    data = recipe.data.model_copy(update={"test_fold": fold, "validation_fold": None})
    recipe = recipe.model_copy(update={"data": data, "training": recipe.training.model_copy(update={"seed": seed})})
    assert recipe.front_end is not None
    prepared = with_waveforms(prepare(data, recipe.front_end.record()), recipe)
    title = f"fold {fold}, seed {seed}"
    with run.locked():
        trained = fit(recipe, run, prepared, title=title)
        clips = prepared.split.test
        about = {"weights": _weights(run.path), "tta": tta, "tta_seed": tta_seed, "clips": _state(clips)}
        file = run.path / TEST
        if file.is_file():
            kept = load(file)
            if kept.about == about and kept.clips.tolist() == clip_names(table, clips):
                return kept
        heard = (heard_by(run.path) or Heard()).train_devices
        with progress(f"{title}: test") as report:
            found = measure(
                torch_model(trained), table, clips, heard=heard, fold=fold, run_seed=seed,
                tta=tta, seed=tta_seed, progress=report,
            )  # fmt: skip
        found = found.with_about(about)
        found.save_npz(file)
    return found
