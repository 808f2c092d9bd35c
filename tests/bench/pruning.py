"""Pruned against dense at equal bytes on ESC-10: the table of both, over folds and seeds.

    tinyasc train teachers/esc10 --fast --root ESC-50-master --set data.test_fold=FOLD --run RUNS/teacher-foldFOLD
    python tests/bench/pruning.py run ESC-50-master --runs RUNS [--family cp_mobile] [--width 16] [--fold 1 ...]
    python tests/bench/pruning.py table --runs RUNS

`run` first trains the teachers that are not there, as above; killed and run again, it goes on. 64 mels x 78 frames
(hop 2048). The budget is what the dense student of `--width` takes at int8, to the byte, so that the dense net fills
it; the pruned one begins twice as wide. Both train as long, with the same seeds and teacher's answers; the recipe keeps
the last epoch, so validation clips choose nothing here but which net `compress` keeps. `table` measures both nets of
every seed on the test fold, float32: mean and standard deviation over the seeds of one fold, or with several folds of
the means over folds.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import click
import numpy as np

from tinyasc.compress.costs import predict
from tinyasc.compress.narrow import deployed_graph
from tinyasc.data.cache import load_features
from tinyasc.evaluate import metrics
from tinyasc.frontend import normalize
from tinyasc.infer.runner import softmax
from tinyasc.models import FAMILIES, build
from tinyasc.training.features import cache_folder, class_indices, open_data
from tinyasc.training.fit import logits
from tinyasc.training.recipe import load_recipe
from tinyasc.training.recipe_parts import FrontEndPart
from tinyasc.training.run import Run

MELS, CLASSES = 64, 10
FRONT_END = FrontEndPart(sample_rate=32000, clip_seconds=5, n_fft=2048, hop_length=2048, n_mels=MELS).record()
AUGMENT = "{roll: true, gain_db: 6, time_mask: 10, freq_mask: 12, mixup_alpha: 0.3}"
runs_option = click.option("--runs", type=click.Path(path_type=Path), default=Path("runs/pruning"), show_default=True)


@click.group(help=__doc__.split("\n")[0])
def main() -> None:
    """The two commands."""


@main.command()
@click.argument("root", type=click.Path(exists=True))
@runs_option
@click.option("--family", type=click.Choice(["cp_mobile", "sepconv_ca", "amfm"]), default="cp_mobile")
@click.option("--width", type=float, default=16, help="Of the dense student, in the family's option.")
@click.option("--fold", "folds", type=click.IntRange(1, 5), multiple=True, default=(1,), help="Test fold; repeatable.")
@click.option("--importance", type=click.Choice(["magnitude", "taylor", "bn_scale"]), default="magnitude")
@click.option("--scope", type=click.Choice(["layers", "global"]), default="layers")
@click.option("--seeds", type=int, default=3)
@click.option("--epochs", type=int, default=60, help="Of the wide student; the dense one trains for 100/60 as many.")
@click.option("--teacher-epochs", type=click.IntRange(min=6), default=60)
def run(
    root: str,
    runs: Path,
    family: str,
    width: float,
    folds: tuple[int, ...],
    importance: str,
    scope: str,
    seeds: int,
    epochs: int,
    teacher_epochs: int,
) -> None:
    """Trains both sides of every fold."""
    option = FAMILIES[family].width.option
    width = int(width) if isinstance(FAMILIES[family].width.step, int) else width
    recipe = load_recipe(f"students/{family}", [f"model.{option}={width}"])
    module = build(family, n_classes=CLASSES, n_mels=MELS, **recipe.model_options)
    costs = predict(deployed_graph(module, FRONT_END.shape), FRONT_END, [str(i) for i in range(CLASSES)], "int8")
    budget = costs.parameter_bytes
    for fold in folds:
        teacher = runs / f"teacher-fold{fold}"
        tinyasc("train", "teachers/esc10", "--fast", "--root", root, "--run", teacher,
                "--set", f"data.test_fold={fold}", "--set", f"training.epochs={teacher_epochs}")  # fmt: skip
        steps = max(1, epochs // 12)
        training = f"{{epochs: {epochs}, batch_size: 32, lr: 2.0e-3, weight_decay: 1.0e-4, select: last}}"
        narrow = (
            f"{{importance: {importance}, scope: {scope}, from_width: {2 * width}, steps: 3, epochs: {steps}, "
            f"final_epochs: {epochs * 2 // 3 - 2 * steps}, seeds: {seeds}}}"
        )
        tinyasc("compress", "--budget", budget, "--teacher", teacher, "--student", f"students/{family}",
                "--run", runs / f"{family}-{width}-{importance}-{scope}-fold{fold}", "--set", f"training={training}",
                "--set", f"narrow={narrow}", "--set", f"model.{option}={width}",
                "--set", f"augment={AUGMENT}")  # fmt: skip


def tinyasc(*args: object) -> None:
    command = [sys.executable, "-m", "tinyasc.cli.main", *map(str, args)]
    print(" ".join(command), flush=True)
    subprocess.run(command, check=True)


@main.command()
@runs_option
def table(runs: Path) -> None:
    """The rows that are there."""
    found: dict[str, dict[int, Path]] = {}
    for report in sorted(runs.glob("*-fold*/report.json")):
        name, fold = report.parent.name.rsplit("-fold", 1)
        found.setdefault(name, {})[int(fold)] = report.parent
    print("| student | net | int8 bytes | MMAC | folds x seeds | accuracy | log loss | kept on validation |")
    print("|---|---|---|---|---|---|---|---|")
    for name, folds in found.items():
        reports = {fold: json.loads((p / "report.json").read_text())["narrow"] for fold, p in folds.items()}
        for kind, last in (("pruned", f"step-{next(iter(reports.values()))['settings']['steps']}"), ("dense", ".")):
            scores, sizes, costs = [], [], []
            for fold, place in folds.items():
                nets = [Run(p / last) for p in sorted((place / "narrow").glob(f"{kind}-seed*"))]
                scores.append([test_scores(net, fold) for net in nets])
                sizes += reports[fold][kind]["parameter_bytes"]
                costs += [macs / 1e6 for macs in reports[fold][kind]["macs"]]
            by_seed = np.mean(scores, axis=0)  # (seeds, 2)
            mean, sd = by_seed.mean(axis=0), by_seed.std(axis=0, ddof=1) if len(by_seed) > 1 else (np.nan, np.nan)
            kept = sum(report["kept"] == kind for report in reports.values())
            print(
                f"| {name} | {kind} | {min(sizes):,}-{max(sizes):,} | {min(costs):.2f}-{max(costs):.2f} "
                f"| {len(folds)} x {len(by_seed)} | {mean[0]:.2f} +- {sd[0]:.2f} % | {mean[1]:.3f} +- {sd[1]:.3f} "
                f"| {kept} of {len(folds)} |"
            )


def test_scores(net: Run, fold: int) -> tuple[float, float]:
    """Accuracy in per cent and log loss on the test fold."""
    trained = net.load()
    assert trained.recipe.data is not None and trained.recipe.data.test_fold == fold
    clips, split = open_data(trained.recipe.data)
    mel = load_features(split.test, trained.front_end, cache_folder())
    answers = softmax(logits(trained, normalize(mel, trained.front_end)))
    scores = metrics.evaluate(answers, class_indices(split.test, clips.labels))
    return 100 * scores["accuracy"], scores["log_loss"]


if __name__ == "__main__":
    main()
