"""What a run keeps of the clips that it heard."""

import dataclasses
import json
from pathlib import Path

from tinyasc.data import Clip, ClipTable, Split
from tinyasc.training.heard import Heard


def clips(*rows):
    return tuple(Clip(Path("/set", name), "bus", device, place, 1) for name, device, place in rows)


TRAIN = clips(("b.wav", "x", "lake"), ("a.wav", "y", ""), ("c.wav", "x", "lake"))
VALIDATION = clips(("d.wav", "z", "hill"))
TEST = clips(("e.wav", "x", "sea"), ("f.wav", "x", ""))
TABLE = ClipTable("t", ("bus",), (*TRAIN, *VALIDATION, *TEST))
HEARD = Heard.of(TABLE, Split(TRAIN, VALIDATION, TEST))


def test_names_places_and_devices_of_both_sets():
    names = (("a.wav", "b.wav", "c.wav"), ("d.wav",))
    assert dataclasses.astuple(HEARD) == (*names, ("lake",), ("hill",), ("x", "y"), ("z",), "")


def test_a_clip_is_known_by_its_name_or_by_its_place():
    # A clip without a place is known by its name alone; a place that nobody named is no place.
    asked = clips(("a.wav", "", ""), ("new.wav", "", "lake"), ("d.wav", "", ""), ("new.wav", "", "hill"))
    assert HEARD.known(TABLE, (*asked, *TEST), validation=False) == ["a.wav", "new.wav"]
    assert HEARD.known(TABLE, (*asked, *TEST), validation=True) == ["a.wav", "new.wav", "d.wav", "new.wav"]
    assert HEARD.trained_on(True).known(TABLE, asked, validation=False) == ["a.wav", "new.wav", "d.wav", "new.wav"]


def test_final_runs_train_on_validation_clips_too():
    both = HEARD.trained_on(True)
    assert both.train == ("a.wav", "b.wav", "c.wav", "d.wav") and both.train_locations == ("hill", "lake")
    assert both.train_devices == ("x", "y", "z") and both.validation == ("d.wav",)
    assert both.digest == HEARD.digest and HEARD.trained_on(False) == HEARD
    assert HEARD.about(False)["devices_heard"] == ["x", "y"]
    assert HEARD.about(True)["devices_heard"] == ["x", "y", "z"]


def test_joined_with_another_the_cut_stays_its_own():
    other = Heard(("z.wav",), ("y.wav",), ("moor",), (), ("q",), ())
    both = HEARD.joined(other)
    assert both.train == ("a.wav", "b.wav", "c.wav", "z.wav") and both.validation == ("d.wav", "y.wav")
    assert both.train_devices == ("q", "x", "y")
    assert both.digest == HEARD.digest != other.joined(HEARD).digest == other.digest


def test_the_file_gives_it_back(tmp_path):
    for heard in (HEARD, HEARD.joined(Heard(("z.wav",)))):
        heard.save(tmp_path)
        assert Heard.load(tmp_path) == heard


def test_a_file_of_before_names_no_devices(tmp_path):
    old = {"train": ["a.wav"], "validation": ["b.wav"], "train_locations": [], "validation_locations": ["hill"]}
    (tmp_path / "heard.json").write_text(json.dumps(old))
    heard = Heard.load(tmp_path)
    assert heard.train_devices == heard.validation_devices == ("",)
    assert heard.digest == Heard(("a.wav",), ("b.wav",)).digest
