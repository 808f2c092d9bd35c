"""Random features that are learnt in a few epochs, a tiny recipe for them, and what the tests read from a run."""

import json

import numpy as np
from lightning.pytorch.callbacks import Callback

from tinyasc.data import Split
from tinyasc.frontend import FrontEnd
from tinyasc.training.features import Part, Prepared
from tinyasc.training.recipe import check_recipe

CLASSES, BANDS = 3, 16
FRONT_END = FrontEnd(
    sample_rate=8000, clip_samples=8000, n_fft=512, win_length=512, hop_length=400, n_mels=BANDS
).with_normalization(np.linspace(0.1, 0.2, BANDS), np.zeros(BANDS))
FRAMES = FRONT_END.n_frames()


def random_part(clips, seed):
    """Noise with one louder band per class: learnable in a few epochs."""
    rng = np.random.default_rng(seed)
    labels = np.arange(clips) % CLASSES
    features = rng.standard_normal((clips, 1, BANDS, FRAMES)).astype(np.float32)
    features[np.arange(clips), 0, 4 * labels] += 1.5
    return Part(features, labels)


DATA = Prepared(
    random_part(24, 0), random_part(12, 1), ("bus", "park", "tram"), FRONT_END, Split((), (), ()), True, "0" * 32
)
TEACHER = (4 * np.eye(CLASSES, dtype=np.float32))[DATA.train.labels]


def recipe(**parts):
    values = {
        "name": "tiny",
        "data": {"name": "demo"},
        "model": {"family": "sepconv_ca", "base_channels": 8},  # dropout and batch norm have states of their own
        "training": {"epochs": 4, "batch_size": 8, "lr": 0.01, "warmup_epochs": 1},
        "augment": {"roll": True, "gain_db": 3, "time_mask": 3, "freq_mask": 3, "mixup_alpha": 0.3},
    }
    return check_recipe(
        {k: (v | parts.pop(k, {})) if isinstance(v, dict) else v for k, v in values.items()} | parts, ""
    )


class Stop(BaseException):
    """Ends training as abruptly as a kill, as far as files are concerned."""


class StopAfter(Callback):
    def __init__(self, epochs, at="on_train_epoch_start"):
        self.epochs = epochs
        setattr(self, at, self.stop)

    def stop(self, trainer, *_):
        if trainer.current_epoch == self.epochs:
            raise Stop


def weights(run):
    return (run.path / "model.safetensors").read_bytes()


def journal(run):
    return [json.loads(line) for line in (run.path / "metrics.jsonl").read_text().splitlines()]


def plain(lines):
    return [{k: v for k, v in line.items() if k not in ("seconds", "waited")} for line in lines]
