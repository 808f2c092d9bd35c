"""Clean, seen and unseen microphones out of fold, from the answers that `tinyasc evaluate --folds` kept.

    python tests/bench/devices.py CVFOLDER     # trained on the copies that `tinyasc data through` writes

Mean and standard deviation over seeds of accuracy and log loss on the clean clips, on their copies through microphones
that the training clips were recorded through (none of these very clips), and through microphones that nothing heard.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from tinyasc.data.devices import load_device_list
from tinyasc.data.microphones import CLEAN
from tinyasc.training.recipe import configs_folder


def parts(kept: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Which answers are on clean clips, on seen and on unseen microphones."""
    test = load_device_list(configs_folder() / "devices/micirp.yaml").test
    device = kept["devices"]
    clean, new = device == CLEAN, np.isin(device, [Path(file).stem for file in test])
    return {"clean": clean, "seen": ~clean & ~new, "unseen": new}


def main(folder: Path) -> None:
    kept = np.load(folder / "predictions.npz", allow_pickle=False)
    labels, probabilities = kept["labels"], kept["probabilities"]
    right = probabilities.argmax(axis=1) == labels
    loss = -np.log(np.maximum(probabilities[np.arange(len(labels)), labels], 1e-15))
    for name, rows in parts(kept).items():
        seeds = [rows & (kept["seeds"] == seed) for seed in np.unique(kept["seeds"])]
        accuracy, log_loss = [[values[s].mean() for s in seeds] for values in (100 * right, loss)]
        spread = [np.std(v, ddof=1) if len(seeds) > 1 else 0.0 for v in (accuracy, log_loss)]
        print(f"{name}: {seeds[0].sum()} clips, {len(seeds)} seeds", end=", ")
        print(f"accuracy {np.mean(accuracy):.2f} +- {spread[0]:.2f} %", end=", ")
        print(f"log loss {np.mean(log_loss):.3f} +- {spread[1]:.3f}")


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    main(Path(sys.argv[1]))
