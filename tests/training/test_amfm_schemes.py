"""The AMFM system trained in every scheme, with losses weighed by hand and by GradNorm, and after pre-training."""

import dataclasses

import numpy as np
import pytest
import torch
from tiny_training import DATA, journal, recipe
from torch.nn.functional import cross_entropy

from tinyasc.data.groups import parents
from tinyasc.data.tau_years import SCENES
from tinyasc.errors import InputError
from tinyasc.models import build
from tinyasc.models.amfm_net import SCHEMES, AMFMNet
from tinyasc.training.fit import fit
from tinyasc.training.heard import Heard
from tinyasc.training.recipe import load_recipe
from tinyasc.training.recipe_parts import Tasks
from tinyasc.training.run import Run
from tinyasc.training.tasks import TaskWeights

GROUPS = {"rail": ["tram"], "road": ["bus", "park"]}  # bus, park, tram: 1, 1, 0
PARENTS = (1, 1, 0)
WIDTHS = {"channels_multiplier": 0.125, "hidden": 8, "dropout": 0.0}
SMALL = {"family": "amfm_net"} | WIDTHS
DATA_IN_GROUPS = dataclasses.replace(DATA, parents=PARENTS, heard=Heard(("1.wav",), ("2.wav",)), test_names=("3.wav",))


def small(*, data=None, model=None, tasks=None, **training):
    made = recipe(
        data={"name": "demo", "groups": GROUPS} | (data or {}),
        tasks=tasks or {},
        training={"epochs": 2, "batch_size": 8, "lr": 0.01} | training,
        augment={"mixup_alpha": 0.1, "time_mask": 0},
    )
    # `model` is taken whole, without the options of another family.
    return made.model_copy(update={"model": SMALL | (model or {})})


# GradNorm has nothing to balance in one task.
@pytest.mark.parametrize(
    ("scheme", "balance"), [*((s, "fixed") for s in SCHEMES), *((s, "gradnorm") for s in SCHEMES[1:])]
)
def test_every_scheme_trains(tmp_path, scheme, balance):
    tasks = {"scene_weight": 5} if balance == "fixed" else {"balance": balance}
    trained = fit(small(model={"scheme": scheme}, tasks=tasks), Run(tmp_path), DATA_IN_GROUPS)
    lines = journal(Run(tmp_path))
    assert all(np.isfinite(line["train_loss"]) for line in lines)
    assert ("val_group_accuracy" in lines[-1]) == (scheme != "none")
    assert trained.module(torch.zeros(2, *DATA_IN_GROUPS.front_end.shape)).shape == (2, 3)


def test_scenes_and_groups_are_learnt(tmp_path):
    fit(small(tasks={"scene_weight": 5}, epochs=25, lr=0.02), Run(tmp_path), DATA_IN_GROUPS)
    last = journal(Run(tmp_path))[-1]
    assert last["val_accuracy"] >= 0.75 and last["val_group_accuracy"] >= 0.75


@pytest.mark.parametrize("scheme", ["conventional", "extended"])
def test_gradnorm_moves_the_weights_as_its_paper_says(scheme):
    """Chen et al., ICML 2018, equations 1 and 2 and algorithm 1, their gradient found by differentiating twice."""
    alpha, rate = 1.5, 0.025
    torch.manual_seed(0)
    net = AMFMNet(n_classes=3, n_mels=16, n_frames=18, parents=PARENTS, scheme=scheme, **WIDTHS).double()
    weigh = TaskWeights(Tasks(balance="gradnorm", gradnorm_alpha=alpha, gradnorm_lr=rate)).double()
    (kernel,) = net.shared_parameters()
    w, first = torch.ones(2, dtype=torch.float64, requires_grad=True), None
    for labels in ((0, 1, 2, 1), (2, 2, 0, 1), (1, 0, 1, 1)):
        answers = net.tasks(torch.randn(4, 1, 16, 18, dtype=torch.float64))
        scene = torch.tensor(labels)
        targets = {"scene": scene, "group": torch.tensor(PARENTS)[scene]}
        losses = {task: cross_entropy(answers[task], target) for task, target in targets.items()}
        both = torch.stack([losses["scene"], losses["group"]])
        first = both.detach() if first is None else first
        norms = torch.stack(
            [torch.autograd.grad(w[i] * both[i], kernel, create_graph=True)[0].norm() for i in range(2)]
        )
        inverse_rates = both.detach() / first
        inverse_rates = inverse_rates / inverse_rates.mean()
        target = (norms.mean() * inverse_rates**alpha).detach()
        (gradient,) = torch.autograd.grad((norms - target).abs().sum(), w, retain_graph=True)
        before = w.detach().clone()
        moved = before - rate * gradient
        w = (2 * moved / moved.sum()).requires_grad_()
        total = weigh(losses, [kernel])
        torch.testing.assert_close(total, (before * both).sum())
        torch.testing.assert_close(weigh.of(["scene", "group"]), w.detach())
    assert abs(w[0].item() - 1) > 1e-3 and w.sum().item() == pytest.approx(2)


def test_pre_training_on_groups_gives_all_but_the_output_layer(tmp_path):
    """Of one recipe: first its groups, then its scenes, each with one head."""
    coarse = [
        dataclasses.replace(part, labels=np.array(PARENTS)[part.labels]) for part in (DATA.train, DATA.validation)
    ]
    grouped = dataclasses.replace(
        DATA_IN_GROUPS, train=coarse[0], validation=coarse[1], labels=("rail", "road"), parents=()
    )
    first = fit(small(data={"target": "group"}), Run(tmp_path / "groups"), grouped)
    start = {"start_from": str(tmp_path / "groups"), "lr": 1e-12, "epochs": 1}
    second = fit(small(model={"scheme": "none"}, **start), Run(tmp_path / "scenes"), DATA_IN_GROUPS)
    assert first.labels == ("rail", "road") and second.labels == DATA.labels
    taken = {
        name for name, p in second.module.named_parameters()
        if p.shape == (q := first.module.get_parameter(name)).shape and torch.allclose(p, q, atol=1e-6)
    }  # fmt: skip
    names = {name for name, _ in second.module.named_parameters()}
    assert names - taken == {"heads.scene.outputs.scene.weight", "heads.scene.outputs.scene.bias"}


def test_a_scheme_needs_groups(tmp_path):
    r = small(model={"scheme": "extended"}, data={"groups": {}})
    with pytest.raises(InputError, match=r"needs groups of scenes; name them in the recipe's data\.groups"):
        fit(r, Run(tmp_path), dataclasses.replace(DATA_IN_GROUPS, parents=()))
    assert not (tmp_path / "recipe.yaml").exists()


def test_the_shipped_recipe_is_the_published_system():
    r = load_recipe("teachers/amfm_net")
    assert r.front_end is not None and r.data is not None
    of = parents(SCENES, r.data.groups)
    shape = r.front_end.record().shape
    assert shape == (1, 256, 251)
    with torch.device("meta"):
        net = build(r.family, n_classes=10, n_mels=256, n_frames=251, parents=of, **r.model_options)
    assert sum(p.numel() for p in net.parameters()) == 624_192
    fast = load_recipe("teachers/amfm_net", fast=True).front_end
    assert fast is not None and fast.record().shape == (1, 64, 78)


def test_the_groups_are_those_of_task_1b(shared_audio):
    """DCASE 2020 Task 1B's own list labels clips of the same ten scenes."""
    r = load_recipe("teachers/amfm_net")
    assert r.data is not None
    group_of = {scene: name for name, scenes in r.data.groups.items() for scene in scenes}
    rows = (shared_audio / "dcase_meta/tau2020_3class/fold1_train.csv").read_text().split()[2:]
    pairs = {
        (file.removeprefix("audio/").split("-")[0], label) for file, label in zip(rows[::2], rows[1::2], strict=True)
    }
    assert pairs == set(group_of.items())
