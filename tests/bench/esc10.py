"""ESC-10 out of fold: a plain CNN, three teachers, and int8 students of 128, 64 and 16 KB that learn from them.

    python tests/bench/esc10.py train-plain RUNS ESC-50-master [SEEDS]         # labels alone; what has to be beaten
    python tests/bench/esc10.py train-teachers RUNS ESC-50-master              # each on every fold
    python tests/bench/esc10.py compress RUNS ESC-50-master [SEEDS [BUDGET...]]     # 128KB 64KB 16KB
    python tests/bench/esc10.py variants RUNS ESC-50-master [SEEDS [VARIANT...]]    # one-teacher, labels, microphones
    python tests/bench/esc10.py microphones RUNS ESC-50-master MICIRP         # two students through MicIRP's responses
    python tests/bench/esc10.py published RUNS [BUDGET...]                        # one seed, the other protocol
    python tests/bench/esc10.py table RUNS                                     # what is there
    python tests/bench/esc10.py ship RUNS ESC-50-master FILE.tflite               # the model that comes with tinyasc

A killed command goes on. Honest protocol: a fold's models hear the other four (training.final) and the last epoch is
kept, so nothing is chosen on a test clip; recipes were chosen on validation folds. `published` is what is often printed
of this set: the epoch with the most test clips right. It trains the same student again, watched; its last epoch must be
the honest one to the bit. `ship` trains the student through microphones, and its teachers, on every clip of free
licence, once its answers are there to say what it is worth.
"""

from __future__ import annotations

import dataclasses
import io
import itertools
import json
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback

from tinyasc.compress.deploy import deploy, graph_features
from tinyasc.compress.live import live_teachers
from tinyasc.compress.teachers import in_order, load_teachers
from tinyasc.data.cache import load_features
from tinyasc.evaluate import metrics, predictions, summary
from tinyasc.evaluate.predictions import Predictions
from tinyasc.files import write_atomic
from tinyasc.frontend import normalize
from tinyasc.models import build
from tinyasc.training.classifier import Classifier
from tinyasc.training.features import cache_folder, class_indices, prepare
from tinyasc.training.fit import train_module
from tinyasc.training.run import Run
from tinyasc.training.waveforms import with_waveforms
from tinyasc_export import reference
from tinyasc_export.drift import quantize_input

FOLDS = (1, 2, 3, 4, 5)
BUDGETS = ("128KB", "64KB", "16KB")
PLAIN = "teachers/esc10_plain"
TEACHERS = ("teachers/esc10_attention", "teachers/esc10_split", "teachers/esc10_mfm")
STUDENT, THROUGH_MICROPHONES = "students/esc10_pooled", "students/esc10_microphones"
# Which student is taught by whom: all three; to see what they are worth, the first alone, or nobody but the labels; and
# the student that hears every other clip through a microphone.
VARIANTS: dict[str, tuple[str, tuple[str, ...]]] = {
    "": (STUDENT, TEACHERS),
    "one-teacher": (STUDENT, TEACHERS[:1]),
    "labels": (STUDENT, ()),
    "microphones": (THROUGH_MICROPHONES, TEACHERS),
}
# Their licence, CC Sampling+, is none of the two that the other 398 have (CC0 and CC BY).
NOT_FREE = ("1-40730-A-1", "2-96460-A-1")
MICROPHONES = ("", "microphones")  # variants that are asked through microphones; the last is shipped
COPIES = 10  # of test-time augmentation, each of which costs the model once more


def run(*command: str) -> None:
    """Runs a command of this environment and shows it."""
    print("$", shlex.join(command), flush=True)
    module = [sys.executable, "-m", "tinyasc.cli.main", *command[1:]]
    subprocess.run(module if command[0] == "tinyasc" else list(command), check=True)


def cross_validate(recipe: str, folder: Path, root: str, seeds: int) -> None:
    """One training per fold and seed on all clips but the fold's, and answers on these, plain and of copies."""
    settings = ("--root", root, "--seeds", str(seeds), "--run", str(folder), "--set", "training.final=true")
    run("tinyasc", "evaluate", "--folds", recipe, *settings)
    runs = sorted(folder.glob("fold*-seed*"))
    if not all(answers_file(one, COPIES).is_file() for one in runs):
        for one in runs:
            measure(one, one, root, COPIES)


def measure(model: Path, run_folder: Path, root: str, copies: int) -> None:
    """Answers of a model on its own test fold, kept in its run."""
    if not answers_file(run_folder, copies).is_file():
        out = str(run_folder / f"answers-{copies}")
        run("tinyasc", "evaluate", str(model), "--root", root, "--tta", str(copies), "--out", out)


def answers_file(run_folder: Path, copies: int) -> Path:
    """Where `measure` leaves answers; or, where a cross-validation left them, there."""
    if copies == 1 and (run_folder / "test-predictions.npz").is_file():
        return run_folder / "test-predictions.npz"
    found = sorted((run_folder / f"answers-{copies}").glob("*/predictions.npz"))
    return found[0] if found else run_folder / "none"


def compress(runs: Path, root: str, seeds: int, budgets: Sequence[str], variant: str = "") -> None:
    """The students of every budget and seed, fold by fold, each with its fold's teachers."""
    # Without any, data and front end are still the first one's.
    student, recipes = VARIANTS[variant]
    alone = () if recipes else ("--set", "distill=null")
    for seed in range(seeds):
        for budget in budgets:
            for fold in FOLDS:
                folder = student_folder(runs, budget, fold, seed, variant)
                if not (folder / "report.json").is_file():
                    teachers = [
                        part
                        for recipe in recipes or TEACHERS[:1]
                        for part in ("--teacher", str(taught(runs, recipe, fold)))
                    ]
                    settings = ("--set", f"training.seed={seed}", "--set", "training.final=true", "--root", root)
                    what = ("--budget", budget, "--student", student, *teachers, *settings, *alone)
                    run("tinyasc", "compress", *what, "--run", str(folder))
                for copies in (1, COPIES):
                    measure(folder / "model-int8.tflite", folder, root, copies)


def taught(runs: Path, recipe: str, fold: int) -> Path:
    """The run of a fold's teacher."""
    return runs / Path(recipe).name / f"fold{fold}-seed0"


def student_folder(runs: Path, budget: str, fold: int, seed: int, variant: str = "") -> Path:
    """The run of one compression."""
    return runs / "-".join(filter(None, ("student", budget, variant))) / f"fold{fold}-seed{seed}"


class BestOnTest(Callback):
    """Keeps the weights of the first epoch with the most test clips right: what honest work must not do."""

    def __init__(self, features: np.ndarray, labels: np.ndarray) -> None:
        self.features, self.labels = features, labels
        self.best: dict[str, Any] = {"right": -1, "weights": {}}

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Counts."""
        assert isinstance(pl_module, Classifier)
        module = pl_module.average or pl_module.module
        was = module.training
        module.eval()
        with torch.inference_mode():
            answers = np.concatenate([module(torch.from_numpy(x)).numpy() for x in np.array_split(self.features, 8)])
        module.train(was)
        right = int((answers.argmax(axis=1) == self.labels).sum())
        if right > self.best["right"]:
            self.best = {"right": right, "weights": {k: v.clone() for k, v in module.state_dict().items()}}

    def state_dict(self) -> dict[str, Any]:
        """For a training that is resumed."""
        return self.best

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """The best so far."""
        self.best = state_dict


def through_microphones(runs: Path, root: str, micirp: str) -> None:
    """Clips as they are, through the training list's microphones and through the test list's: means over folds."""
    print("| student of 128 KB, int8, seed 0 | clips | accuracy, % | log loss |\n|---|---|---|---|")
    for variant in MICROPHONES:
        for fold in FOLDS:
            out = microphone_folder(runs, variant, fold)
            if not (out / "evaluation.json").is_file():
                model = student_folder(runs, BUDGETS[0], fold, 0, variant) / "model-int8.tflite"
                where = ("--devices", "devices/micirp", "--device-root", micirp, "--out", str(out))
                run("tinyasc", "evaluate", str(model), "--root", root, *where)
        for view, (accuracy, log_loss) in microphone_scores(runs, variant).items():
            print(f"| {variant or 'clean clips alone'} | {view} | {100 * accuracy:.2f} | {log_loss:.3f} |")


def microphone_folder(runs: Path, variant: str, fold: int) -> Path:
    """Where `through_microphones` keeps its answers."""
    return runs / "mics" / variant / f"fold{fold}"


def microphone_scores(runs: Path, variant: str) -> dict[str, tuple[float, float]]:
    """Accuracy and log loss by view (clean, seen, unseen), means over folds, which have as many clips each."""
    kept = [json.loads((microphone_folder(runs, variant, fold) / "evaluation.json").read_text()) for fold in FOLDS]
    views = [content["models"][0]["device_views"] for content in kept]
    scores = {name: [(v[name]["accuracy"], v[name]["log_loss"]) for v in views] for name in ("clean", "seen", "unseen")}
    return {name: tuple(np.mean(folds, axis=0)) for name, folds in scores.items()}


def published(runs: Path, budget: str) -> None:
    """Trains the students of seed 0 again, watched, and keeps int8 answers of the best epoch on test and the last."""
    for fold in FOLDS:
        run_ = Run(runs / f"published-{budget}" / f"fold{fold}")
        if (run_.path / "answers.npz").is_file():
            continue
        trained = Run(student_folder(runs, budget, fold, 0)).load()
        recipe = trained.recipe
        assert recipe.data is not None and recipe.front_end is not None
        data = with_waveforms(prepare(recipe.data, recipe.front_end.record()), recipe)
        teachers = in_order(load_teachers([Run(taught(runs, one, fold)) for one in TEACHERS]))
        torch.manual_seed(recipe.training.seed)
        shape = data.front_end.shape
        facts = {"n_classes": len(data.labels), "n_mels": shape[1], "in_channels": shape[0], "n_frames": shape[2]}
        module = build(recipe.family, **facts, **recipe.model_options)
        test = load_features(data.split.test, data.front_end, cache_folder())
        x, y = normalize(test, data.front_end), class_indices(data.split.test, data.labels)
        watch = BestOnTest(x, y)
        live = live_teachers(recipe, data, teachers, None)
        with run_.locked():
            weights, _ = train_module(module, recipe, run_, data, teachers=live, callbacks=[watch])
            same = all(torch.equal(value, weights[name]) for name, value in trained.module.state_dict().items())
            assert same, f"{run_.path}: its last epoch is not that of the honest run"
            kept = {"labels": y}
            for name, values in (("best", watch.best["weights"]), ("last", weights)):
                module.load_state_dict(values)
                deployed = deploy(dataclasses.replace(trained, module=module.eval()), data.train.features)
                graph = deployed.int8_graph
                maps = np.moveaxis(graph_features(x, deployed.scale, deployed.offset), 1, -1)
                kept[name] = np.concatenate([reference.run(graph, quantize_input(graph, m[None])) for m in maps])
            buffer = io.BytesIO()
            np.savez(buffer, **kept)
            write_atomic(run_.path / "answers.npz", buffer.getvalue())


def ship(runs: Path, root: str, out: Path) -> None:
    """Trains teachers and a student of 128 KB on all clips but `NOT_FREE`, and copies its int8 file."""
    variant = MICROPHONES[-1]
    rated = joined(student_folder(runs, BUDGETS[0], FOLDS[0], 0, variant).parent, 1)
    if rated is None:
        sys.exit(f"{runs}: no student {variant!r} has answers of all folds; run variants and microphones first")
    every = ("data.test_fold=null", "training.final=true", f"data.leave_out={json.dumps(NOT_FREE)}")
    settings = [part for setting in every for part in ("--set", setting)]
    teachers = [runs / "shipped" / Path(recipe).name for recipe in TEACHERS]
    for recipe, folder in zip(TEACHERS, teachers, strict=True):
        run("tinyasc", "train", recipe, "--root", root, "--run", str(folder), *settings)
    student = VARIANTS[variant][0]
    folder = runs / "shipped" / Path(student).name
    said = json.dumps(shipped_about(rated, microphone_scores(runs, variant)))
    about = ("--set", f"about={said}", "--set", "training.final=true", "--root", root)
    what = ("--budget", BUDGETS[0], "--student", student, *(part for t in teachers for part in ("--teacher", str(t))))
    run("tinyasc", "compress", *what, *about, "--run", str(folder))
    shutil.copyfile(folder / "model-int8.tflite", out)


def shipped_about(rated: Predictions, heard: dict[str, tuple[float, float]]) -> dict[str, str]:
    """What the shipped file's card says beside what was measured on its own training clips."""
    seeds = [rated.where(rated.seeds == seed) for seed in np.unique(rated.seeds)]
    scores = [metrics.evaluate(one.probabilities, one.labels) for one in seeds]
    low, high = summary.evaluate(rated)["intervals"]["accuracy"]
    times = f"{len(seeds)} seed{'s' * (len(seeds) > 1)}"
    return {
        "estimate": f"cross-validation of the same recipe, int8, on ESC-10's five official folds, {times}: "
        f"accuracy {spread([100 * s['accuracy'] for s in scores], 2)} % (95 % interval {100 * low:.1f} to "
        f"{100 * high:.1f}), log loss {spread([s['log_loss'] for s in scores], 3)}, nothing chosen on a test clip. "
        f"Through 13 measured microphones, none of which it heard: {100 * heard['unseen'][0]:.1f} %, log loss "
        f"{heard['unseen'][1]:.3f}. This file was trained on all folds, so no clip of ESC-10 tests it",
        "licence": "the file: Apache-2.0, as tinyasc; what it was trained on: ESC-10, CC BY 3.0, 233 clips CC0 and 165 "
        "CC BY; its two clips under CC Sampling+ were left out; the microphones in its training are synthetic",
        "attribution": "ESC-10 by Karol J. Piczak (ESC: Dataset for Environmental Sound Classification, ACM Multimedia "
        "2015, doi 10.1145/2733373.2806390), of recordings by users of Freesound, named in ATTRIBUTION.md beside the "
        "file; the clips were read as 32 kHz copies",
        "use": "ten kinds of sound, one at a time, in a clip of five seconds; it has no class for anything else",
    }


def joined(folder: Path, copies: int) -> Predictions | None:
    """The answers of all folds of every seed that has them all."""
    parts: list[Predictions] = []
    for seed in range(100):
        files = [answers_file(folder / f"fold{fold}-seed{seed}", copies) for fold in FOLDS]
        if all(file.is_file() for file in files):
            parts += [predictions.load(file) for file in files]
    return predictions.join(parts) if parts else None


def systems(runs: Path, copies: int) -> Iterator[tuple[str, Predictions]]:
    """Every system whose answers are there."""
    teachers = []
    for recipe in (PLAIN, *TEACHERS):
        if (found := joined(runs / Path(recipe).name, copies)) is not None:
            yield Path(recipe).name, found
            teachers += [found] if recipe in TEACHERS else []
    if len(teachers) == len(TEACHERS):
        first = [answers.where(answers.seeds == 0) for answers in teachers]
        assert all((answers.clips == first[0].clips).all() for answers in first)
        mean = np.mean([answers.probabilities for answers in first], axis=0)
        yield "the three teachers' mean", dataclasses.replace(first[0], probabilities=mean)
    for budget, variant in itertools.product(BUDGETS, VARIANTS):
        folder = student_folder(runs, budget, FOLDS[0], 0, variant).parent
        if (found := joined(folder, copies)) is not None:
            yield f"{folder.name}, int8", found


def table(runs: Path) -> None:
    """Mean and standard deviation over seeds, interval, and the paired bootstrap against the plain CNN."""
    for copies in (1, COPIES):
        print(f"\n{'The clip alone' if copies == 1 else f'Mean of {copies} copies: MACs x {copies}'}\n")
        print("| system | seeds | accuracy, % | 95 % interval | log loss | against plain, points | p |")
        print("|---|---|---|---|---|---|---|")
        plain = None
        for name, found in systems(runs, copies):
            plain = found if name == Path(PLAIN).name else plain
            seeds = [found.where(found.seeds == seed) for seed in np.unique(found.seeds)]
            scores = [metrics.evaluate(one.probabilities, one.labels) for one in seeds]
            low, high = summary.evaluate(found)["intervals"]["accuracy"]
            row = [name, str(len(seeds)), spread([100 * s["accuracy"] for s in scores], 2)]
            row += [f"{100 * low:.1f} to {100 * high:.1f}", spread([s["log_loss"] for s in scores], 3)]
            row += ["", ""] if plain is None or found is plain else against(found, plain)
            print(f"| {' | '.join(row)} |")
    taught_by = {variant: joined(student_folder(runs, BUDGETS[0], 1, 0, variant).parent, 1) for variant in VARIANTS}
    for variant, found in taught_by.items():
        if variant and found is not None and taught_by[""] is not None:
            difference, p = against(taught_by[""], found)
            print(f"\n{BUDGETS[0]}, three teachers against {variant}: {difference} points, p {p}")
    for budget in BUDGETS:
        kept = [runs / f"published-{budget}" / f"fold{fold}" / "answers.npz" for fold in FOLDS]
        if all(file.is_file() for file in kept):
            folds = [np.load(file, allow_pickle=False) for file in kept]
            right = {
                key: np.concatenate([f[key].argmax(axis=1) == f["labels"] for f in folds]) for key in ("best", "last")
            }
            said = ", ".join(f"{key} epoch {100 * value.mean():.2f} %" for key, value in right.items())
            print(f"\n{budget} int8, one seed, epoch CHOSEN ON THE TEST FOLD (published protocol): {said}")


def against(found: Predictions, other: Predictions) -> list[str]:
    """Difference of accuracy in points with its interval, and p: paired bootstrap over recordings."""
    pair = summary.compare(found, other)["accuracy"]
    difference, least, most = (100 * pair[key] for key in ("difference", "low", "high"))
    return [f"{difference:+.2f} ({least:+.2f} to {most:+.2f})", f"{pair['p']:.4f}"]


def spread(values: list[float], digits: int) -> str:
    """Mean and standard deviation."""
    deviation = f" ± {np.std(values, ddof=1):.{digits}f}" if len(values) > 1 else ""
    return f"{np.mean(values):.{digits}f}{deviation}"


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["train-plain", runs, root, *seeds]:
            cross_validate(PLAIN, Path(runs) / Path(PLAIN).name, root, int(seeds[0]) if seeds else 3)
        case ["train-teachers", runs, root]:
            for recipe in TEACHERS:
                cross_validate(recipe, Path(runs) / Path(recipe).name, root, 1)
        case ["compress", runs, root]:
            compress(Path(runs), root, 3, BUDGETS)
        case ["compress", runs, root, seeds, *budgets]:
            compress(Path(runs), root, int(seeds), budgets or BUDGETS)
        case ["variants", runs, root, *more]:
            for variant in more[1:] or list(VARIANTS)[1:]:
                compress(Path(runs), root, int(more[0]) if more else 3, BUDGETS[:1], variant)
        case ["microphones", runs, root, micirp]:
            through_microphones(Path(runs), root, micirp)
        case ["published", runs, *budgets]:
            for budget in budgets or BUDGETS[:1]:
                published(Path(runs), budget)
        case ["ship", runs, root, out]:
            ship(Path(runs), root, Path(out))
        case ["table", runs]:
            table(Path(runs))
        case _:
            sys.exit(__doc__)
