"""Every variant of the seed systems on real audio: ESC-10 through three training devices and unseen microphones.

    tinyasc data through esc10 --root ESC-50-master --devices devices/micirp_three --device-root MICIRP \\
        --out esc10-three
    python tests/bench/systems.py train RUNS esc10-three [PATTERN]     # what is not there yet; a killed command goes on
    python tests/bench/systems.py command RUNS esc10-three PATTERN     # the commands of some rows, to run by hand
    python tests/bench/systems.py time RUNS esc10-three                # four epochs of each, one after another
    python tests/bench/systems.py table RUNS                           # the rows that are there
    python tests/bench/systems.py folds RUNS esc10-three SEEDS [PATTERN]   # `DEEP`'s rows on every fold

One fold and one seed (or all folds), and for all rows the same features, augmentation, optimiser and number of epochs,
so that rows differ in what the papers' tables vary and in nothing else. Widths are small enough for two cores (see
`ROWS`).
"""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from devices import parts

from tinyasc.training.journal import lines
from tinyasc.training.run import Run

GROUPS = (
    "{animal: [dog, rooster, crying_baby, sneezing], nature: [rain, sea_waves, crackling_fire], "
    "machine: [clock_tick, helicopter, chainsaw]}"
)
SAME = (
    "front_end={sample_rate: 32000, clip_seconds: 5, n_fft: 2048, hop_length: 2048, n_mels: 64}",
    "training={epochs: 30, batch_size: 32, lr: 2.0e-3, weight_decay: 1.0e-4, warmup_epochs: 2, select: last}",
    "augment={roll: true, freq_mask: 8, time_mask: 10}",
)
DEVICES = ("clean", "IR_AKGD12", "Amperite_RA")


@dataclass(frozen=True)
class Row:
    """One trained model: where it stands in the table, its recipe, and what is set beside `SAME`."""

    system: str
    variant: str
    recipe: str
    sets: tuple[str, ...] = ()
    data: str = ""

    @property
    def folder(self) -> str:
        return re.sub(r"[^a-z0-9]+", "-", f"{self.system} {self.variant}".lower()).strip("-")

    def answers(self, runs: Path) -> Path:
        return runs / self.folder / "answers" / self.folder / "predictions.npz"

    def train(self, runs: Path, root: Path) -> list[str]:
        run = ["--root", str(root), "--run", str(runs / self.folder)]
        return ["tinyasc", "train", self.recipe, *run, *self.overrides(runs)]

    def cross_validate(self, runs: Path, root: Path, seeds: str) -> list[str]:
        run = ["--root", str(root), "--run", str(runs / f"folds-{self.folder}"), "--seeds", seeds]
        return ["tinyasc", "evaluate", "--folds", self.recipe, *run, *self.overrides(runs)]

    def overrides(self, runs: Path) -> list[str]:
        data = f"data={{name: csv{self.data}}}"
        return [f"--set={s.replace('RUNS', str(runs))}" for s in (data, *SAME, "distill=null", *self.sets)]


def s1() -> Iterator[Row]:
    for trunk, heads in (
        ("baseline", ("flatten", "max", "average", "attention")),
        ("no_pooling", ("max", "average", "roi", "attention", "roi_attention")),
        ("atrous", ("max", "average", "roi", "attention", "roi_attention")),
    ):
        for head in heads:
            model = f"model={{family: atrous_cnn, trunk: {trunk}, head: {head}, base_channels: 8}}"
            yield Row("S1", f"{trunk}, {head}", "teachers/attention_cnn", (model,))


def s2() -> Iterator[Row]:
    blocks = ("relu", "relu_cbam", "leaky_relu", "leaky_relu_cbam", "mfm", "mfm_cbam", "amfm")
    for block in blocks:
        yield amfm(block, block=block)
    grouped = f", groups: {GROUPS}"
    weights = "tasks={scene_weight: 5}"
    yield amfm("groups alone", data=f"{grouped}, target: group")
    yield amfm("pre-training on groups", "training.start_from=RUNS/s2-groups-alone")
    for scheme in ("conventional", "extended", "sequential_groups_first", "sequential_scenes_first"):
        yield amfm(f"{scheme}, 1:5", weights, scheme=scheme, data=grouped)
    for ratio in (1, 2, 3, 4):
        yield amfm(f"extended, 1:{ratio}", f"tasks={{scene_weight: {ratio}}}", scheme="extended", data=grouped)
    yield amfm("extended, GradNorm", "tasks={balance: gradnorm}", scheme="extended", data=grouped)
    joint = "extended, joint_prediction: true"
    yield amfm("extended, 1:5, joint prediction", weights, scheme=joint, data=grouped)


def amfm(variant: str, *sets: str, block: str = "amfm", scheme: str = "none", data: str = "") -> Row:
    model = f"model={{family: amfm_net, block: {block}, scheme: {scheme}, channels_multiplier: 0.5}}"
    return Row("S2", variant, "teachers/amfm_net", (model, "tasks={}", *sets), data)


def others() -> Iterator[Row]:
    net = "model={family: split_resnet, base_channels: 8}"
    yield Row("S3", "mono, deltas, split", "teachers/split_resnet", (net, "front_end.deltas=2"))
    yield Row("S3", "mono, split", "teachers/split_resnet", (net,))
    yield Row(
        "S3", "mono, deltas, not split", "teachers/split_resnet", (net[:-1] + ", split: false}", "front_end.deltas=2")
    )
    for attention in ("true", "false"):
        net = f"model={{family: sepconv_ca, base_channels: 32, attention: {attention}}}"
        yield Row(
            "S4", "coordinate attention" if attention == "true" else "no attention", "students/sepconv_ca", (net,)
        )
    for device in DEVICES:
        net = "model={family: atrous_cnn, trunk: atrous, head: attention, base_channels: 8}"
        yield Row("S5", f"single device {device}", "teachers/attention_cnn", (net,), f", devices: [{device}]")
    for strategy in ("teacher_forcing", "multi_task"):
        net = f"model={{family: caa_net, trunk: atrous, head: attention, strategy: {strategy}, base_channels: 8}}"
        yield Row("S5", strategy.replace("_", " "), "teachers/caa_net", (net,))
    yield Row("peer", "CP-Mobile", "students/cp_mobile", ("model={family: cp_mobile, base_channels: 16}",))
    yield Row("peer", "BC-ResNet-ASC", "teachers/bc_resnet", ("model={family: bc_resnet, base_channels: 16}",))
    yield Row("peer", "TF-SepNet", "students/tf_sepnet", ("model={family: tf_sepnet, base_channels: 16}",))


ROWS = (*s1(), *s2(), *others())
# Joined by `tinyasc evaluate --fuse`: the scenes' run, and one that was trained on groups alone.
FUSED = ("s2-amfm", "s2-groups-alone")
DEEP = ("s1-baseline-attention", "s1-atrous-attention", "s5-multi-task", "s2-extended-1-5")


def train(runs: Path, root: Path, rows: list[Row]) -> None:
    for row in rows:
        folder = runs / row.folder
        if not row.answers(runs).is_file():
            run_command(row.train(runs, root))
            run_command(["tinyasc", "evaluate", str(folder), "--out", str(folder / "answers")])


def time(runs: Path, root: Path, row: Row) -> None:
    """Trains a row afresh for four epochs, so that all rows' seconds are of one sitting."""
    if seconds(runs, row) is None:
        command = row.train(runs, root)
        command[command.index("--run") + 1] = str(timing(runs, row))
        run_command([*command, "--set=training.epochs=4"])


def timing(runs: Path, row: Row) -> Path:
    return runs / "timing" / row.folder


def seconds(runs: Path, row: Row) -> float | None:
    """Median of the timed epochs after the first, which warms up; None where they are not all there."""
    journal = timing(runs, row) / "metrics.jsonl"
    epochs = [line["seconds"] for line in lines(journal)] if journal.is_file() else []
    return float(np.median(epochs[1:])) if len(epochs) == 4 else None


def fuse(runs: Path) -> None:
    scenes, groups = (runs / name for name in FUSED)
    if not fused_answers(runs).is_file() and all((run / "answers").is_dir() for run in (scenes, groups)):
        run_command(["tinyasc", "evaluate", str(scenes), "--fuse", str(groups), "--out", str(scenes / "fused")])


def fused_answers(runs: Path) -> Path:
    return runs / FUSED[0] / "fused" / "-x-".join(FUSED) / "predictions.npz"


def run_command(command: list[str]) -> None:
    print("$", shlex.join(command), flush=True)
    subprocess.run([str(Path(sys.executable).with_name(command[0])), *command[1:]], check=True)


def accuracies(answers: dict[str, np.ndarray]) -> dict[str, float]:
    """Per cent right on clean clips, seen and unseen microphones, where there are any."""
    right = answers["probabilities"].argmax(axis=1) == answers["labels"]
    return {name: 100 * right[rows].mean() for name, rows in parts(answers).items() if rows.any()}


def table(runs: Path) -> None:
    print("| system | variant | parameters | s per epoch | clean | seen | unseen |\n|---|---|---|---|---|---|---|")
    for row in ROWS:
        folder = runs / row.folder
        if not row.answers(runs).is_file():
            continue
        answers = dict(np.load(row.answers(runs), allow_pickle=False))
        epoch = "-" if (found := seconds(runs, row)) is None else f"{found:.2f}"
        print(f"| {row.system} | {row.variant} | {parameters(folder):,} | {epoch} | {shown(answers)} |")
    if fused_answers(runs).is_file():
        size = sum(parameters(runs / name) for name in FUSED)
        answers = dict(np.load(fused_answers(runs), allow_pickle=False))
        print(f"| S2 | {' fused with '.join(FUSED)} | {size:,} | - | {shown(answers)} |")


def parameters(folder: Path) -> int:
    return sum(p.numel() for p in Run(folder).load().module.parameters())


def shown(answers: dict[str, np.ndarray]) -> str:
    scores = accuracies(answers)
    return " | ".join(f"{scores[name]:.1f}" if name in scores else "-" for name in ("clean", "seen", "unseen"))


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["train" | "time" | "command" as what, runs, root, *pattern]:
            chosen = [row for row in ROWS if re.search(*(pattern or ["."]), row.folder)]
            if what == "train":
                train(Path(runs), Path(root), chosen)
                fuse(Path(runs))
            elif what == "time":
                for row in chosen:
                    time(Path(runs), Path(root), row)
            else:
                print(*(shlex.join(row.train(Path(runs), Path(root))) for row in chosen), sep="\n")
        case ["folds", runs, root, seeds, *pattern]:
            for row in ROWS:
                if row.folder in DEEP and re.search(*(pattern or ["."]), row.folder):
                    run_command(row.cross_validate(Path(runs), Path(root), seeds))
        case ["table", runs]:
            table(Path(runs))
        case _:
            sys.exit(__doc__)
