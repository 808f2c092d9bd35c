import dataclasses
import json

import numpy as np
import pytest
import sklearn.metrics
from answers import some

from tinyasc.errors import InputError
from tinyasc.evaluate import metrics, summary
from tinyasc.evaluate.predictions import join


def certain(answers, labels, **changes):
    """Predictions that are sure of these answers."""
    p = np.full((len(labels), 3), 0.05)
    p[np.arange(len(labels)), answers] = 0.9
    return some(len(labels), labels=np.array(labels), probabilities=p, **changes)


def test_a_report_is_json_and_holds_its_parts():
    found = summary.evaluate(join([some(30, seed=s, fold=f) for s in (0, 1) for f in (1, 2)]))
    assert json.loads(json.dumps(found, allow_nan=False)) == found
    assert set(found) == {
        "clips", "accuracy", "class_average_accuracy", "class_average_precision", "log_loss", "calibration",
        "intervals",
        "labels", "confusion_matrix", "per_class", "per_device", "mean_over_devices", "seen_devices", "unseen_devices",
        "per_fold", "over_seeds",
    }  # fmt: skip
    assert found["intervals"]["by"] == "location" and found["intervals"]["groups"] == 15
    low, high = found["intervals"]["accuracy"]
    assert low <= found["accuracy"] <= high


def test_one_fold_of_one_seed_without_devices_has_no_such_parts():
    bare = some(devices=np.array([""] * 6), seen=np.full(6, -1, np.int8))
    assert not {"per_device", "seen_devices", "per_fold", "over_seeds", "tau2019_1c_score"} & set(
        summary.evaluate(bare)
    )


def test_devices_by_hand():
    devices = np.array(["a", "a", "a", "a", "b", "s4", "s4", "s5"])
    seen = np.array([1, 1, 1, 1, 1, 0, 0, 0], np.int8)
    labels, answers = [0, 0, 1, 2, 0, 0, 1, 2], [0, 1, 1, 2, 0, 0, 2, 0]
    found = summary.evaluate(certain(answers, labels, devices=devices, seen=seen))
    shares = {name: scores["accuracy"] for name, scores in found["per_device"].items()}
    assert shares == {"a": 0.75, "b": 1.0, "s4": 0.5, "s5": 0.0}
    assert found["per_device"]["a"]["class_average_accuracy"] == pytest.approx((0.5 + 1 + 1) / 3)
    assert [found["per_device"][d]["seen"] for d in ("a", "s5")] == [True, False]
    # Devices weigh alike, however many clips they have.
    assert found["mean_over_devices"]["accuracy"] == pytest.approx((0.75 + 1 + 0.5 + 0) / 4)
    assert found["seen_devices"]["accuracy"] == pytest.approx(0.875) and found["seen_devices"]["devices"] == ["a", "b"]
    assert found["unseen_devices"]["accuracy"] == 0.25 and found["unseen_devices"]["devices"] == ["s4", "s5"]
    matrix = np.array(found["per_device"]["a"]["confusion_matrix"])
    np.testing.assert_array_equal(matrix, sklearn.metrics.confusion_matrix(labels[:4], answers[:4], labels=range(3)))
    total = sum(np.array(scores["confusion_matrix"]) for scores in found["per_device"].values())
    np.testing.assert_array_equal(total, found["confusion_matrix"])


def test_the_unknown_class_gives_the_open_set_score():
    kept = dataclasses.replace(certain([0, 1, 2, 2, 0, 1], [0, 0, 2, 2, 2, 1]), names=("bus", "park", "unknown"))
    assert summary.evaluate(kept)["tau2019_1c_score"] == pytest.approx(((0.5 + 1) / 2 + 2 / 3) / 2)
    for part in (kept.labels == 2, kept.labels != 2):
        assert "tau2019_1c_score" not in summary.evaluate(kept.where(part))


def test_seeds_by_hand():
    labels = [0, 1, 2, 0]
    right = {3: [0, 1, 2, 0], 4: [0, 1, 2, 1], 9: [0, 0, 1, 0]}
    parts = [certain(answers, labels, seeds=np.full(4, seed)) for seed, answers in right.items()]
    found = summary.evaluate(join(parts))["over_seeds"]
    assert {seed: s["accuracy"] for seed, s in found["seeds"].items()} == {"3": 1.0, "4": 0.75, "9": 0.5}
    assert found["accuracy"]["mean"] == 0.75
    assert found["accuracy"]["standard_deviation"] == pytest.approx(np.sqrt((0.0625 + 0 + 0.0625) / 2))


def test_out_of_fold_is_over_all_clips_and_not_the_mean_of_folds():
    folds = [certain([0] * 9, [0] * 9), certain([1], [0], folds=np.array([2]))]
    found = summary.evaluate(join(folds))
    assert [found["per_fold"][f]["accuracy"] for f in ("1", "2")] == [1.0, 0.0]
    assert found["accuracy"] == 0.9
    # A fold of a single location has nothing to draw from.
    assert found["per_fold"]["2"]["intervals"] is None


def test_compared_clip_by_clip_whatever_their_order():
    labels = [0, 1, 2, 0, 1, 2]
    one = certain([0, 1, 2, 0, 0, 0], labels)
    two = certain([0, 1, 0, 1, 1, 0], labels)
    shuffled = two.where(np.array([5, 3, 1, 0, 2, 4]))
    found = summary.compare(one, shuffled)
    assert found == summary.compare(one, two)
    assert found["accuracy"]["difference"] == pytest.approx(4 / 6 - 3 / 6)
    expected = metrics.log_loss(one.probabilities, one.labels) - metrics.log_loss(two.probabilities, two.labels)
    assert found["log_loss"]["difference"] == pytest.approx(expected)
    assert found["clips"] == 6 and found["by"] == "location"
    back = summary.compare(two, one)["accuracy"]
    assert back["difference"] == -found["accuracy"]["difference"] and back["p"] == found["accuracy"]["p"]


def test_seeds_of_a_clip_are_averaged_before_they_are_compared():
    labels = [0, 1, 2, 0]
    both = join([certain([0, 1, 2, 0], labels), certain([1, 1, 2, 0], labels, seeds=np.full(4, 1))])
    one = certain([0, 1, 2, 1], labels)
    assert summary.compare(both, one)["accuracy"]["difference"] == pytest.approx((0.5 + 1 + 1 + 1) / 4 - 0.75)


def test_what_cannot_be_compared():
    one = some()
    with pytest.raises(InputError, match="different classes"):
        summary.compare(one, some(names=("a", "b", "c")))
    with pytest.raises(InputError, match=r"not measured on the same clips \(1 differ, a/5, é.wav"):
        summary.compare(one, some(5))
    with pytest.raises(InputError, match="two labels"):
        summary.compare(one, dataclasses.replace(one, labels=(one.labels + 1) % 3))


def test_device_views_by_hand():
    devices = np.array(["clean", "clean", "m1", "m1", "m2", "m2", "u1", "u1"])
    seen = np.array([-1, -1, 1, 1, 1, 1, 0, 0], np.int8)
    views = certain(
        [0, 1, 0, 0, 0, 1, 1, 0], [0, 1] * 4, devices=devices, seen=seen, locations=np.array(["x", "y"] * 4)
    )
    found = summary.device_views(views)
    assert [found[part]["accuracy"] for part in ("clean", "seen", "unseen")] == [1.0, 0.75, 0.0]
    assert found["seen"]["devices"] == ["m1", "m2"] and found["unseen"]["devices"] == ["u1"]
    assert found["per_device"]["m1"]["accuracy"] == 0.5
    # Two places are two, through however many microphones they are heard.
    assert found["seen"]["intervals"]["groups"] == 2
