"""Throughput of `tinyasc.training` beside a bare PyTorch loop that does the same work, on one thread.

    taskset -c 1 python tests/bench/training.py [--repeats 5] [--epochs 4]

The demo's student (separable convolutions with coordinate attention, base 32) on random features of 64 mels x 78
frames: 256 clips, batches of 32, the demo's augmentation, AdamW, validation on 64 clips after every epoch. The bare
loop keeps everything in memory and writes nothing; ours writes its journal and checkpoints. Runs alternate. The weights
of both must be equal to the last bit, which shows that the work was the same. Exits with 1 when they are not, when ours
reaches less than 0.95 of the bare loop, or when it waits for data more than 5 % of its time.

Wall time counts everything, and suffers from whatever else the core does; CPU time leaves out both that and waits for
the disk. The verdict is on the median of the ratios of neighbouring runs, in the measure that `--clock` names.
"""

import argparse
import os
import sys
import tempfile
import time
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import torch
import torch.nn.functional as F

from tinyasc.data import Split
from tinyasc.evaluate import metrics
from tinyasc.frontend import FrontEnd
from tinyasc.models import build
from tinyasc.training.augmentation import gain_scale
from tinyasc.training.classifier import Classifier
from tinyasc.training.features import Part, Prepared
from tinyasc.training.fit import train_module
from tinyasc.training.journal import lines
from tinyasc.training.recipe import Recipe, load_recipe
from tinyasc.training.run import Run

CLASSES, BANDS, FRAMES, CLIPS, VALIDATION = 10, 64, 78, 256, 64
LEAST_RATIO, MOST_WAITING = 0.95, 0.05


def random_part(clips: int, seed: int) -> Part:
    features = np.random.default_rng(seed).standard_normal((clips, 1, BANDS, FRAMES), dtype=np.float32)
    return Part(features, np.arange(clips) % CLASSES)


def model(recipe: Recipe) -> torch.nn.Module:
    torch.manual_seed(recipe.training.seed)
    return build(recipe.family, n_classes=CLASSES, n_mels=BANDS, **recipe.model_options)


def ours(recipe: Recipe, data: Prepared) -> tuple[dict[str, torch.Tensor], float]:
    """The trained weights, and the share of the time that was spent waiting for batches."""
    with tempfile.TemporaryDirectory() as folder:
        run = Run(Path(folder))
        weights, _ = train_module(model(recipe), recipe, run, data)
        journal = lines(run.path / "metrics.jsonl")
    return weights, sum(line["waited"] for line in journal) / sum(line["seconds"] for line in journal)


def bare(recipe: Recipe, data: Prepared) -> dict[str, torch.Tensor]:
    """A plain loop; the module comes from `Classifier` for its augmentation alone."""
    assert not torch.are_deterministic_algorithms_enabled(), "a mode that the bare loop would pay for"
    settings = recipe.training
    steps = -(-CLIPS // settings.batch_size)
    scale = gain_scale(data.front_end)
    shell = Classifier(model(recipe), recipe, n_classes=CLASSES, band_scale=scale, steps_per_epoch=steps)
    module = shell.module
    optimizer = torch.optim.AdamW(module.parameters(), lr=settings.lr, weight_decay=settings.weight_decay)
    warm, total = settings.warmup_epochs * steps, settings.epochs * steps

    def factor(step: int) -> float:
        if step < warm:
            return (step + 1) / (warm + 1)
        return 0.01 + 0.99 * 0.5 * (1 + np.cos(np.pi * (step - warm) / max(1, total - warm)))

    rates = torch.optim.lr_scheduler.LambdaLR(optimizer, factor)
    features, labels = torch.from_numpy(data.train.features), torch.from_numpy(data.train.labels)
    clean = torch.from_numpy(data.validation.features).split(settings.batch_size)
    for epoch in range(settings.epochs):
        order = np.arange(CLIPS)
        np.random.default_rng((settings.seed, epoch)).shuffle(order)
        module.train()
        for number, index in enumerate(np.array_split(order, steps)):
            seed = (settings.seed * 1_000_003 + epoch) * 1_000_003 + 2 * number
            torch.manual_seed(seed)
            batch = {"features": features[index], "label": labels[index]}
            x, target, _, _ = shell.augmented(batch, torch.Generator().manual_seed(seed + 1))
            optimizer.zero_grad()
            F.cross_entropy(module(x), target).backward()
            optimizer.step()
            rates.step()
        module.eval()
        with torch.inference_mode():
            answers = torch.cat([module(x).softmax(dim=1) for x in clean])
        metrics.evaluate(answers.double().numpy(), data.validation.labels)
    return module.state_dict()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--clock", choices=["wall", "cpu"], default="wall")
    options = parser.parse_args()
    torch.set_num_threads(1)
    settings = [f"training.epochs={options.epochs}", "training.select=last", "distill=null"]
    recipe = load_recipe("students/demo", settings)
    front_end = FrontEnd(
        sample_rate=16000, clip_samples=50304, n_fft=1024, win_length=1024, hop_length=640, n_mels=BANDS
    ).with_normalization(np.ones(BANDS), np.zeros(BANDS))
    assert front_end.n_frames() == FRAMES
    labels = tuple(f"scene{k}" for k in range(CLASSES))
    data = Prepared(
        random_part(CLIPS, 0), random_part(VALIDATION, 1), labels, front_end, Split((), (), ()), True, "0" * 32
    )
    seen, waits, ratios = CLIPS * options.epochs, [], {"wall": [], "cpu": []}
    clocks = {"wall": time.perf_counter, "cpu": time.process_time}
    for repeat in range(options.repeats + 1):
        spent, weights = {}, {}
        for name in ("bare", "ours") if repeat % 2 else ("ours", "bare"):
            started = {kind: clock() for kind, clock in clocks.items()}
            if name == "ours":
                weights[name], waiting = ours(recipe, data)
            else:
                weights[name] = bare(recipe, data)
            spent[name] = {kind: clock() - started[kind] for kind, clock in clocks.items()}
        same = all(torch.equal(weights["bare"][key], value) for key, value in weights["ours"].items())
        if not same:
            sys.exit("the weights differ: the two loops do not do the same work")
        if repeat == 0:
            continue  # warms caches
        waits.append(waiting)
        for kind in clocks:
            ratios[kind].append(spent["bare"][kind] / spent["ours"][kind])
        print(
            f"{repeat}: "
            + "; ".join(
                f"{kind}: bare {seen / spent['bare'][kind]:.1f}, ours {seen / spent['ours'][kind]:.1f} clips/s, "
                f"ratio {ratios[kind][-1]:.3f}"
                for kind in clocks
            )
            + f"; waited {100 * waiting:.2f} %"
        )
    medians = {kind: float(np.median(values)) for kind, values in ratios.items()}
    print(
        f"median ratio: wall {medians['wall']:.3f}, cpu {medians['cpu']:.3f}; "
        f"median wait {100 * np.median(waits):.2f} %; weights equal to the last bit"
    )
    if medians[options.clock] < LEAST_RATIO or np.median(waits) > MOST_WAITING:
        sys.exit(1)


if __name__ == "__main__":
    main()
