from __future__ import annotations

from collections import Counter, defaultdict

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tinyasc.data import load_table, split_table
from tinyasc.data.folders import deal_folds
from tinyasc.errors import InputError


def write(root, *names):
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()
    return root


@pytest.fixture
def root(tmp_path):
    names = [f"{scene}/{i}.wav" for scene in ("dog", "rain") for i in range(10)]
    return write(tmp_path / "set", *names, "dog/notes.txt", "rain/.hidden.wav", ".git/x.wav")


def test_a_folder_per_class(root):
    table = load_table("folders", root)
    assert table.labels == ("dog", "rain") and len(table.clips) == 20
    assert Counter((clip.scene, clip.fold) for clip in table.clips) == dict.fromkeys(
        ((scene, fold) for scene in table.labels for fold in range(1, 6)), 2
    )
    split = split_table(table, 2)
    assert (len(split.train), len(split.validation), len(split.test)) == (12, 4, 4)
    assert "no official ones" in table.notes[0]


def test_the_folds_do_not_depend_on_where_the_files_lie(root, tmp_path):
    before = {clip.path.name: clip.fold for clip in load_table("folders", root).clips if clip.scene == "dog"}
    root.rename(tmp_path / "moved")
    after = {
        clip.path.name: clip.fold for clip in load_table("folders", tmp_path / "moved").clips if clip.scene == "dog"
    }
    assert before == after


def test_groups_are_folders_below_the_class(tmp_path):
    root = write(tmp_path, *(f"{s}/place{g}/{i}.flac" for s in ("dog", "rain") for g in range(5) for i in range(3)))
    table = load_table("folders", root)
    folds = defaultdict(set)
    for clip in table.clips:
        folds[clip.location].add(clip.fold)
    # A place of one name in two classes is one place.
    assert sorted(folds) == [f"place{g}" for g in range(5)]
    assert sorted(fold for found in folds.values() for fold in found) == [1, 2, 3, 4, 5]
    split_table(table)


@given(
    st.dictionaries(st.sampled_from("abcd"), st.sets(st.integers(0, 40).map(str), min_size=3, max_size=20), min_size=2),
    st.booleans(),
)
def test_dealing(classes, shared):
    """Every class has clips in every fold, evenly, unless it shares its groups with others; each group has one fold."""
    members = {
        (scene, group if shared else f"{scene}/{group}") for scene, groups in classes.items() for group in groups
    }
    folds = deal_folds(members, where="here")
    assert set(folds) == {group for _, group in members}
    n_folds = min(5, min(len(groups) for groups in classes.values()))
    assert set(folds.values()) <= set(range(1, n_folds + 1))
    if not shared:
        for scene in classes:
            count = Counter(folds[group] for of, group in members if of == scene)
            assert len(count) == n_folds and max(count.values()) - min(count.values()) <= 1


@pytest.mark.parametrize(
    ("names", "words"),
    [
        ([], "no audio file"),
        (["notes.txt"], "no audio file"),
        (["a.wav", "dog/1.wav"], "a.wav lies in no class folder"),
        ([f"dog/{i}.wav" for i in range(9)], "class 'dog' alone"),
        ([f"dog/{i}.wav" for i in range(9)] + ["rain/1.wav", "rain/2.wav"], r"class 'rain' has 2 group\(s\)"),
    ],
)
def test_folders_that_cannot_be_used(tmp_path, names, words):
    with pytest.raises(InputError, match=words):
        load_table("folders", write(tmp_path, *names))


def test_three_groups_give_three_folds(tmp_path):
    table = load_table("folders", write(tmp_path, *(f"{s}/{i}.wav" for s in ("dog", "rain") for i in range(3))))
    assert table.folds == (1, 2, 3)
