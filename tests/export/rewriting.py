"""What the tests of rewrites share: each must fire or rest, and keep the function."""

from __future__ import annotations

import copy

import numpy as np
from graphs import Net

from tinyasc_export import lower as rewrites
from tinyasc_export import reference
from tinyasc_export.graph import WEIGHTED, Graph
from tinyasc_export.lower import lower


def kinds(graph: Graph) -> list[str]:
    return [op.kind for op in graph.ops]


def new(shape=(1, 6, 7, 3), seed=0) -> Net:
    return Net(shape, seed, "float64")


def assert_same_function(graph: Graph, before: Graph, x: np.ndarray) -> None:
    graph.validate()
    expected = reference.run(before, x)
    actual = reference.run(graph, x)
    atol = 1e-12 * max(1.0, float(np.abs(expected).max()))
    np.testing.assert_allclose(actual, expected, rtol=1e-12, atol=atol, err_msg=str(graph))


def fires(rewrite, net: Net) -> Graph:
    """The graph after one application that must happen, and keeps the function."""
    before = copy.deepcopy(net.graph)
    assert rewrite(net.graph), "the rewrite found nothing"
    assert_same_function(net.graph, before, net.features(2))
    return net.graph


def rests(rewrite, net: Net) -> None:
    """The rewrite finds nothing and changes nothing."""
    before = str(net.graph)
    assert not rewrite(net.graph), f"the rewrite fired:\n{net.graph}"
    assert str(net.graph) == before


def constant_op(net: Net, kind: str, x: str, shape: tuple[int, ...], *, first: bool = False, activation="none") -> str:
    c = net.constant(*shape)
    return net.op(kind, [c, x] if first else [x, c], activation=activation)


def check_lowered(graph: Graph, x: np.ndarray) -> Graph:
    before = str(graph)
    lowered, scale, offset = lower(graph)
    assert str(graph) == before, "the captured graph was changed"
    expected = reference.run(graph, x)
    actual = reference.run(lowered, x * scale[:, None, None] + offset[:, None, None])
    tolerance = 1e-10 * max(1.0, float(np.abs(expected).max()))
    np.testing.assert_allclose(actual, expected, rtol=1e-10, atol=tolerance, err_msg=f"{graph}\n\n{lowered}")
    for rewrite in (rewrites.fold_affine, rewrites.merge_pointwise, rewrites.merge_parallel_depthwise):
        assert not rewrite(copy.deepcopy(lowered))
    for op in lowered.ops:
        assert op.kind not in WEIGHTED or len(op.inputs) == 3
    assert set(lowered.tensors) == {lowered.input}.union(*({*op.inputs, op.output} for op in lowered.ops))
    return lowered
