"""Graph files come back as they were, and damaged ones give one line."""

from __future__ import annotations

import io
import json

import numpy as np
import pytest
from graphs import BUNDLE, nets, quantize_by_hand, quantize_features, small_student
from hypothesis import given, settings
from hypothesis import strategies as st

from tinyasc_export import graphfile, reference
from tinyasc_export.errors import ModelFileError
from tinyasc_export.graphfile import HEADER, load_graph, save_graph


def assert_equal(a, b) -> None:
    assert (a.input, a.output, a.ops) == (b.input, b.output, b.ops)
    assert set(a.tensors) == set(b.tensors)
    for name, t in a.tensors.items():
        other = b.tensors[name]
        assert (t.shape, t.dtype, t.axis) == (other.shape, other.dtype, other.axis)
        for mine, theirs in ((t.data, other.data), (t.scale, other.scale), (t.zero_point, other.zero_point)):
            assert (mine is None) == (theirs is None)
            if mine is not None:
                assert mine.dtype == theirs.dtype
                np.testing.assert_array_equal(mine, theirs)


@settings(max_examples=60, deadline=None)
@given(nets(), st.booleans())
def test_random_graphs_come_back(net, integer):
    graph = quantize_by_hand(net.graph, net.features()) if integer else net.graph
    data = save_graph(graph, BUNDLE)
    back, bundle = load_graph(data, "g.npz")
    assert_equal(graph, back)
    assert bundle == BUNDLE and save_graph(back, bundle) == data


def test_a_graph_from_a_file_runs():
    net = small_student()
    graph = quantize_by_hand(net.graph, net.features())
    back, bundle = load_graph(save_graph(graph), "g.npz")
    x = quantize_features(graph, net.features(seed=2))
    assert bundle is None
    np.testing.assert_array_equal(reference.run(back, x), reference.run(graph, x))


FILE = save_graph(quantize_by_hand(small_student().graph, small_student().features()), BUNDLE)


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_damaged_files_give_one_error(data):
    damaged = bytearray(FILE[: data.draw(st.integers(0, len(FILE)) | st.just(len(FILE)))])
    for _ in range(data.draw(st.integers(0, 4))):
        if damaged:
            damaged[data.draw(st.integers(0, len(damaged) - 1))] = data.draw(st.integers(0, 255))
    try:
        load_graph(bytes(damaged), "g.npz")
    except ModelFileError as error:
        assert str(error).startswith("g.npz: ") and "\n" not in str(error)


@pytest.mark.parametrize("garbage", [b"", b"PK\x03\x04", bytes(200), b"TFL3" * 10])
def test_other_files_are_refused(garbage):
    with pytest.raises(ModelFileError, match=r"g\.npz: not a graph file"):
        load_graph(garbage, "g.npz")


def test_pickles_are_refused():
    buffer = io.BytesIO()
    np.savez(buffer, **{HEADER: np.array([{"a": 1}], object)})
    with pytest.raises(ModelFileError, match="not a graph file"):
        load_graph(buffer.getvalue(), "g.npz")


def rewritten(change) -> bytes:
    """The good file with its header changed."""
    with np.load(io.BytesIO(FILE)) as archive:
        arrays = dict(archive)
    header = json.loads(arrays[HEADER].tobytes())
    header = change(header) or header
    arrays[HEADER] = np.frombuffer(json.dumps(header).encode(), np.uint8)
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)
    return buffer.getvalue()


def setting(*path, value):
    def change(header):
        at = header
        for key in path[:-1]:
            at = at[key]
        at[path[-1]] = value

    return change


@pytest.mark.parametrize(
    "change",
    [
        lambda h: [1],
        setting("format", value=2),
        setting("input", value="nothing"),
        setting("ops", value=7),
        setting("ops", 0, "kind", value="softmax"),
        setting("ops", 0, "attrs", value={}),
        setting("ops", 0, "attrs", "stride", value="ab"),
        setting("ops", 0, "attrs", "stride", value=[0, 0]),
        setting("ops", 0, "inputs", value=[{}]),
        setting("tensors", 0, "shape", value=[-1, 3]),
        setting("tensors", 0, "shape", value=[[1]]),
        setting("tensors", 0, "dtype", value="object"),
        setting("tensors", 0, "name", value=None),
        setting("tensors", 0, "data", value="99"),
        setting("tensors", 0, "scale", value=[]),
        setting("tensors", 0, "scale", value=["x"]),
        setting("tensors", 0, "scale", value=[1.0, 2.0]),
        setting("bundle", value=3),
        setting("bundle", value="{"),
    ],
)
def test_headers_that_lie_are_refused(change):
    with pytest.raises(ModelFileError, match=r"^g\.npz: "):
        load_graph(rewritten(change), "g.npz")


def test_a_small_file_that_unpacks_to_a_large_one_is_refused_before_it_is_unpacked(monkeypatch):
    data = rewritten(lambda header: header)
    monkeypatch.setattr(graphfile, "LARGEST_UNPACKED", 100)
    with pytest.raises(ModelFileError, match=r"^g\.npz: would unpack to \d+ bytes, which no deployed graph takes"):
        load_graph(data, "g.npz")
