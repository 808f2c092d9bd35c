import math

import numpy as np
import pytest
import sklearn.metrics
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torchmetrics.functional.classification import multiclass_calibration_error

from tinyasc.errors import InputError
from tinyasc.evaluate import metrics


@st.composite
def answers(draw):
    classes, clips = draw(st.integers(2, 6)), draw(st.integers(1, 40))
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    sharpness = draw(st.sampled_from([0.1, 1.0, 10.0, 100.0]))
    logits = sharpness * rng.standard_normal((clips, classes))
    p = np.exp(logits - logits.max(axis=1, keepdims=True))
    return p / p.sum(axis=1, keepdims=True), rng.integers(0, classes, clips)


@settings(max_examples=100, deadline=None)
@given(answers())
def test_equal_to_scikit_learn(drawn):
    p, labels = drawn
    got = metrics.evaluate(p, labels)
    answer = p.argmax(axis=1)
    assert set(got) == {"clips", "accuracy", "class_average_accuracy", "log_loss"}
    assert got["clips"] == len(labels)
    assert got["accuracy"] == pytest.approx(sklearn.metrics.accuracy_score(labels, answer), abs=1e-12)
    # balanced_accuracy_score leaves classes out that only occur among the answers, as ours does.
    recall = sklearn.metrics.recall_score(labels, answer, labels=np.unique(labels), average="macro", zero_division=0)
    assert got["class_average_accuracy"] == pytest.approx(recall, abs=1e-12)
    clipped = np.clip(p, 1e-15, 1)
    expected = sklearn.metrics.log_loss(labels, clipped / clipped.sum(axis=1, keepdims=True), labels=range(p.shape[1]))
    assert got["log_loss"] == pytest.approx(expected, rel=1e-6, abs=1e-12)


@settings(max_examples=50, deadline=None)
@given(answers())
@pytest.mark.filterwarnings("ignore:y_pred contains classes")
def test_class_average_equals_balanced_accuracy(drawn):
    p, labels = drawn
    expected = sklearn.metrics.balanced_accuracy_score(labels, p.argmax(axis=1))
    assert metrics.class_average_accuracy(p, labels) == pytest.approx(expected, abs=1e-12)


def test_values_by_hand():
    p = np.array([[0.7, 0.2, 0.1], [0.5, 0.25, 0.25], [0.1, 0.8, 0.1], [0.2, 0.2, 0.6]])
    labels = np.array([0, 1, 1, 0])
    got = metrics.evaluate(p, labels)
    assert got["clips"] == 4
    assert got["accuracy"] == 0.5  # clips 0 and 2
    assert got["class_average_accuracy"] == 0.5
    assert got["log_loss"] == pytest.approx(-(math.log(0.7) + math.log(0.25) + math.log(0.8) + math.log(0.2)) / 4)


def test_the_class_average_weighs_classes_alike():
    p = np.array([[0.9, 0.1]] * 9 + [[0.9, 0.1]])
    labels = np.array([0] * 9 + [1])
    assert metrics.accuracy(p, labels) == 0.9
    assert metrics.class_average_accuracy(p, labels) == 0.5


def test_a_certain_wrong_answer_costs_the_logarithm_of_the_cut_off():
    p = np.array([[1.0, 0.0]])
    assert metrics.log_loss(p, np.array([1])) == pytest.approx(-math.log(1e-15))
    assert metrics.log_loss(p, np.array([0])) == 0.0


def test_even_answers_cost_log_k():
    assert metrics.log_loss(np.full((3, 10), 0.1), np.array([0, 5, 9])) == pytest.approx(math.log(10))


def test_metrics_are_plain_floats():
    got = metrics.evaluate(np.full((2, 2), 0.5, np.float32), np.array([0, 1], np.int64))
    assert all(type(value) is float for value in got.values())


@settings(max_examples=100, deadline=None)
@given(answers())
def test_precision_and_confusion_equal_to_scikit_learn(drawn):
    p, labels = drawn
    answer = p.argmax(axis=1)
    expected = sklearn.metrics.precision_score(labels, answer, average="macro", zero_division=0)
    assert metrics.class_average_precision(p, labels) == pytest.approx(expected, abs=1e-12)
    matrix = metrics.confusion_matrix(p, labels)
    np.testing.assert_array_equal(matrix, sklearn.metrics.confusion_matrix(labels, answer, labels=range(p.shape[1])))


@settings(max_examples=60, deadline=None)
@given(answers())
def test_per_class_equals_scikit_learn(drawn):
    p, labels = drawn
    answer, k = p.argmax(axis=1), p.shape[1]
    found = metrics.per_class(p, labels, [f"c{i}" for i in range(k)])
    assert list(found) == [f"c{i}" for i in range(k)]
    precision, recall, _, support = sklearn.metrics.precision_recall_fscore_support(
        labels, answer, labels=range(k), zero_division=np.nan
    )
    for i, scores in enumerate(found.values()):
        assert scores["clips"] == support[i]
        assert scores["accuracy"] == (None if support[i] == 0 else pytest.approx(recall[i]))
        assert scores["precision"] == (None if not (answer == i).any() else pytest.approx(precision[i]))
        if support[i]:
            assert scores["log_loss"] == pytest.approx(metrics.log_loss(p[labels == i], labels[labels == i]))
        else:
            assert scores["log_loss"] is None


@settings(max_examples=60, deadline=None)
@given(answers(), st.integers(1, 20))
def test_calibration_error_equals_torchmetrics(drawn, bins):
    p, labels = drawn
    # A confidence that is 1 in float32 gets a bin of its own there, beyond the last.
    assume(np.float32(p.max()) < 1)
    found = metrics.calibration(p, labels, bins)
    expected = multiclass_calibration_error(
        torch.from_numpy(p), torch.from_numpy(labels), num_classes=p.shape[1], n_bins=bins, norm="l1"
    )
    # torchmetrics sums in float32.
    assert found["expected_calibration_error"] == pytest.approx(float(expected), abs=1e-5)
    assert len(found["bins"]) == bins and sum(b["clips"] for b in found["bins"]) == len(labels)
    assert all(b["lower"] < b["confidence"] <= b["upper"] + 1e-12 for b in found["bins"] if b["clips"])


def test_calibration_by_hand():
    p = np.array([[0.9, 0.1], [0.9, 0.1], [0.6, 0.4], [0.5, 0.5]])
    labels = np.array([0, 1, 0, 1])
    # (0.8, 1]: 0.9 against 1 of 2; (0.4, 0.6]: 0.55 against 1 of 2.
    found = metrics.calibration(p, labels, 5)
    assert found["expected_calibration_error"] == pytest.approx(0.5 * 0.4 + 0.5 * 0.05)
    assert [b["clips"] for b in found["bins"]] == [0, 0, 2, 0, 2]
    assert found["bins"][0] == {"lower": 0.0, "upper": 0.2, "clips": 0, "confidence": None, "accuracy": None}
    certain = metrics.calibration(np.eye(2), np.array([0, 1]), 5)
    assert certain["expected_calibration_error"] == 0.0 and certain["bins"][-1]["clips"] == 2


def test_a_model_that_knows_how_sure_it_is_has_no_calibration_error(rng):
    confidence = rng.uniform(0.5, 1, 200_000)
    p = np.stack([confidence, 1 - confidence], axis=1)
    labels = (rng.uniform(size=len(p)) > confidence).astype(int)
    assert metrics.calibration(p, labels)["expected_calibration_error"] < 0.006
    assert metrics.calibration(p**2 / (p**2).sum(1, keepdims=True), labels)["expected_calibration_error"] > 0.05


def test_open_set_score_by_hand():
    """DCASE 2019 Task 1C: (mean of the known classes' accuracies + accuracy on unknown) / 2."""
    answer = np.array([0, 0, 1, 2, 2, 2, 0, 2])
    labels = np.array([0, 0, 0, 0, 1, 1, 2, 2])
    p = np.eye(3)[answer]
    # Class 0: 2 of 4, class 1: 0 of 2; unknown (2): 1 of 2.
    assert metrics.open_set_score(p, labels, 2) == pytest.approx((0.25 + 0.5) / 2)


@pytest.mark.parametrize("labels", [np.array([2, 2]), np.array([0, 1])])
def test_an_open_set_score_needs_both_kinds(labels):
    with pytest.raises(InputError, match="known and of unknown"):
        metrics.open_set_score(np.full((2, 3), 1 / 3), labels, 2)


GOOD, LABELS = np.full((3, 4), 0.25), np.array([0, 1, 3])


@pytest.mark.parametrize(
    ("p", "labels", "text"),
    [
        (GOOD, LABELS[:2], "do not fit"),
        (GOOD[0], LABELS, "do not fit"),
        (GOOD[None], LABELS, "do not fit"),
        (GOOD, LABELS[:, None], "do not fit"),
        (GOOD[:0], LABELS[:0], "no clips"),
        (GOOD[:, :0], LABELS, "sum to 1"),
        (GOOD * 1.01, LABELS, "sum to 1"),
        (GOOD * 0, LABELS, "sum to 1"),
        (np.where(np.eye(3, 4) > 0, np.nan, GOOD), LABELS, "finite"),
        (np.where(np.eye(3, 4) > 0, np.inf, GOOD), LABELS, "finite"),
        (np.array([[1.5, -0.5]]), np.array([0]), "negative"),
        (GOOD, np.array([0, 1, 4]), "0..3"),
        (GOOD, np.array([0, 1, -1]), "0..3"),
        (GOOD, np.array([0.0, 1.0, 2.0]), "class indices"),
        (GOOD, np.array([0.0, np.nan, 2.0]), "class indices"),
        (GOOD, np.array(["a", "b", "c"]), "class indices"),
    ],
)
def test_bad_input(p, labels, text):
    with pytest.raises(InputError, match=text):
        metrics.evaluate(p, labels)


def test_rows_as_coarse_as_an_int8_softmax_pass():
    metrics.validate(GOOD + np.array([[5e-4, 0, 0, 0]]), LABELS)
