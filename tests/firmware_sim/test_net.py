"""Nets in C on emulated cores: the numpy reference's bits, operator by operator."""

import json

import pytest
from emulated import BOARDS, OTHERS, need_qemu
from small_nets import integer_graph

from tinyasc_export.c99 import writer
from tinyasc_export.errors import InputError
from tinyasc_export.graph import Graph, Tensor
from tinyasc_firmware_sim import load_board
from tinyasc_firmware_sim.net import FaultError, build_net, random_input, simulate
from tinyasc_firmware_sim.toolchain import TooLargeError

# int8 on both cores in every run of the tests, the other arithmetics on one; all of it when the firmware is tested.
QUICK = [("int8", "tflite", board) for board in BOARDS] + [
    ("int8", "single", BOARDS[0]),
    ("int16x8", "tflite", BOARDS[1]),
]
ARITHMETICS = (("int8", "tflite"), ("int8", "single"), ("int16x8", "tflite"))
CASES = [
    pytest.param(*case, marks=() if case in QUICK else pytest.mark.firmware)
    for case in ((*arithmetic, board) for board in (*BOARDS, *OTHERS) for arithmetic in ARITHMETICS)
]


@pytest.mark.parametrize(("precision", "rounding", "board"), CASES)
def test_the_bits_are_the_references(precision, rounding, board):
    if board == "mps3-an547":
        need_qemu(board)
    graph = integer_graph(precision)
    inputs = [random_input(graph, seed) for seed in range(3)]
    report = simulate(graph, load_board(board), inputs, rounding=rounding)
    assert report.unequal == () and report.inputs == 3
    assert [op.kind for op in report.operators] == [op.kind for op in graph.ops]
    assert report.macs == 9 * 8 * 144 + 9 * 8 * 144 + 64 * 144 + 40
    # More than one instruction per MAC, and less than the naive kernels' thirty.
    assert 1 < report.instructions / report.macs < 60
    assert all(op.instructions > 0 and op.cycles >= op.instructions * 0.5 for op in report.operators)
    assert 0 < report.stack_bytes < 1024
    json.dumps(report.to_dict(), allow_nan=False)


def test_an_operator_whose_bits_differ_is_named(monkeypatch):
    """One weight is changed behind the reference's back: the operators from there on differ, none before."""
    graph = integer_graph()
    monkeypatch.setattr("tinyasc_firmware_sim.net.to_c", lambda g, **options: writer.to_c(_damaged(g), **options))
    report = simulate(graph, load_board(BOARDS[0]), [random_input(graph)])
    assert report.unequal and report.unequal[0] == 2
    assert [op.equal for op in report.operators[:3]] == [True, True, False]


def _damaged(graph):
    weights = graph.tensors[graph.ops[2].inputs[1]]
    other = Graph(dict(graph.tensors), graph.ops, graph.input, graph.output)
    data = weights.data.copy()
    data[...] = -data
    other.tensors[weights.name] = Tensor(weights.name, weights.shape, weights.dtype, data, weights.scale,
                                         weights.zero_point, weights.axis)  # fmt: skip
    return other


def test_an_arena_that_is_too_small_is_found(monkeypatch):
    """The arena is cut in the written source: what is written behind it is seen."""
    graph = integer_graph()

    def cut(g, **options):
        source = writer.to_c(g, **options)
        assert f"values[{source.arena_bytes}]" in source.files["net.c"]
        # Rounded up to eight bytes by its alignment: cut so that it is less, whatever it was.
        less = source.arena_bytes - 8
        source.files["net.c"] = source.files["net.c"].replace(f"values[{source.arena_bytes}]", f"values[{less}]")
        return source

    monkeypatch.setattr("tinyasc_firmware_sim.net.to_c", cut)
    with pytest.raises(FaultError, match="arena overrun"):
        simulate(graph, load_board(BOARDS[0]), [random_input(graph)])


def test_too_little_stack_is_found():
    graph = integer_graph()
    with pytest.raises(FaultError, match="stack overflow"):
        simulate(graph, load_board(BOARDS[0]), [random_input(graph)], stack_bytes=64)


def test_a_net_that_does_not_fit_is_refused():
    graph = integer_graph(side=200, channels=8)
    with pytest.raises(TooLargeError, match="RAM overflows"):
        build_net(graph, load_board("raspberry-pi-pico"))


def test_nothing_to_run():
    with pytest.raises(InputError, match="at least one input"):
        simulate(integer_graph(), load_board(BOARDS[0]), [])
