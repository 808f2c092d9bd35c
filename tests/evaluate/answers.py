"""Made-up predictions for tests."""

import numpy as np

from tinyasc.evaluate.predictions import Predictions


def some(n=6, *, seed=0, fold=1, names=("bus", "park", "tram"), **changes):
    rng = np.random.default_rng(seed)
    p = rng.dirichlet(np.ones(len(names)), n)
    values = {
        "clips": np.array([f"a/{i}, é.wav" for i in range(n)]),
        "labels": np.arange(n) % len(names),
        "devices": np.array(["a", "s1"] * n)[:n],
        "locations": np.array([f"lyon-{i // 2}" for i in range(n)]),
        "seen": np.array([1, 0] * n, np.int8)[:n],
        "folds": np.full(n, fold),
        "seeds": np.full(n, seed),
        "probabilities": p,
    }
    return Predictions(names, **(values | changes))
