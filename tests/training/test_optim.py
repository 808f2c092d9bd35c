"""Optimisers against steps computed by hand, decay rules, and batch norms that do not learn."""

import pytest
import torch
from torch import nn

from tinyasc.errors import InputError
from tinyasc.training.optim import freeze_statistics, make_optimizer, parameter_groups, prepare_norms
from tinyasc.training.recipe_parts import Training


def after_steps(steps, **training):
    """A weight of 1 whose loss is 2 w, after some steps at a rate of 0.1."""
    module = nn.Linear(1, 1, bias=False)
    nn.init.ones_(module.weight)
    optimizer = make_optimizer(module, Training(lr=0.1, weight_decay=0.1, **training))
    for _ in range(steps):
        optimizer.zero_grad()
        (2 * module.weight).sum().backward()
        optimizer.step()
    return module.weight.item()


def test_sgd():
    # gradient 2 + 0.1 w
    assert after_steps(1, optimizer="sgd") == pytest.approx(1 - 0.1 * 2.1)
    first = 1 - 0.1 * 2.1
    second = first - 0.1 * (0.9 * 2.1 + 2 + 0.1 * first)
    assert after_steps(2, optimizer="sgd", momentum=0.9) == pytest.approx(second)


def test_nesterov():
    # d1 = 2.1, v1 = 2.1: w1 = 1 - 0.1 (2.1 + 0.9 * 2.1); d2 = 2.0601, v2 = 0.9 * 2.1 + d2: w2 = w1 - 0.1 (d2 + 0.9 v2)
    assert after_steps(1, optimizer="sgd", momentum=0.9, nesterov=True) == pytest.approx(0.601)
    assert after_steps(2, optimizer="sgd", momentum=0.9, nesterov=True) == pytest.approx(0.039481)


def test_adam_takes_decay_into_the_gradient_and_adamw_beside_it():
    # The first step of Adam is the learning rate, whatever the gradient's size.
    assert after_steps(1, optimizer="adam") == pytest.approx(0.9)
    assert after_steps(1, optimizer="adamw") == pytest.approx((1 - 0.1 * 0.1) - 0.1)
    assert after_steps(1) == after_steps(1, optimizer="adamw")


class Mixed(nn.Module):
    """One of everything that a decay rule tells apart."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(1, 2, 3)
        self.norm = nn.BatchNorm2d(2)
        self.layer_norm = nn.LayerNorm((2, 4))  # its scale is a matrix
        self.linear = nn.Linear(2, 2)
        self.gamma = nn.Parameter(torch.zeros(1))


@pytest.mark.parametrize(
    ("rule", "names"),
    [
        ("weights", {"conv.weight", "linear.weight"}),
        ("convs", {"conv.weight"}),
        ("all", {name for name, _ in Mixed().named_parameters()}),
    ],
)
def test_decay_rules(rule, names):
    module = Mixed()
    groups = parameter_groups(module, Training(weight_decay=0.3, weight_decay_on=rule))
    name_of = {id(p): name for name, p in module.named_parameters()}
    assert {name_of[id(p)] for g in groups for p in g["params"] if g["weight_decay"] == 0.3} == names
    everything = [name_of[id(p)] for g in groups for p in g["params"]]
    assert sorted(everything) == sorted(name_of.values())
    assert all(g["weight_decay"] in (0.0, 0.3) for g in groups)


def test_a_rule_that_covers_nothing_is_refused():
    with pytest.raises(InputError, match="no convs to decay"):
        parameter_groups(nn.Linear(2, 2), Training(weight_decay_on="convs"))
    with pytest.raises(InputError, match="every parameter is frozen"):
        parameter_groups(nn.Linear(2, 2).requires_grad_(False), Training())


def small_net(affine):
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4, affine=affine), nn.ReLU(), nn.Flatten(), nn.Linear(64, 3)
    )


def test_norms_without_affine_train_as_norms_that_have_none():
    ours, plain = small_net(True), small_net(False)
    nn.init.constant_(ours[1].weight, 3.0)  # is put back to 1
    prepare_norms(ours, affine=False, frozen=False)
    x, y = torch.randn(8, 1, 6, 6), torch.arange(8) % 3
    settings = Training(optimizer="sgd", momentum=0.9, lr=0.1)
    for module in (ours, plain):
        optimizer = make_optimizer(module, settings)
        for _ in range(5):
            optimizer.zero_grad()
            nn.functional.cross_entropy(module(x), y).backward()
            optimizer.step()
    state = ours.state_dict()
    for name, value in plain.state_dict().items():
        assert torch.allclose(state[name].double(), value.double(), atol=1e-6), name
    assert torch.equal(state["1.weight"], torch.ones(4)) and torch.equal(state["1.bias"], torch.zeros(4))


def test_frozen_statistics_stand_still_and_normalise():
    module = small_net(True)
    prepare_norms(module, affine=True, frozen=True)
    module.train()
    freeze_statistics(module)
    before = {k: v.clone() for k, v in module.state_dict().items()}
    x = torch.randn(8, 1, 6, 6)
    trained = module(x)
    assert all(torch.equal(v, before[k]) for k, v in module.state_dict().items())
    assert torch.equal(trained, module.eval()(x))
    learning = {name for name, p in module.named_parameters() if p.requires_grad}
    assert learning == {"0.weight", "0.bias", "4.weight", "4.bias"}
