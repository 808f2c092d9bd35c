import csv

import numpy as np
import pytest
from answers import some

from tinyasc.errors import InputError
from tinyasc.evaluate.predictions import FILE, TABLE, join, load

COLUMNS = ("clips", "labels", "devices", "locations", "seen", "folds", "seeds", "probabilities")


def test_saved_and_loaded_they_are_the_same(tmp_path):
    kept = some().with_about({"tta": 3})
    kept.save(tmp_path)
    found = load(tmp_path / FILE)
    assert found.names == kept.names and found.about == {"tta": 3}
    for name in COLUMNS:
        np.testing.assert_array_equal(getattr(found, name), getattr(kept, name))
    assert found.probabilities.dtype == np.float64


def test_the_file_needs_no_pickle_and_has_the_same_bytes_again(tmp_path):
    some().save_npz(tmp_path / "a.npz")
    some().save_npz(tmp_path / "b.npz")
    assert (tmp_path / "a.npz").read_bytes() == (tmp_path / "b.npz").read_bytes()
    with np.load(tmp_path / "a.npz", allow_pickle=False) as stored:
        assert set(COLUMNS) <= set(stored) and all(stored[name].dtype != object for name in stored)


def test_the_table_says_the_same(tmp_path):
    kept = some()
    kept.save(tmp_path)
    with open(tmp_path / TABLE, newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 6
    assert [r["clip"] for r in rows] == kept.clips.tolist()
    assert [r["label"] for r in rows] == ["bus", "park", "tram"] * 2
    assert [r["seen"] for r in rows] == ["yes", "no"] * 3
    p = np.array([[float(r[name]) for name in kept.names] for r in rows])
    np.testing.assert_allclose(p, kept.probabilities, rtol=1e-5)
    assert [r["answer"] for r in rows] == [kept.names[i] for i in p.argmax(axis=1)]


def test_join_and_where_take_rows_apart_again():
    first, second = some(seed=0), some(seed=1, fold=2)
    both = join([first, second])
    assert len(both) == 12
    back = both.where(both.seeds == 1)
    for name in COLUMNS:
        np.testing.assert_array_equal(getattr(back, name), getattr(second, name))


def test_what_a_bootstrap_draws():
    kept = some()
    assert kept.groups[1] == "location" and kept.groups[0] is kept.locations
    bare = some(locations=np.array(["x", "", "", "y", "y", "y"]))
    assert bare.groups[1] == "clip"


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (lambda: some(clips=np.array(["a"])), "clips .1,. do not fit 6 rows"),
        (lambda: some(seen=np.zeros(5)), "seen"),
        (lambda: some(probabilities=np.full((6, 2), 0.5)), "do not fit 3 classes|labels must lie"),
        (lambda: some(probabilities=np.full((6, 4), 0.25)), "do not fit 3 classes"),
        (lambda: some(probabilities=np.full((6, 3), 0.5)), "sum to 1"),
        (lambda: some(labels=np.full(6, 3)), "0..2"),
        (lambda: some().where(np.zeros(6, bool)), "no clips"),
        (lambda: join([]), "no predictions"),
        (lambda: join([some(), some(names=("a", "b", "c"))]), "different classes"),
    ],
)
def test_bad_input(make, text):
    with pytest.raises(InputError, match=text):
        make()


def damaged(kind, file):
    some().save_npz(file)
    data = file.read_bytes()
    if kind == "cut":
        file.write_bytes(data[: len(data) // 2])
    elif kind == "empty":
        file.write_bytes(b"")
    elif kind == "text":
        file.write_text("no predictions")
    elif kind == "array":
        with open(file, "wb") as stream:
            np.save(stream, np.zeros(3))
    elif kind == "other":
        np.savez(file, a=np.zeros(3))
    elif kind == "objects":
        np.savez(file, clips=np.array([{}, []], dtype=object))
    elif kind == "flipped":
        middle = len(data) // 2
        file.write_bytes(data[:middle] + bytes([data[middle] ^ 255]) + data[middle + 1 :])


@pytest.mark.parametrize("kind", ["cut", "empty", "text", "array", "other", "objects", "flipped"])
def test_damaged_files_are_named(tmp_path, kind):
    damaged(kind, tmp_path / "p.npz")
    with pytest.raises(InputError, match=r"p\.npz: damaged, or no predictions") as caught:
        load(tmp_path / "p.npz")
    assert "\n" not in str(caught.value)


def test_a_missing_file(tmp_path):
    with pytest.raises(InputError, match="no such file of predictions"):
        load(tmp_path / "p.npz")
