from __future__ import annotations

import dataclasses
import random
from pathlib import Path

import pytest

from tinyasc.data import DATASETS, Clip, ClipTable, Split, load_table, split_table
from tinyasc.data.table import check_disjoint, cut_by_location
from tinyasc.errors import InputError


def places(scenes=3, locations=20, clips=4, fold=0) -> tuple[Clip, ...]:
    return tuple(
        Clip(Path(f"/d/{fold}-{s}-{p}-{c}.wav"), f"scene{s}", "a", f"{fold}-{s}-{p}", fold)
        for s in range(scenes)
        for p in range(locations)
        for c in range(clips)
    )


@pytest.fixture
def by_location() -> ClipTable:
    labels = ("scene0", "scene1", "scene2")
    return ClipTable(name="t", labels=labels, clips=places() + places(fold=1, locations=5))


@pytest.fixture
def by_fold() -> ClipTable:
    clips = tuple(clip for fold in range(1, 6) for clip in places(fold=fold, locations=2))
    return ClipTable(name="t", labels=("scene0", "scene1", "scene2"), clips=clips, validation_by="fold")


def keys(split: Split) -> dict[str, set[str]]:
    return {part: {clip.location for clip in clips} for part, clips in split}


def test_validation_by_location_is_stratified_and_disjoint(by_location):
    split = split_table(by_location)
    sets = keys(split)
    assert not sets["train"] & sets["validation"] and not sets["train"] & sets["test"]
    assert not sets["validation"] & sets["test"]
    assert sum(len(clips) for _, clips in split) == len(by_location.clips)
    for scene in by_location.labels:
        chosen = {clip.location for clip in split.validation if clip.scene == scene}
        assert 0.15 <= len(chosen) / 20 <= 0.20
    assert {clip.fold for clip in split.test} == {1}


def test_the_cut_does_not_depend_on_the_order(by_location):
    shuffled = list(by_location.clips)
    random.Random(1).shuffle(shuffled)
    again = dataclasses.replace(by_location, clips=tuple(shuffled))
    assert keys(split_table(by_location)) == keys(split_table(again))


def test_a_location_shared_by_scenes_stays_whole():
    clips = tuple(dataclasses.replace(clip, location=clip.location.split("-")[-1]) for clip in places())
    train, validation = cut_by_location(clips)
    assert not {clip.location for clip in train} & {clip.location for clip in validation}
    assert 3 <= len({clip.location for clip in validation}) <= 4


@pytest.mark.parametrize("locations", [2, 3, 5])
def test_few_locations_give_one_to_validation(locations):
    _, validation = cut_by_location(places(locations=locations))
    assert len({clip.location for clip in validation}) == 3


def test_one_location_is_too_few():
    with pytest.raises(InputError, match=r"'scene0'.*too few"):
        cut_by_location(places(locations=1))


@pytest.mark.parametrize(("test", "validation"), [(1, 2), (4, 5), (5, 1)])
def test_validation_is_the_next_fold(by_fold, test, validation):
    split = split_table(by_fold, test_fold=test)
    assert {clip.fold for clip in split.test} == {test}
    assert {clip.fold for clip in split.validation} == {validation}
    assert len({clip.fold for clip in split.train}) == 3


def test_the_validation_fold_can_be_chosen(by_fold):
    assert {clip.fold for clip in split_table(by_fold, 1, 4).validation} == {4}


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"test_fold": 6}, "no test fold 6; its folds are 1, 2, 3, 4, 5"),
        ({"test_fold": 0}, "no test fold 0"),
        ({"validation_fold": 1}, "cannot validate on fold 1 .* one of 2, 3, 4, 5"),
        ({"validation_fold": 9}, "cannot validate on fold 9"),
    ],
)
def test_unknown_folds(by_fold, arguments, words):
    with pytest.raises(InputError, match=words):
        split_table(by_fold, **arguments)


def test_a_table_cut_by_location_has_no_validation_fold(by_location):
    with pytest.raises(InputError, match="cut by location"):
        split_table(by_location, validation_fold=1)


def test_a_location_in_two_sets_is_refused(by_fold):
    clip = by_fold.clips[0]
    stray = dataclasses.replace(clip, path=Path("/d/stray.wav"), fold=3)
    table = dataclasses.replace(by_fold, clips=(*by_fold.clips, stray))
    with pytest.raises(InputError, match="location '1-0-0' is in the train and the test set"):
        split_table(table)


def test_a_file_in_two_sets_is_refused():
    a, b, c = places(scenes=1, locations=3, clips=1)
    with pytest.raises(InputError, match=r"path .* is in the train and the test set"):
        check_disjoint(Split((a,), (b,), (dataclasses.replace(c, path=a.path),)))


def test_an_empty_set_is_refused():
    a, b = places(scenes=1, locations=2, clips=1)
    with pytest.raises(InputError, match="the test set is empty"):
        check_disjoint(Split((a,), (b,), ()))


@pytest.mark.parametrize(("typo", "meant"), [("tau2020x", "tau2020"), ("esc-50", "esc50"), ("Demo", "demo")])
def test_an_unknown_name_gets_the_nearest(tmp_path, typo, meant):
    with pytest.raises(InputError) as caught:
        load_table(typo, tmp_path)
    message = str(caught.value)
    assert f"did you mean {meant!r}?" in message
    assert message.split("known: ")[1].startswith(meant)
    assert all(name in message for name in DATASETS)


def test_a_name_like_no_other(tmp_path):
    with pytest.raises(InputError, match="unknown data set 'xyzzy'; known: csv, demo, esc10, esc50, folders, tau2018a"):
        load_table("xyzzy", tmp_path)


@pytest.mark.parametrize("name", DATASETS)
def test_a_missing_root(tmp_path, name):
    with pytest.raises(InputError, match="is not there"):
        load_table(name, tmp_path / "nothing")
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="lacks the column" if name == "csv" else "not a folder"):
        load_table(name, tmp_path / "file")
    words = "no audio file" if name in ("folders", "unlabelled") else r"\.csv"
    with pytest.raises(InputError, match=words):
        load_table(name, tmp_path)


def test_unseen_devices():
    def clip(device, place):
        return Clip(Path(f"/d/{device}-{place}.wav"), "s", device, place, 0)

    split = Split(
        (clip("a", "1"), clip("b", "1")), (clip("c", "2"),), tuple(clip(d, "3") for d in ("s2", "a", "s1", "c"))
    )
    assert split.unseen_devices == ("s1", "s2")


def test_clips_without_labels_cannot_be_split():
    table = ClipTable(name="t", labels=(), clips=places())
    with pytest.raises(InputError, match=r"have no labels.*tinyasc infer"):
        split_table(table)
