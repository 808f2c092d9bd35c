"""Every variant that the papers' tables compare trains two steps at tiny width, is stored, loaded and answers."""

import dataclasses

import numpy as np
import pytest
import torch
from tiny_training import CLASSES, DATA, journal, recipe

from tinyasc.frontend import FrontEnd
from tinyasc.models.amfm_blocks import BLOCKS
from tinyasc.models.amfm_net import SCHEMES
from tinyasc.models.atrous_cnn import LAYERS, PAIRS
from tinyasc.models.caa_net import STRATEGIES
from tinyasc.training.features import Part
from tinyasc.training.fit import fit, logits
from tinyasc.training.run import Run

GROUPS = {"indoor": ["bus", "tram"], "outdoor": ["park"]}
FRONT_END = FrontEnd(sample_rate=8000, clip_samples=8800, n_fft=512, win_length=512, hop_length=256, n_mels=32)
TINY = {
    "atrous_cnn": {"base_channels": 2},
    "caa_net": {"base_channels": 2},
    "amfm_net": {"channels_multiplier": 0.25},  # half of that, and a layer of ReLUs may die
}

VARIANTS = [
    *({"family": "atrous_cnn", "trunk": t, "head": h} for t, heads in PAIRS.items() for h in heads),
    *({"family": "amfm_net", "block": block} for block in BLOCKS),
    *({"family": "amfm_net", "scheme": scheme} for scheme in SCHEMES),
    {"family": "amfm_net", "scheme": "extended", "joint_prediction": True},
    *({"family": "split_resnet", "base_channels": 8, "split": split} for split in (True, False)),
    *({"family": "sepconv_ca", "base_channels": 8, "attention": attention} for attention in (True, False)),
    *({"family": "caa_net", "strategy": s, "layer": n} for s in STRATEGIES for n in range(1, LAYERS + 1)),
    *({"family": "caa_net", "trunk": t, "head": h} for t, heads in PAIRS.items() for h in heads),
    {"family": "amfm", "channels_multiplier": 0.125},
    {"family": "cp_mobile", "base_channels": 8, "grn": True},
    {"family": "cp_mobile", "base_channels": 8, "grn": False, "strides": 2024},
    {"family": "pooled_cnn", "base_channels": 4, "kernel": 3},
    {"family": "pooled_cnn", "base_channels": 4, "kernel": 5},
    {"family": "bc_resnet", "base_channels": 8, "sub_bands": 1},
    {"family": "bc_resnet", "base_channels": 8, "sub_bands": 4},
    {"family": "tf_sepnet", "base_channels": 16},
]


def data(channels):
    rng = np.random.default_rng(0)
    shape = (8, channels, FRONT_END.n_mels, FRONT_END.n_frames())
    part = Part(rng.standard_normal(shape).astype(np.float32), np.arange(8) % CLASSES, np.arange(8) % 2)
    front_end = dataclasses.replace(FRONT_END, deltas=channels - 1, clip_samples=8800 + 256 * 4 * (channels - 1))
    assert front_end.shape == shape[1:]
    return dataclasses.replace(
        DATA, train=part, validation=part, front_end=front_end, devices=("a", "b"), parents=(0, 1, 0)
    )


def train(folder, model, *, channels=1, tasks=None):
    model = TINY.get(model["family"], {}) | model
    values = {"epochs": 1, "batch_size": 4, "lr": 1e-3, "warmup_epochs": 0}
    r = recipe(data={"name": "demo", "groups": GROUPS}, training=values, tasks=tasks or {}, augment={"gain_db": 0})
    run, clips = Run(folder), data(channels)
    trained = fit(r.model_copy(update={"model": model}), run, clips)
    assert len(journal(run)) == 1
    answers = logits(trained, clips.validation.features, devices=["a", "b"] * 4)
    assert answers.shape == (8, CLASSES) and np.isfinite(answers).all()
    assert np.ptp(answers, axis=0).max() > 0  # it hears what it is given
    return trained


@pytest.mark.parametrize("model", VARIANTS, ids=lambda m: "-".join(map(str, m.values())))
def test_two_steps(tmp_path, model):
    trained = train(tmp_path, model)
    steps = torch.load(tmp_path / "checkpoints/last.ckpt", weights_only=True)["global_step"]
    assert steps == 2
    assert trained.recipe.model_options.items() >= {k: v for k, v in model.items() if k != "family"}.items()


@pytest.mark.parametrize("scheme", SCHEMES[1:])
def test_gradnorm_two_steps(tmp_path, scheme):
    train(tmp_path, {"family": "amfm_net", "scheme": scheme}, tasks={"balance": "gradnorm"})


@pytest.mark.parametrize("ratio", range(1, 6))
def test_loss_ratios_change_the_training(tmp_path, ratio):
    model = {"family": "amfm_net", "scheme": "extended"}
    first = train(tmp_path / "a", model, tasks={"scene_weight": ratio})
    second = train(tmp_path / "b", model, tasks={"scene_weight": ratio + 0.5})
    assert not torch.equal(first.module.state_dict()[NAME], second.module.state_dict()[NAME])


NAME = "trunk.0.layer.weight"


@pytest.mark.parametrize("channels", [2, 3])
def test_split_resnet_takes_deltas(tmp_path, channels):
    train(tmp_path, {"family": "split_resnet", "base_channels": 8}, channels=channels)
