import math

import numpy as np
import pytest
import sklearn.metrics
from hypothesis import given, settings
from hypothesis import strategies as st

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
