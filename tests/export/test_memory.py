"""Arena plans: nothing that lives is hit, and a run inside the arena answers as the reference does."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from arena import run_in_arena
from graphs import Net, nets, quantize_by_hand, quantize_features, small_student
from hypothesis import given, settings
from hypothesis import strategies as st
from students import s4

from tinyasc_export import reference
from tinyasc_export.memory import ALIGNMENT, Plan, liveness, plan, unshared_bytes


def at_each_step(p: Plan, graph) -> list[list[str]]:
    return [[n for n, life in p.lives.items() if life.first <= i <= life.last] for i in range(len(graph.ops))]


def check(graph, p: Plan) -> None:
    """Two tensors that live at one operator share a byte only where that operator or a view says so."""
    assert all(offset % ALIGNMENT == 0 for offset in p.offsets.values())
    assert p.peak == max(p.offsets[n] + p.sizes[n] for n in p.offsets)
    assert p.peak >= p.lower_bound >= max(p.sizes.values())
    viewed = {n: n for n in p.offsets}

    def content(name: str) -> str:
        return name if viewed[name] == name else content(viewed[name])

    for op in graph.ops:
        if op.output in p.views:
            for name in op.inputs:
                viewed[content(name)] = content(op.output)
    for i, names in enumerate(at_each_step(p, graph)):
        op = graph.ops[i]
        written = p.in_place.get(op.output)
        for a, b in itertools.combinations(names, 2):
            overlap = p.offsets[a] < p.offsets[b] + p.sizes[b] and p.offsets[b] < p.offsets[a] + p.sizes[a]
            if not overlap or content(a) == content(b) or {a, b} == {op.output, written}:
                continue
            raise AssertionError(f"{a} and {b} overlap at operator {i} ({op.kind})\n{graph}\n{p}")


@settings(max_examples=150, deadline=None)
@given(nets(most=8), st.booleans(), st.booleans())
def test_random_plans_hold(net, integer, pools):
    graph, x = net.graph, net.features()
    if integer:
        graph = quantize_by_hand(graph, x)
        x = quantize_features(graph, x)
    p = plan(graph, pools_in_place=pools)
    check(graph, p)
    assert pools or not p.raster
    np.testing.assert_array_equal(run_in_arena(graph, p, x), reference.run(graph, x))


@pytest.mark.parametrize("pools", [True, False])
def test_a_student_runs_inside_its_arena(pools):
    net = small_student()
    graph = quantize_by_hand(net.graph, net.features())
    x = quantize_features(graph, net.features(seed=5))
    p = plan(graph, pools_in_place=pools)
    check(graph, p)
    np.testing.assert_array_equal(run_in_arena(graph, p, x), reference.run(graph, x))


def test_s4_at_64_x_44_fits_190_KB():
    _, graph, x = s4()
    p = plan(graph)
    check(graph, p)
    np.testing.assert_array_equal(run_in_arena(graph, p, x[:1]), reference.run(graph, x[:1]))
    # The map of the first block (64 x 44 x 64), the joined means and their squeezed form.
    assert p.lower_bound <= p.peak == 64 * 44 * 64 + (64 + 44) * (64 + 8)
    assert p.peak <= 190_000
    # Kernels that cannot pool over their input need the first pool's output beside it.
    assert plan(graph, pools_in_place=False).peak == 64 * 44 * 64 + 32 * 22 * 64


def test_lives_by_hand():
    net = Net((1, 4, 4, 8))
    a = net.conv("x", 8, (1, 1))
    b = net.op("relu", [a])
    c = net.op("add", [b, "x"], activation="none")
    lives = {n: (life.first, life.last) for n, life in liveness(net.graph).items()}
    assert lives == {"x": (0, 2), a: (0, 1), b: (1, 2), c: (2, 2)}
    p = plan(net.graph)
    assert p.in_place == {b: a, c: b} and p.peak == 2 * 4 * 4 * 8 * 4 == p.lower_bound
    assert p.live_bytes == (1024, 1024, 1024)
    assert unshared_bytes(net.graph) == 3 * 4 * 4 * 8 * 4  # at the ReLU: the input, its own, and its output


def test_an_operand_that_is_still_read_is_not_overwritten():
    net = Net((1, 4, 4, 4))
    a = net.conv("x", 4, (1, 1))
    b = net.op("sigmoid", [a])
    net.op("mul", [a, b], activation="none")
    p = plan(net.graph)
    assert b not in p.in_place and p.in_place[net.graph.output] == a


def test_a_view_that_is_still_read_keeps_its_bytes():
    net = Net((1, 4, 4, 4))
    a = net.conv("x", 4, (1, 1))
    view = net.op("reshape", [a], shape=(1, 16, 1, 4))
    b = net.op("relu", [a])
    net.op("concat", [net.op("reshape", [b], shape=(1, 16, 1, 4)), view], axis=3)
    p = plan(net.graph)
    assert view in p.views and b not in p.in_place
    check(net.graph, p)


def test_slices_and_joins_along_the_outer_axis_need_no_code():
    net = Net((1, 8, 1, 16))
    a = net.conv("x", 16, (1, 1))
    halves = [net.op("slice", [a], begin=(0, i, 0, 0), size=(1, 4, 1, 16)) for i in (0, 4)]
    parts = [net.conv(h, 16, (1, 1)) for h in halves]
    joined = net.op("concat", parts, axis=1)
    p = plan(net.graph)
    assert p.views == {*halves, joined}
    assert p.offsets[parts[1]] - p.offsets[parts[0]] == p.sizes[parts[0]]
    check(net.graph, p)


def test_a_pool_with_padding_does_not_write_over_its_input():
    net = Net((1, 6, 6, 4))
    a = net.conv("x", 4, (1, 1))
    net.op("max_pool", [a], kernel=(3, 3), stride=(1, 1), padding=(1, 1, 1, 1))
    assert not plan(net.graph).raster


def test_a_graph_without_operators():
    net = Net((1, 2, 2, 3))
    p = plan(net.graph)
    assert (p.peak, p.offsets, p.lower_bound) == (48, {"x": 0}, 48)
    assert unshared_bytes(net.graph) == 48 and unshared_bytes(Net((1, 1, 1, 3)).graph) == 16
