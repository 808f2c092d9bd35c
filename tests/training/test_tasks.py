"""Losses of several tasks, against arithmetic by hand; models that learn groups and devices, in whole trainings."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny_training import CLASSES, DATA, Stop, journal, recipe, weights
from torch import nn

from tinyasc.data import Clip, Split
from tinyasc.errors import InputError
from tinyasc.models import FAMILIES, Family, Width
from tinyasc.training.fit import fit, logits
from tinyasc.training.heard import Heard
from tinyasc.training.recipe_parts import Tasks
from tinyasc.training.run import Run
from tinyasc.training.tasks import TaskWeights, known_device, soft_cross_entropy

GROUPS = {"indoor": ["bus", "tram"], "outdoor": ["park"]}


class TwoTasks(nn.Module):
    """Scenes and, through the same layer, groups and devices; optionally told the device."""

    def __init__(self, *, n_classes, n_mels, parents, n_devices, told=False, width=8):
        super().__init__()
        self.reads_device = told
        self.shared = nn.Linear(n_mels + (n_devices if told else 0), width)
        sizes = {"scene": n_classes, "group": max(parents, default=-1) + 1, "device": 0 if told else n_devices}
        self.heads = nn.ModuleDict({task: nn.Linear(width, size) for task, size in sizes.items() if size})

    def tasks(self, x, device=None):
        x = x.mean(dim=(1, 3))
        if self.reads_device:
            missing = self.shared.in_features - x.shape[1]
            x = torch.cat([x, x.new_zeros(len(x), missing) if device is None else device], dim=1)
        x = self.shared(x).relu()
        return {task: head(x) for task, head in self.heads.items()}

    def forward(self, x, device=None):
        return self.tasks(x, device)["scene"]

    def shared_parameters(self):
        return [self.shared.weight]


@pytest.fixture(autouse=True)
def two_tasks(monkeypatch):
    monkeypatch.setitem(FAMILIES, "two_tasks", Family(TwoTasks, False, "", Width("width", 1, 8)))


def data(*, devices=True):
    """The tiny set with devices "a" and "b": a band for each, and of the validation clips some of an unknown one."""
    if not devices:
        return dataclasses.replace(DATA, parents=(0, 1, 0))
    parts = []
    for part in (DATA.train, DATA.validation):
        index = np.arange(len(part.labels)) // 3 % 2
        features = part.features.copy()
        features[np.arange(len(index)), 0, 2 + 8 * index] += 3
        if part is DATA.validation:
            index = np.where(np.arange(len(index)) == 0, -1, index)
        parts.append(dataclasses.replace(part, features=features, devices=index))
    return dataclasses.replace(DATA, train=parts[0], validation=parts[1], devices=("a", "b"), parents=(0, 1, 0))


def several(**parts):
    model = {"family": "two_tasks"} | parts.pop("model", {})
    values = {"data": {"name": "demo", "groups": GROUPS}, "model": model, "augment": {"mixup_alpha": 0.3}} | parts
    made = recipe(**values)
    return made.model_copy(update={"model": model})


def test_weights_are_the_recipe_s():
    weigh = TaskWeights(Tasks(scene_weight=5, group_weight=2, device_weight=0.5))
    losses = {"scene": torch.tensor(1.0), "group": torch.tensor(10.0), "device": torch.tensor(100.0)}
    assert weigh(losses, []) == 5 + 20 + 50
    assert weigh({"scene": torch.tensor(1.0), "device": torch.tensor(100.0)}, []) == 5 + 50
    assert weigh({"scene": torch.tensor(1.0)}, []) == 1


def test_by_default_all_weigh_1_and_devices_1e_4_from_98_percent_on():
    """Lambda of Ren et al. (2020), section IV-B."""
    weigh = TaskWeights(Tasks())
    losses = {"scene": torch.tensor(1.0), "group": torch.tensor(10.0), "device": torch.tensor(100.0)}
    weigh.note_device_accuracy(0.979)
    assert weigh(losses, []) == 111
    weigh.note_device_accuracy(0.98)
    assert weigh(losses, []).item() == pytest.approx(11 + 100 * 1e-4)


def test_the_device_weight_falls_to_the_recipe_s():
    weigh = TaskWeights(Tasks(device_weight=2, device_weight_after=0.25))
    losses = {"scene": torch.tensor(1.0), "device": torch.tensor(100.0)}
    assert weigh(losses, []) == 201
    weigh.note_device_accuracy(1.0)
    assert weigh(losses, []) == 26


def test_the_device_weight_falls_for_good():
    weigh = TaskWeights(Tasks(device_accuracy=0.9))
    losses = {"scene": torch.tensor(1.0), "device": torch.tensor(100.0)}
    weigh.note_device_accuracy(0.89)
    assert weigh(losses, []) == 101
    weigh.note_device_accuracy(0.9)
    assert weigh(losses, []) == pytest.approx(1.01)
    weigh.note_device_accuracy(0.1)
    assert weigh(losses, []) == pytest.approx(1.01)
    again = TaskWeights(Tasks(device_accuracy=0.9))
    again.load_state_dict(weigh.state_dict())
    assert again(losses, []) == pytest.approx(1.01)


def test_gradnorm_by_hand():
    """Two losses, 2 |w| and 8 |w|: gradient norms 2 and 8, then at half of the first one's loss."""
    weigh = TaskWeights(Tasks(balance="gradnorm", gradnorm_alpha=1.0, gradnorm_lr=0.01))
    w = nn.Parameter(torch.tensor([3.0]))
    assert weigh({"scene": 2 * w.sum(), "group": 8 * w.sum()}, [w]) == 6 + 24
    # Sizes 2 and 8 about their mean 5: weights 1 + 0.01 * 2 and 1 - 0.01 * 8, scaled to the sum 2.
    first = np.array([1.02, 0.92]) * 2 / 1.94
    np.testing.assert_allclose(weigh.of(["scene", "group"]), first, rtol=1e-6)
    total = weigh({"scene": 1 * w.sum(), "group": 8 * w.sum()}, [w])
    assert total.item() == pytest.approx(3 * first[0] + 24 * first[1])
    # Rates 1/2 and 1, over their mean 2/3 and 4/3; sizes first[0] * 1 and first[1] * 8.
    sizes, norms = first * [1, 8], np.array([1, 8])
    targets = sizes.mean() * np.array([2, 4]) / 3
    second = first - 0.01 * np.sign(sizes - targets) * norms
    np.testing.assert_allclose(weigh.of(["scene", "group"]), second * 2 / second.sum(), rtol=1e-6)
    total.backward()
    assert w.grad.item() == pytest.approx(first[0] + 8 * first[1])  # measuring leaves no gradient behind


def test_gradnorm_leaves_out_a_task_that_a_batch_says_nothing_of():
    weigh = TaskWeights(Tasks(balance="gradnorm", gradnorm_alpha=1.0, gradnorm_lr=0.01))
    w = nn.Parameter(torch.tensor([3.0]))
    weigh({"scene": 2 * w.sum(), "group": 8 * w.sum(), "device": 0 * w.sum()}, [w])
    # As `test_gradnorm_by_hand`, with the device's weight as it was before the sum is made 3.
    first = np.array([1.02, 0.92, 1])
    first = first * 3 / first.sum()
    np.testing.assert_allclose(weigh.of(["scene", "group", "device"]), first, rtol=1e-6)
    # The device begins with the first batch that knows one: all learn at one rate, sizes are drawn to their mean.
    weigh({"scene": 2 * w.sum(), "group": 8 * w.sum(), "device": 5 * w.sum()}, [w])
    norms = np.array([2, 8, 5])
    second = first - 0.01 * np.sign(first * norms - (first * norms).mean()) * norms
    np.testing.assert_allclose(weigh.of(["scene", "group", "device"]), second * 3 / second.sum(), rtol=1e-6)


def test_soft_cross_entropy_leaves_out_rows_without_a_target():
    generator = torch.Generator().manual_seed(0)
    answers = torch.randn(4, 3, generator=generator)
    target = torch.tensor([[1.0, 0, 0], [0, 0.3, 0.7], [0, 0, 0], [0, 1, 0]])
    kept = [0, 1, 3]
    expected = nn.functional.cross_entropy(answers[kept], target[kept])
    torch.testing.assert_close(soft_cross_entropy(answers, target), expected)
    assert soft_cross_entropy(answers, torch.zeros(4, 3)) == 0


def test_known_device():
    assert known_device(torch.tensor([1, -1, 0]), 2).tolist() == [[0, 1], [0, 0], [1, 0]]


@pytest.mark.parametrize("balance", ["fixed", "gradnorm"])
@pytest.mark.parametrize("told", [False, True])
def test_all_tasks_are_learnt_and_a_killed_training_ends_alike(tmp_path, told, balance, stopping):
    r = several(model={"told": told}, tasks={"balance": balance}, training={"epochs": 30, "batch_size": 8, "lr": 0.02})
    trained = fit(r, Run(tmp_path / "whole"), data())
    last = journal(Run(tmp_path / "whole"))[-1]
    assert last["val_accuracy"] >= 11 / 12  # one of the validation clips is of an unknown device
    assert last["val_group_accuracy"] >= 11 / 12
    assert ("val_device_accuracy" in last) != told
    assert told or last["val_device_accuracy"] == 1
    assert trained.devices == ("a", "b")
    assert json.loads((tmp_path / "whole/model.json").read_text())["devices"] == ["a", "b"]
    with stopping(epoch=17), pytest.raises(Stop):
        fit(r, Run(tmp_path / "killed"), data())
    fit(r, Run(tmp_path / "killed"), data())
    assert weights(Run(tmp_path / "killed")) == weights(Run(tmp_path / "whole"))


def test_the_told_device_is_used(tmp_path):
    trained = fit(several(model={"told": True}), Run(tmp_path), data())
    features = DATA.validation.features
    told = [logits(trained, features, devices=[device] * len(features)) for device in ("a", "b", "new")]
    assert np.abs(told[0] - told[1]).max() > 1e-3
    np.testing.assert_array_equal(told[2], logits(trained, features))


def test_groups_need_no_devices(tmp_path):
    fit(several(), Run(tmp_path), data(devices=False))
    assert "val_device_accuracy" not in journal(Run(tmp_path))[-1]


def test_validation_clips_of_unknown_devices_alone_measure_no_device(tmp_path):
    unknown = data()
    devices = np.full(len(unknown.validation.labels), -1)
    unknown = dataclasses.replace(unknown, validation=dataclasses.replace(unknown.validation, devices=devices))
    fit(several(), Run(tmp_path), unknown)
    assert "val_group_accuracy" in journal(Run(tmp_path))[-1]
    assert "val_device_accuracy" not in journal(Run(tmp_path))[-1]


def test_fine_tuning_starts_from_a_run(tmp_path):
    """The shared layer is taken over, the group classifier's output layer of another size is not."""
    grouped = dataclasses.replace(
        data(devices=False), labels=("indoor", "outdoor"), parents=(), train=in_groups(DATA.train),
        validation=in_groups(DATA.validation), heard=Heard(("1.wav",), ("2.wav",)),
    )  # fmt: skip
    coarse = {"name": "demo", "groups": GROUPS, "target": "group"}
    first = fit(several(data=coarse), Run(tmp_path / "coarse"), grouped)
    frozen = {"epochs": 1, "batch_size": 8, "lr": 1e-12, "start_from": str(tmp_path / "coarse")}
    scenes = dataclasses.replace(data(devices=False), parents=(), test_names=("3.wav",))
    second = fit(several(data={"name": "demo"}, training=frozen), Run(tmp_path / "fine"), scenes)
    torch.testing.assert_close(second.module.shared.weight, first.module.shared.weight)
    assert second.module.heads["scene"].out_features == CLASSES
    tested = dataclasses.replace(scenes, test_names=("1.wav",))
    with pytest.raises(InputError, match="was trained on clips that are test clips here"):
        fit(several(data={"name": "demo"}, training=frozen), Run(tmp_path / "leak"), tested)
    # What the first run heard, the second knows.
    assert Heard.load(tmp_path / "fine").train == ("1.wav",)
    again = frozen | {"start_from": str(tmp_path / "fine")}
    with pytest.raises(InputError, match="or a run before it, was trained on clips that are test clips here"):
        fit(several(data={"name": "demo"}, training=again), Run(tmp_path / "chain"), tested)
    other = frozen | {"start_from": str(tmp_path / "none")}
    with pytest.raises(InputError, match="no finished training here"):
        fit(several(data={"name": "demo"}, training=other), Run(tmp_path / "other"), scenes)
    strange = recipe(training=frozen | {"warmup_epochs": 0})
    with pytest.raises(InputError, match=r"no weight of .* fits sepconv_ca"):
        fit(strange, Run(tmp_path / "strange"), scenes)


def fine_tuned(folder, heard, tested, *, final=False):
    """A run named a.wav as the base of one on another data set, which tests one clip; gives what the second heard."""
    options = {"epochs": 1, "batch_size": 8, **({"final": True, "select": "last"} if final else {})}
    base = dataclasses.replace(data(devices=False), parents=(), heard=heard)
    fit(several(data={"name": "esc10"}, training=options), Run(folder / "base"), base)
    scenes = dataclasses.replace(
        data(devices=False),
        parents=(),
        heard=Heard(("new.wav",), (), ("home",), (), ("b",), ("b",)),
        split=Split((), (), (tested,)),
        test_names=(tested.path.name,),
    )
    started = {"epochs": 1, "batch_size": 8, "start_from": str(folder / "base")}
    fit(several(data={"name": "csv"}, training=started), Run(folder / "fine"), scenes)
    return Heard.load(folder / "fine")


BASE = Heard(("1.wav",), ("2.wav",), ("lake",), ("hill",), ("a",), ("c",))


@pytest.mark.parametrize(("name", "place"), [("1.wav", "x"), ("2.wav", "x"), ("3.wav", "lake"), ("3.wav", "hill")])
def test_a_test_clip_that_the_first_run_heard_is_refused_under_any_name_of_the_data(tmp_path, name, place):
    with pytest.raises(InputError, match=f"others of their names or places .*{name}"):
        fine_tuned(tmp_path, BASE, Clip(Path(name), "bus", "", place, 1))
    assert not (tmp_path / "fine").exists()


@pytest.mark.parametrize("final", [False, True])
def test_what_the_first_run_heard_is_kept_with_the_second(tmp_path, final):
    heard = fine_tuned(tmp_path, BASE, Clip(Path("3.wav"), "bus", "", "sea", 1), final=final)
    more = ("2.wav",) if final else ()
    assert heard.train == ("1.wav", *more, "new.wav") and heard.validation == ("2.wav",)
    assert heard.train_locations == (*(("hill",) if final else ()), "home", "lake")
    assert heard.train_devices == ("a", "b", *(("c",) if final else ()))
    # The cut is that of its own data.
    assert heard.digest == Heard(("new.wav",)).digest


def test_a_run_that_does_not_say_what_it_heard_is_no_start(tmp_path):
    fine_tuned(tmp_path, BASE, Clip(Path("3.wav"), "bus", "", "sea", 1))
    (tmp_path / "base/heard.json").unlink()
    started = {"epochs": 1, "batch_size": 8, "start_from": str(tmp_path / "base")}
    with pytest.raises(InputError, match="does not say which clips it was trained on"):
        fit(several(training=started), Run(tmp_path / "more"), data(devices=False))


def in_groups(part):
    return dataclasses.replace(part, labels=np.array([0, 1, 0])[part.labels])


def test_other_devices_are_another_run(tmp_path):
    r = several(model={"told": True})
    fit(r, Run(tmp_path), data())
    swapped = data()
    swapped = dataclasses.replace(swapped, train=dataclasses.replace(swapped.train, devices=1 - swapped.train.devices))
    before = weights(Run(tmp_path))
    with pytest.raises(InputError, match="was trained on other clips"):
        fit(r, Run(tmp_path), swapped)
    assert weights(Run(tmp_path)) == before


@pytest.mark.parametrize("family", ["sepconv_ca", "two_tasks"])
def test_gradnorm_needs_tasks_that_share_layers(tmp_path, family):
    """Without groups and devices the second has one task."""
    with pytest.raises(InputError, match="shares layers between tasks"):
        fit(several(model={"family": family}, tasks={"balance": "gradnorm"}), Run(tmp_path), DATA)


@pytest.mark.parametrize(
    ("family", "told", "tasks", "says"),
    [
        ("sepconv_ca", False, {"group_weight": 2}, "tasks.group_weight: the model does not learn the group"),
        ("two_tasks", True, {"device_weight": 2}, "tasks.device_weight: the model does not learn the device"),
        ("two_tasks", True, {"device_accuracy": 0.9}, "tasks.device_accuracy: the model does not learn the device"),
    ],
)
def test_weights_of_tasks_that_the_model_does_not_learn_are_refused(tmp_path, family, told, tasks, says):
    model = {"family": family} | ({"told": True} if told else {})
    with pytest.raises(InputError, match=says):
        fit(several(model=model, tasks=tasks), Run(tmp_path), data())


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        ({"tasks": {"gradnorm_lr": 1}}, "gradnorm_lr has no meaning with balance: fixed"),
        ({"tasks": {"balance": "gradnorm", "group_weight": 2}}, "group_weight has no meaning with balance: gradnorm"),
        ({"tasks": {"scene_weight": 0}}, "tasks.scene_weight"),
        ({"data": {"name": "demo", "target": "group"}}, "target: group needs groups"),
    ],
)
def test_what_does_not_fit_is_refused(parts, message):
    with pytest.raises(InputError, match=message):
        recipe(**parts)
