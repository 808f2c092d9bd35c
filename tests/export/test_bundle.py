"""What a bundle from outside may hold."""

import json

import pytest

from tinyasc_export.bundle import Bundle
from tinyasc_export.errors import ModelFileError

GOOD = {"format": 1, "labels": ["a", "b"], "front_end": {"n_mels": 1}, "card": {"seed": 0}}


def text(**changes):
    return json.dumps(GOOD | changes)


def test_a_bundle_comes_back():
    bundle = Bundle.from_json(text(), "m")
    assert (bundle.labels, bundle.front_end, bundle.card) == (("a", "b"), {"n_mels": 1}, {"seed": 0})
    assert Bundle.from_json(bundle.to_json(), "m") == bundle


@pytest.mark.parametrize("number", ["NaN", "-Infinity", "1e999"])
@pytest.mark.parametrize("part", ["card", "front_end"])
def test_numbers_that_json_lacks_are_refused(part, number):
    """They would come out again in `tinyasc show --json`, which no other reader could read."""
    content = text(**{part: {"x": [12345]}}).replace("12345", number)
    with pytest.raises(ModelFileError, match=r"^m: its tinyasc metadata is damaged"):
        Bundle.from_json(content, "m")


@pytest.mark.parametrize("labels", [["a", "a"], ["a", "\ud800"]])
def test_labels_that_no_answer_could_be_written_with_are_refused(labels):
    """Twice the same name is one key of a JSON answer; half a surrogate pair cannot be written to a table."""
    with pytest.raises(ModelFileError, match=r"^m: its tinyasc metadata names a label twice, or one that is no text"):
        Bundle.from_json(text(labels=labels), "m")
