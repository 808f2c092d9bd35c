"""What counts as a drop, when quantisation-aware training runs, and which graph is kept."""

from __future__ import annotations

import math

import numpy as np
import pytest
from tiny_training import DATA, recipe

from tinyasc.compress import drop as drop_module
from tinyasc.compress.drop import Drop, drop, quantized
from tinyasc.compress.stages import Stages
from tinyasc.errors import InputError
from tinyasc.training.fit import fit, logits
from tinyasc.training.recipe_parts import Qat
from tinyasc.training.run import Run
from tinyasc_export.graphfile import save_graph
from tinyasc_export.quantize import quantize_int8

QAT = Qat.model_validate({"epochs": 1, "freeze_epochs": 0})


def test_the_drop_by_hand():
    labels = np.array([0, 0, 1, 1])
    right = np.array([[2.0, 0], [2, 0], [0, 2], [0, 2]], np.float32)
    loss = math.log(1 + math.exp(-2))
    assert drop(right, right, labels) == Drop(0, 0, 0)
    one, two = right.copy(), right.copy()
    one[0] = [0, 2]
    two[:2] = [0, 2]
    # A clip that is lost adds the distance of its logits to the log loss.
    found = drop(right, two, labels)
    assert found.accuracy_points == 50 and found.log_loss == pytest.approx(2 * 2 / 4)
    assert found.points == pytest.approx(max(50, 100 / math.log(2)))
    better = drop(two, right, labels)
    assert better.accuracy_points == -50 and better.log_loss == pytest.approx(-1) and better.points == 0
    # One clip's answer is chance; its log loss counts.
    near = right.copy()
    near[0] = [0, 1e-3]
    found = drop(right, near, labels)
    assert found.accuracy_points == 25
    assert found.points == pytest.approx(100 * (math.log(1 + math.exp(1e-3)) - loss) / 4 / math.log(2), rel=1e-4)


@pytest.fixture(scope="module")
def student(tmp_path_factory):
    run = Run(tmp_path_factory.mktemp("run"))
    # Long enough for logits of size, on which rounding tells.
    plain = {"mixup_alpha": 0, "gain_db": 0, "time_mask": 0, "freq_mask": 0}
    model = {"attention_activation": "relu", "dropout": 0}
    trained = fit(recipe(model=model, training={"epochs": 30, "lr": 0.02}, augment=plain), run, DATA)
    return trained, logits(trained, DATA.validation.features)


@pytest.fixture
def call(student, tmp_path, monkeypatch):
    """Calls `quantized` with a training that does nothing, or worse; returns the outcomes and what was trained."""
    trained, expected = student
    ran = []

    def run(*, worse=False, points=None, **options):
        def training(deployed, trained, settings, run, data):
            ran.append(settings)
            if not worse:
                return deployed.graphs()[settings.precision]
            narrow = {name: (low / 50, high / 50) for name, (low, high) in deployed.int8_ranges.items()}
            return quantize_int8(deployed.float_graph, narrow)

        monkeypatch.setattr(drop_module, "quantization_aware", training)
        if points is not None:
            told = iter(points)
            monkeypatch.setattr(drop_module, "drop", lambda *_: Drop(0, 0, next(told)))
        settings = {
            "calibration": "mse",
            "precisions": ("int8",),
            "settings": None,
            "max_drop": 1.0,
            "stages": Stages(),
        }
        deployed, outcomes = quantized(trained, Run(tmp_path), DATA, expected, **settings | options)
        return deployed, outcomes, ran

    return run


def test_within_the_bound_nothing_is_trained(call):
    _, outcomes, ran = call(points=[1.0])
    assert ran == [] and outcomes["int8"].kept == "ptq" and outcomes["int8"].report()["qat"] is None
    assert outcomes["int8"].why == "quantisation alone drops 1.00 points, within the 1 allowed"
    assert outcomes["int8"].card()["qat_epochs"] == 0 and "qat" not in outcomes["int8"].card()


def test_above_it_the_defaults_train_and_the_better_one_is_kept(call):
    _, outcomes, ran = call(points=[1.01, 0.5])
    assert ran == [Qat.model_validate({})] and outcomes["int8"].kept == "qat"
    assert outcomes["int8"].report()["ptq"]["points"] == 1.01 and outcomes["int8"].report()["qat"]["points"] == 0.5
    assert outcomes["int8"].card()["qat_epochs"] == 10
    assert "above the 1 allowed" in outcomes["int8"].why


@pytest.mark.parametrize("after", [2.0, 3.0])
def test_a_training_that_does_not_help_is_not_kept(call, after):
    kept, outcomes, ran = call(points=[2.0, after], worse=True)
    assert len(ran) == 1 and outcomes["int8"].kept == "ptq" and outcomes["int8"].report()["qat"]["points"] == after
    plain, _, _ = call(points=[0.0])
    assert save_graph(kept.int8_graph) == save_graph(plain.int8_graph)


def test_real_answers_decide(call):
    """Ranges of a fiftieth saturate everything: seen in the drop, and the first graph is kept."""
    _, outcomes, ran = call(worse=True, max_drop=-1e9)
    assert len(ran) == 1 and outcomes["int8"].kept == "ptq"
    found = outcomes["int8"].qat
    assert found is not None and found.points > outcomes["int8"].ptq.points


def test_a_recipe_that_asks_always_trains_and_keeps(call):
    _, outcomes, ran = call(points=[0.0, 5.0], settings=QAT)
    assert ran == [QAT] and outcomes["int8"].kept == "qat" and outcomes["int8"].why == "the recipe asks for it"
    assert outcomes["int8"].card()["qat"] == QAT.model_dump()


def test_a_recipe_that_asks_for_16_bits_leaves_int8_alone(call):
    settings = QAT.model_copy(update={"precision": "int16x8"})
    deployed, outcomes, ran = call(points=[9.0, 9.0, 0.0], settings=settings)
    assert ran == [settings] and deployed.int16x8_graph is not None
    assert [outcomes[p].kept for p in ("int8", "int16x8")] == ["ptq", "qat"]


def test_every_precision_that_drops_is_trained(call):
    _, outcomes, ran = call(points=[9.0, 9.0, 0.0, 0.0], precisions=("int8", "int16x8"))
    assert [s.precision for s in ran] == ["int8", "int16x8"] == list(outcomes)


def test_too_few_calibration_clips(student, tmp_path):
    trained, expected = student
    few = DATA.train.features[:2]
    data = DATA.__class__(**{**vars(DATA), "train": DATA.train.__class__(few, DATA.train.labels[:2])})
    options = {"calibration": "mse", "precisions": ("int8",), "settings": None, "max_drop": 1.0, "stages": Stages()}
    with pytest.raises(InputError, match="at least one per class: 3 are needed, the data has 2"):
        quantized(trained, Run(tmp_path), data, expected, **options)
