from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tinyasc.data.rowstore import KEY_BYTES, RowStore
from tinyasc.errors import TinyascError

FLOAT32 = np.dtype(np.float32)


def key(i: int) -> bytes:
    return i.to_bytes(KEY_BYTES, "big")


def row(i: int, shape=(2, 3)) -> np.ndarray:
    return np.full(shape, i, np.float32)


def fill(store: RowStore, numbers) -> None:
    with store.writing():
        store.write([key(i) for i in numbers], np.stack([row(i) for i in numbers]))


@given(st.lists(st.lists(st.integers(0, 20), min_size=1, max_size=8), max_size=5), st.lists(st.integers(0, 20)))
def test_it_behaves_as_a_dictionary(tmp_path_factory, batches, wanted):
    folder = tmp_path_factory.mktemp("store")
    store, model = RowStore(folder, (2, 3), FLOAT32, {}), {}
    for n, batch in enumerate(batches):
        with store.writing():
            store.write([key(i) for i in batch], np.stack([row(100 * n + i) for i in batch]))
        model |= {i: 100 * n + i for i in batch}
    for reader in (store, RowStore(folder, (2, 3), FLOAT32, {})):
        assert len(reader) == len(model)
        assert reader.sound([key(i) for i in wanted]) == [i in model for i in wanted]
        there = [i for i in wanted if i in model]
        assert [float(values[0, 0]) for values in reader.read([key(i) for i in there])] == [model[i] for i in there]


def test_what_follows_the_last_whole_key_is_overwritten(tmp_path):
    """As a process leaves it that was killed between a row and its key, or within either."""
    store = RowStore(tmp_path, (2, 3), FLOAT32, {})
    fill(store, range(3))
    with open(tmp_path / "rows", "ab") as stream:
        stream.write(b"half a row")
    with open(tmp_path / "keys", "ab") as stream:
        stream.write(b"half a key")
    again = RowStore(tmp_path, (2, 3), FLOAT32, {})
    assert len(again) == 3
    fill(again, [7, 8])
    last = RowStore(tmp_path, (2, 3), FLOAT32, {})
    assert last.sound([key(i) for i in (0, 1, 2, 7, 8, 9)]) == [True] * 5 + [False]
    assert isinstance(last.read([key(i) for i in (0, 1, 2, 7, 8)]), np.memmap)


def test_readers_see_new_rows_after_refresh(tmp_path):
    reader = RowStore(tmp_path, (2, 3), FLOAT32, {})
    fill(RowStore(tmp_path, (2, 3), FLOAT32, {}), [4])
    assert key(4) not in reader
    reader.refresh()
    assert key(4) in reader and reader.sound([key(4)]) == [True]


def test_another_shape_is_refused(tmp_path):
    RowStore(tmp_path, (2, 3), FLOAT32, {"front_end": {}})
    with pytest.raises(
        TinyascError, match=r"holds features of type float32 and shape \(2, 3\), not float32 and \(3, 2\)"
    ):
        RowStore(tmp_path, (3, 2), FLOAT32, {})


def test_rows_of_another_shape_or_type_are_a_fault(tmp_path):
    store = RowStore(tmp_path, (2, 3), FLOAT32, {})
    for rows in (np.zeros((1, 3, 2), np.float32), np.zeros((1, 2, 3)), np.zeros((2, 2, 3), np.float32)):
        with store.writing(), pytest.raises(ValueError, match="rows are"):
            store.write([key(1)], rows)
    assert len(store) == 0


def test_a_mapped_array_outlives_the_cache(tmp_path):
    store = RowStore(tmp_path, (2, 3), FLOAT32, {})
    fill(store, range(5))
    mapped = store.read([key(i) for i in range(5)])
    (tmp_path / "rows").unlink()
    np.testing.assert_array_equal(mapped[:, 0, 0], range(5))
