"""Groups of scenes: sums over their scenes, and two models joined, by hand."""

import dataclasses

import numpy as np
import pytest
from answers import some

from tinyasc.errors import InputError
from tinyasc.evaluate.groups import fuse, group_scores, summed

GROUPS = {"outdoor": ["park"], "indoor": ["tram", "bus"]}  # sorted: indoor 0, outdoor 1; bus, park, tram: 0, 1, 0
SCENES = np.array([[0.3, 0.45, 0.25], [0.1, 0.8, 0.1], [0.5, 0.2, 0.3]])
GROUPED = np.array([[0.8, 0.2], [0.5, 0.5], [0.0, 1.0]])


def both(**changes):
    """Clips of bus, park and tram; a scene model that takes the first for a park, and a group model."""
    grouped = {"names": ("indoor", "outdoor"), "labels": np.array([0, 1, 0]), "probabilities": GROUPED}
    return some(3, probabilities=SCENES), some(3, **grouped | changes)


def test_sums_over_the_scenes_of_a_group():
    np.testing.assert_allclose(summed(SCENES, np.array([0, 1, 0])), [[0.55, 0.45], [0.2, 0.8], [0.8, 0.2]])


def test_a_group_may_be_right_where_no_scene_is():
    scenes, _ = both()
    found = group_scores(scenes, GROUPS)
    assert found["scenes"] == {"indoor": ["tram", "bus"], "outdoor": ["park"]}
    assert found["summed"]["accuracy"] == 1 and "head" not in found
    assert found["summed"]["log_loss"] == pytest.approx(-np.log([0.55, 0.8, 0.8]).mean())
    assert (scenes.probabilities.argmax(axis=1) == scenes.labels).sum() == 1


def test_the_head_is_scored_by_itself():
    scenes, grouped = both()
    found = group_scores(scenes, GROUPS, grouped.probabilities)
    assert found["head"]["accuracy"] == pytest.approx(1 / 3)  # half and half goes to the first
    assert found["summed"]["accuracy"] == 1


def test_fusion_by_hand():
    """0.3 * 0.8, 0.45 * 0.2, 0.25 * 0.8 are 0.24, 0.09, 0.20, together 0.53."""
    joint = fuse(*both(), GROUPS)
    np.testing.assert_allclose(joint.probabilities[0], np.array([0.24, 0.09, 0.20]) / 0.53)
    np.testing.assert_allclose(joint.probabilities[1], SCENES[1])
    np.testing.assert_allclose(joint.probabilities[2], [0, 1, 0])
    assert joint.names == ("bus", "park", "tram") and (joint.labels == [0, 1, 2]).all()


@pytest.mark.parametrize(
    ("scene", "group", "joint"), [(1, 0, 1), (0, 1, 1), (0, 0, 0), (0, -1, -1), (-1, 0, -1), (-1, 1, 1), (-1, -1, -1)]
)
def test_a_device_is_unseen_where_neither_of_the_two_heard_it(scene, group, joint):
    scenes, grouped = both()
    scenes, grouped = (
        dataclasses.replace(p, seen=np.full(3, s, np.int8)) for p, s in ((scenes, scene), (grouped, group))
    )
    assert fuse(scenes, grouped, GROUPS).seen.tolist() == [joint] * 3


def test_where_the_two_exclude_each_other_the_scenes_answer():
    _, grouped = both(probabilities=np.array([[0.0, 1.0], [1.0, 0.0], [0.0, 1.0]]))
    scenes = some(3, probabilities=np.eye(3))
    np.testing.assert_array_equal(fuse(scenes, grouped, GROUPS).probabilities, np.eye(3))


@pytest.mark.parametrize(
    ("changes", "groups", "says"),
    [
        ({"names": ("in", "out")}, GROUPS, r"names in, out, the groups of scenes are indoor, outdoor"),
        ({"clips": np.array(["a", "b", "c"])}, GROUPS, "not measured on the same clips"),
        ({"labels": np.array([1, 1, 0])}, GROUPS, "or not with these groups"),
        ({}, {"indoor": ["tram", "bus"]}, r"no group has the scene 'park'"),
        ({}, {"indoor": ["tram", "bus", "train"], "outdoor": ["park"]}, "no scene 'train'"),
        ({}, {**GROUPS, "sea": []}, "sea has no scenes; name some, or take it out"),
    ],
)
def test_what_does_not_fit_is_refused(changes, groups, says):
    with pytest.raises(InputError, match=says):
        fuse(*both(**changes), groups)
