"""Estimates from the tables of kernel costs against counted instructions, on nets that no table was made from."""

import sys
from pathlib import Path

import pytest
from emulated import BOARDS, need_qemu
from small_nets import float_graph, integer_graph

from tinyasc_export.c99.calls import Context, calls
from tinyasc_export.c99.constants import Constants
from tinyasc_export.errors import InputError
from tinyasc_export.memory import plan
from tinyasc_firmware_sim import latency, load_board, shipped_boards
from tinyasc_firmware_sim.cores import CORES
from tinyasc_firmware_sim.cycles import COSTS
from tinyasc_firmware_sim.latency import estimate_latency, kernel_name, load_costs
from tinyasc_firmware_sim.net import random_input, simulate
from tinyasc_firmware_sim.work import work

sys.path.append(str(Path(__file__).parents[1] / "export"))
FAMILIES = ("sepconv_ca", "cp_mobile", "amfm", "tf_sepnet", "bc_resnet", "pooled_cnn")


def same_kernels(graph):
    """The work's kernels are those that the C writer calls, in its order."""
    context, views = Context(graph, Constants("net"), "tflite"), plan(graph).views
    precision = "int8" if context.values == "s8" else "int16x8"
    for op, part in zip(graph.ops, work(graph), strict=True):
        written = [] if op.output in views else [call.kernel.template for call in calls(context, op)]
        assert [kernel_name(call.kernel, precision) for call in part] == written


@pytest.mark.parametrize("precision", ["int8", "int16x8"])
def test_the_work_is_of_the_kernels_that_are_written(precision):
    graph = integer_graph(precision)
    same_kernels(graph)
    assert work(graph) == work(float_graph())


def test_the_work_of_known_operators():
    conv, depthwise, pointwise, mean, *_ = work(integer_graph(side=12, channels=8))
    # 9 inputs: two turns of four, one left over; 144 positions in pairs, 8 outputs in pairs.
    assert conv[0].units == {"macs_by_four": 8 * 8 * 144, "macs_one_by_one": 8 * 144, "outputs": 8 * 144,
                             "windows": 9 * 144, "gathered": 9 * 144}  # fmt: skip
    assert depthwise[0].units == {"macs": 9 * 8 * 144, "outputs": 8 * 144, "windows": 9 * 144}
    assert pointwise[0].units == {"macs_by_four": 64 * 144, "macs_one_by_one": 0, "outputs": 8 * 144}
    assert mean[0].units == {"read_by_four": 8 * 144, "read_one_by_one": 0, "outputs": 8}


@pytest.mark.parametrize("board", BOARDS)
def test_a_small_net(board):
    """Also the guard of the tables: kernels that change make them wrong, and they are to be made again."""
    graph, board = integer_graph(side=20, channels=12), load_board(board)
    report = simulate(graph, board, [random_input(graph)])
    guess = estimate_latency(work(graph), "int8", board)
    table = load_costs(board)
    assert guess.instructions == pytest.approx(report.instructions, rel=table.table_band)
    assert guess.cycles == pytest.approx(report.cycles, rel=table.table_band)
    assert guess.seconds == pytest.approx(report.seconds, rel=table.table_band) and not guess.counted
    assert guess.band == pytest.approx((1 + report.band) * (1 + table.table_band) - 1)


def student(family):
    pytest.importorskip("torch", reason="torch is not installed")
    from students import OPTIONS, Exported

    return Exported(*OPTIONS[family]).int8


@pytest.mark.firmware
@pytest.mark.parametrize("board", BOARDS)
@pytest.mark.parametrize("family", FAMILIES)
def test_student_families(family, board):
    """64 mels x 30 frames. Instructions and cycles from the table lie within its band of the counted ones."""
    graph, board = student(family), load_board(board)
    same_kernels(graph)
    report = simulate(graph, board, [random_input(graph)])
    assert report.unequal == ()
    guess = estimate_latency(work(graph), "int8", board)
    bound = load_costs(board).table_band
    off = guess.instructions / report.instructions - 1
    print(f"{family} on {board.core}: {report.instructions:,} counted, the table's {off:+.1%}")
    assert guess.instructions == pytest.approx(report.instructions, rel=bound)
    assert guess.cycles == pytest.approx(report.cycles, rel=bound)


@pytest.mark.firmware
@pytest.mark.parametrize("precision", ["int8", "int16x8"])
@pytest.mark.parametrize("core", sorted(CORES))
def test_every_table(core, precision):
    board = next(b for b in shipped_boards() if b.core == core)
    if core == "Cortex-M55":
        need_qemu(board.key)
    graph = integer_graph(precision, side=20, channels=12)
    report = simulate(graph, board, [random_input(graph)])
    guess = estimate_latency(work(graph), precision, board)
    assert guess.instructions == pytest.approx(report.instructions, rel=load_costs(board).table_band)
    assert guess.cycles == pytest.approx(report.cycles, rel=load_costs(board).table_band)


@pytest.mark.parametrize("core", sorted(CORES))
def test_every_core_has_a_table_with_its_models_band(core):
    table = load_costs(next(b for b in shipped_boards() if b.core == core))
    assert table.core == core and table.cycle_band == COSTS[core].band
    assert set(table.costs) == set(latency.PRECISIONS)
    assert "tests/bench/kernel_costs.py" in table.made_by and table.compiler and table.emulator


def test_what_has_no_table_is_refused(monkeypatch):
    with pytest.raises(InputError, match="no compiler and emulator"):
        load_costs(load_board("esp32-s3-devkitc-1"))
    monkeypatch.setattr(latency, "_read", lambda _: None)
    with pytest.raises(InputError, match="no table of what kernels cost on its Cortex-M4F"):
        load_costs(load_board("stm32l4r5"))


def test_a_kernel_that_the_table_lacks_is_refused():
    graph, board = integer_graph(), load_board("stm32l4r5")
    with pytest.raises(InputError, match="is not in Cortex-M4F's table"):
        estimate_latency(work(graph), "fp32", board)
