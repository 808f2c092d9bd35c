"""The atrous CNNs in whole trainings: devices that are learnt or told, and heads that know the size of their maps."""

import dataclasses

import numpy as np
import pytest
import safetensors.torch
import torch
from tiny_training import BANDS, CLASSES, DATA, FRAMES, journal, recipe

from tinyasc.errors import InputError
from tinyasc.training.fit import fit, logits
from tinyasc.training.run import Run

DEVICES = ("a", "b", "c")
TILT = np.linspace(-1.5, 1.5, BANDS)[:, None]


def part(clips, seed, *, tilt=0.0, told=False):
    """Noise with a loud band, loud frames or neither for each class, and a tilt for each device.

    With `told` the noise says nothing of the class, which is that of the clip's device.
    """
    rng = np.random.default_rng(seed)
    labels, devices = np.arange(clips) % CLASSES, np.arange(clips) // CLASSES % len(DEVICES)
    features = rng.standard_normal((clips, 1, BANDS, FRAMES))
    if told:
        labels = devices
    else:
        features[labels == 0, 0, 8] += 3
        features[labels == 1, 0, :, 5:7] += 3
    features += tilt * (devices - 1)[:, None, None, None] * TILT
    return dataclasses.replace(DATA.train, features=features.astype(np.float32), labels=labels, devices=devices)


def prepared(**how):
    return dataclasses.replace(DATA, train=part(54, 0, **how), validation=part(27, 1, **how), devices=DEVICES)


def caa_net(strategy, epochs):
    network = {"family": "caa_net", "strategy": strategy, "base_channels": 4, "trunk": "baseline", "head": "average"}
    training = {"epochs": epochs, "batch_size": 9, "optimizer": "adam", "select": "last"}
    return recipe(
        model=network, training=training, augment={"mixup_alpha": 0, "gain_db": 0, "time_mask": 0, "freq_mask": 0}
    )


def weight_has_fallen(run):
    state = safetensors.torch.load_file(run.path / "model.safetensors")
    assert any(name.startswith("device_cnn") for name in state)
    checkpoint = torch.load(run.checkpoints / "last.ckpt", weights_only=True)
    return bool(checkpoint["state_dict"]["task_weights.devices_known"])


def test_multi_task_learns_devices_by_their_tilt_and_then_weighs_them_less(tmp_path):
    run = Run(tmp_path)
    fit(caa_net("multi_task", 10), run, prepared(tilt=1.0))
    accuracy = [line["val_device_accuracy"] for line in journal(run)]
    assert accuracy[0] < 0.98 and max(accuracy) >= 0.98 and accuracy[-1] > 0.9
    assert weight_has_fallen(run)


def test_devices_that_sound_alike_keep_their_weight(tmp_path):
    run = Run(tmp_path)
    fit(caa_net("multi_task", 2), run, prepared())
    assert journal(run)[-1]["val_device_accuracy"] < 0.98
    assert not weight_has_fallen(run)


def test_only_a_network_that_is_told_the_device_learns_scenes_that_nothing_else_tells(tmp_path):
    data = prepared(told=True)
    told, guessing = (
        fit(caa_net(strategy, 10), Run(tmp_path / strategy), data) for strategy in ("teacher_forcing", "multi_task")
    )
    assert told.validation["val_accuracy"] >= 0.9 and guessing.validation["val_accuracy"] <= 0.6
    names = [DEVICES[i] for i in data.validation.devices]
    features, labels = data.validation.features, data.validation.labels
    right = (logits(told, features, names).argmax(axis=1) == labels).mean()
    assert right == pytest.approx(told.validation["val_accuracy"])
    turned = [DEVICES[i - 1] for i in data.validation.devices]
    assert (logits(told, features, turned).argmax(axis=1) == labels).mean() <= 0.1
    np.testing.assert_array_equal(logits(told, features), logits(told, features, ["new"] * len(features)))


def test_data_without_devices_is_refused_before_the_folder_is_taken(tmp_path):
    with pytest.raises(InputError, match="training clips name 0 of them"):
        fit(caa_net("multi_task", 2), Run(tmp_path / "run"), DATA)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(("trunk", "head"), [("baseline", "flatten"), ("atrous", "roi")])
def test_a_head_that_knows_its_map_is_trained_and_read_again(tmp_path, trunk, head):
    model = {"family": "atrous_cnn", "trunk": trunk, "head": head, "base_channels": 2}
    trained = fit(recipe(model=model, training={"epochs": 1, "warmup_epochs": 0}), Run(tmp_path), DATA)
    again = Run(tmp_path).load()
    features = DATA.validation.features
    np.testing.assert_array_equal(logits(again, features), logits(trained, features))


def test_crops_that_change_the_map_of_such_a_head_are_refused(tmp_path):
    model = {"family": "atrous_cnn", "trunk": "atrous", "head": "roi", "base_channels": 2}
    with pytest.raises(InputError, match=r"maps of one size, here 1 x 2, got 1 x 1; leave out augment\.crop_frames"):
        fit(recipe(model=model, augment={"crop_frames": 16}), Run(tmp_path / "run"), DATA)
    assert not (tmp_path / "run").exists()


def test_the_size_of_the_map_is_no_option():
    with pytest.raises(InputError, match="n_frames follows from the data and the front end"):
        recipe(model={"family": "atrous_cnn", "n_frames": 12})
