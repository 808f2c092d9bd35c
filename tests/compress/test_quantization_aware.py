"""Quantisation-aware training of a tiny student: what it learns from, what it gains, when it measures ranges."""

from __future__ import annotations

import copy
from itertools import pairwise

import numpy as np
import pytest
import torch
from tiny_training import BANDS, CLASSES, DATA, FRAMES, Stop, StopAfter, recipe

from tinyasc.compress import qat
from tinyasc.compress.deploy import deploy
from tinyasc.compress.qat import quantization_aware
from tinyasc.errors import InputError
from tinyasc.training import fit as fit_module
from tinyasc.training.classifier import Classifier
from tinyasc.training.fit import fit, logits
from tinyasc.training.recipe_parts import Qat
from tinyasc.training.run import Run
from tinyasc_export import reference
from tinyasc_export.calibration import METHODS, activation_ranges
from tinyasc_export.drift import quantize_input
from tinyasc_export.graphfile import save_graph
from tinyasc_export.quantize import quantize_int8, quantize_int16x8

MODEL = {"attention_activation": "relu", "dropout": 0}  # int16x8 has no hard swish


def settings(**values) -> Qat:
    return Qat.model_validate({"epochs": 10, "freeze_epochs": 2} | values)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    # Long enough for logits of size, on which rounding tells.
    plain = {"mixup_alpha": 0, "gain_db": 0, "time_mask": 0, "freq_mask": 0}
    r = recipe(model=MODEL, training={"epochs": 40, "lr": 0.02}, augment=plain)
    return fit(r, Run(tmp_path_factory.mktemp("student")), DATA)


@pytest.fixture(scope="module")
def deployed(trained):
    return deploy(trained, DATA.train.features)


@pytest.fixture(scope="module")
def finished(tmp_path_factory, deployed, trained):
    """The run and the graph of an unbroken training of either precision."""
    made = {}

    def get(precision):
        if precision not in made:
            run = Run(tmp_path_factory.mktemp(precision))
            made[precision] = run, quantization_aware(deployed, trained, settings(precision=precision), run, DATA)
        return made[precision]

    return get


# What is learnt ------------------------------------------------------------------------------------------------------


def linear(seed):
    torch.manual_seed(seed)
    return torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(BANDS * FRAMES, CLASSES))


def log_softmax(z):
    return z - np.log(np.exp(z).sum(axis=1, keepdims=True))


def test_the_loss_is_the_divergence_from_the_references_answers_to_the_same_augmented_batch():
    t = 2.5
    student, teacher = linear(0), linear(1)
    classifier = Classifier(
        student,
        recipe(distill={"temperature": t, "kd_lambda": 1.0}),
        n_classes=CLASSES,
        band_scale=torch.ones(1, BANDS),
        steps_per_epoch=1,
        reference=teacher,
    )
    clean = torch.from_numpy(DATA.train.features[:8])
    labels = torch.from_numpy(DATA.train.labels[:8])
    batch = {"features": clean, "label": labels}
    x = classifier.augmented(batch, torch.Generator().manual_seed(classifier._seed(0) + 1)).features

    def by_hand(features):
        with torch.no_grad():
            p, q = (log_softmax(m(features).double().numpy() / t) for m in (teacher, student))
        return t * t * (np.exp(p) * (p - q)).sum(axis=1).mean()

    got = float(classifier.training_step(batch, 0).detach())
    assert got == pytest.approx(by_hand(x), rel=1e-5)
    assert got != pytest.approx(by_hand(clean), rel=1e-2)
    permuted = batch | {"label": labels.roll(1)}
    assert float(classifier.training_step(permuted, 0).detach()) == got


def test_the_reference_moves_once_to_where_the_module_trains():
    mine = linear(1)
    options = {"n_classes": CLASSES, "band_scale": torch.ones(1, BANDS), "steps_per_epoch": 1}
    classifier = Classifier(linear(0), recipe(distill={}), reference=mine, **options).to("meta")
    assert next(mine.parameters()).device.type == "cpu"
    classifier.on_fit_start()
    assert next(mine.parameters()).device.type == "meta"


def test_the_float_student_is_learned_from_and_left_alone(deployed, trained, tmp_path, monkeypatch):
    given = []

    def spy(*args, **options):
        given.append(options["reference"])
        return fit_module.train_module(*args, **options)

    monkeypatch.setattr(qat, "train_module", spy)
    before = copy.deepcopy(trained.module.state_dict())
    trained.module.train()
    quantization_aware(deployed, trained, settings(epochs=1, freeze_epochs=0), Run(tmp_path), DATA)
    assert trained.module.training and given[0] is not trained.module
    trained.module.eval()
    after, taught = trained.module.state_dict(), given[0].state_dict()
    assert all(torch.equal(before[k], after[k]) and torch.equal(before[k], taught[k]) for k in before)


@pytest.mark.parametrize("precision", ["int8", "int16x8"])
def test_integer_answers_come_nearer_to_the_float_students(deployed, trained, finished, precision):
    """On the training clips, in mean squared error, against quantisation after training."""
    clips = DATA.train.features
    expected = logits(trained, clips)
    x = np.moveaxis(clips * deployed.scale[:, None] + deployed.offset[:, None], 1, -1).astype(np.float32)

    def error(graph):
        out = graph.tensors[graph.output]
        answers = (reference.run(graph, quantize_input(graph, x)).astype(float) - out.zero_point[0]) * out.scale[0]
        return np.mean((answers - expected) ** 2)

    after = deployed.int8_graph if precision == "int8" else quantize_int16x8(deployed.float_graph, deployed.ranges)
    assert error(finished(precision)[1]) < 0.7 * error(after)


# Ranges --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("precision", ["int8", "int16x8"])
@pytest.mark.parametrize("freeze", [0, 1, 3])
def test_ranges_are_measured_on_a_quarter_and_last_on_all_clips(
    deployed, trained, tmp_path, monkeypatch, precision, freeze
):
    calls = []

    def spy(method, graph, features, **options):
        ranges = activation_ranges(method, graph, features, **options)
        calls.append((method, graph, features, ranges))
        return ranges

    monkeypatch.setattr(qat, "activation_ranges", spy)
    wanted = settings(precision=precision, freeze_epochs=freeze, epochs=3)
    graph = quantization_aware(deployed, trained, wanted, Run(tmp_path), DATA)
    measured = 3 - freeze
    assert len(calls) == measured
    for i, (method, _, features, _) in enumerate(calls):
        clips = deployed.calibration if i == measured - 1 else deployed.calibration[::4]
        np.testing.assert_array_equal(features, clips)
        assert method == ("mse" if precision == "int8" else "minmax")
    weights = [g.tensors[g.ops[0].inputs[1]].data for _, g, _, _ in calls]
    assert all(not np.array_equal(a, b) for a, b in pairwise(weights))
    # Frozen from then on: the exported scales are those of the last ranges that were measured.
    wide = precision == "int16x8"
    ranges = calls[-1][3] if calls else deployed.ranges if wide else deployed.int8_ranges
    expected = (quantize_int16x8 if wide else quantize_int8)(deployed.float_graph, ranges)
    names = [graph.input, *(op.output for op in graph.ops)]
    equal = [np.array_equal(graph.tensors[n].scale, expected.tensors[n].scale) for n in names]
    assert np.mean(equal) > 0.9  # a scale may be widened for weights that grew


# Run folders ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("precision", ["int8", "int16x8"])
def test_a_killed_training_resumes_to_the_same_bytes(deployed, trained, finished, tmp_path, monkeypatch, precision):
    real = fit_module.L.Trainer

    def trainer(*, callbacks, **options):
        return real(callbacks=[*callbacks, StopAfter(2)], **options)

    arguments = deployed, trained, settings(precision=precision), Run(tmp_path), DATA
    with monkeypatch.context() as patch:
        patch.setattr(fit_module.L, "Trainer", trainer)
        with pytest.raises(Stop):
            quantization_aware(*arguments)
    assert save_graph(quantization_aware(*arguments)) == save_graph(finished(precision)[1])


def test_another_calibration_is_another_training(deployed, trained, tmp_path):
    """In the folder of a finished one too."""
    quick = settings(epochs=2, freeze_epochs=1)
    graphs = {"mse": quantization_aware(deployed, trained, quick, Run(tmp_path), DATA)}
    for method in ("minmax", "percentile"):
        others = deploy(trained, DATA.train.features, method)
        graphs[method] = quantization_aware(others, trained, quick, Run(tmp_path), DATA)
        fresh = quantization_aware(others, trained, quick, Run(tmp_path / method), DATA)
        assert save_graph(graphs[method]) == save_graph(fresh)
    assert len({save_graph(g) for g in graphs.values()}) == len(METHODS)


@pytest.mark.parametrize("precision", ["int8", "int16x8"])
@pytest.mark.parametrize(
    "options", [{"epochs": 1, "freeze_epochs": 0}, {"epochs": 3}, {"epochs": 3, "freeze_epochs": 3}]
)
@pytest.mark.parametrize("lr", [1e20, 1e30, 1e36])
def test_a_training_that_diverges_names_its_key(deployed, trained, tmp_path, precision, options, lr):
    """Rates that a recipe refuses, so that divergence is sure; it is seen before, in, or after the last epoch."""
    wanted = settings(precision=precision, **options).model_copy(update={"lr": lr})
    with pytest.raises(InputError, match=r"diverged; lower qat.lr \(it is 1e\+") as caught:
        quantization_aware(deployed, trained, wanted, Run(tmp_path), DATA)
    assert "training.lr" not in str(caught.value)


def test_a_rate_above_one_is_refused_by_the_recipe():
    with pytest.raises(InputError, match=r"qat\.lr: .*less than or equal to 1 \(got 1e\+30\)"):
        recipe(qat={"epochs": 1, "lr": 1e30})
