"""Focal loss against its formula, and as a recipe's key."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from tiny_training import BANDS, DATA, recipe

from tinyasc.errors import InputError
from tinyasc.training.classifier import Classifier
from tinyasc.training.fit import fit
from tinyasc.training.losses import focal_loss
from tinyasc.training.recipe import load_recipe
from tinyasc.training.run import Run


def test_by_hand():
    """Probabilities 3/4 and 1/4: the class of 3/4 keeps a quarter of its loss at gamma 1, a sixteenth at gamma 2."""
    logits = torch.tensor([[3.0, 1.0]], dtype=torch.float64).log()
    sure = torch.tensor([[1.0, 0.0]], dtype=torch.float64)
    assert float(focal_loss(logits, sure, 1)) == pytest.approx(0.25 * -np.log(0.75))
    assert float(focal_loss(logits, sure, 2)) == pytest.approx(0.0625 * -np.log(0.75))
    soft = torch.tensor([[0.6, 0.4]], dtype=torch.float64)
    assert float(focal_loss(logits, soft, 1)) == pytest.approx(-0.6 * 0.25 * np.log(0.75) - 0.4 * 0.75 * np.log(0.25))
    both = focal_loss(logits.expand(2, 2), torch.cat([sure, soft]), 1)
    assert float(both) == pytest.approx(float(focal_loss(logits, sure, 1) + focal_loss(logits, soft, 1)) / 2)


@pytest.mark.parametrize("gamma", [0.0, 1e-12])
def test_without_gamma_it_is_cross_entropy(gamma):
    generator = torch.Generator().manual_seed(0)
    logits = 3 * torch.randn(7, 5, generator=generator, dtype=torch.float64)
    target = torch.rand(7, 5, generator=generator, dtype=torch.float64).softmax(dim=1)
    torch.testing.assert_close(focal_loss(logits, target, gamma), F.cross_entropy(logits, target))


@pytest.mark.parametrize("gamma", [0.5, 1.0, 2.0])
def test_gradients_are_finite_where_an_answer_is_certain(gamma):
    logits = torch.tensor([[200.0, 0.0, -200.0]], requires_grad=True)
    focal_loss(logits, torch.tensor([[0.5, 0.3, 0.2]]), gamma).backward()
    assert logits.grad is not None and logits.grad.isfinite().all()


@pytest.mark.parametrize("gamma", [0.0, 1.0])
def test_the_recipe_chooses(gamma):
    r = recipe(training={"focal_gamma": gamma})
    module = Classifier(torch.nn.Identity(), r, n_classes=2, band_scale=torch.ones(BANDS), steps_per_epoch=1)
    logits, target = torch.tensor([[1.0, 3.0]]), torch.tensor([[0.25, 0.75]])
    torch.testing.assert_close(module.scene_loss(logits, target, None), focal_loss(logits, target, gamma))


def test_training_with_it(tmp_path):
    """The loss that is noted is smaller than cross-entropy's, since every class's part is."""
    notes = {}
    for gamma in (0.0, 1.0):
        r = recipe(training={"focal_gamma": gamma, "epochs": 2})
        notes[gamma] = fit(r, Run(tmp_path / str(gamma)), DATA).validation
    assert notes[1.0]["train_loss"] < notes[0.0]["train_loss"]


def test_a_negative_gamma_is_refused():
    with pytest.raises(InputError, match=r"training\.focal_gamma"):
        load_recipe("teachers/demo", ["training.focal_gamma=-1"])
