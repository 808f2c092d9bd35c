"""Random graphs on emulated cores: the numpy reference's bits in every operator."""

import sys
from pathlib import Path

import pytest
from emulated import BOARDS, OTHERS, need_qemu

from tinyasc_firmware_sim import load_board
from tinyasc_firmware_sim.net import simulate

sys.path.append(str(Path(__file__).parents[1] / "export"))

# In every run of the tests a few graphs; each is built for a board, which takes seconds.
FEW, MANY = 2, 8


def need(board):
    if board == "mps3-an547":
        need_qemu(board)


def hold_random_graphs(board, dtype, count):
    from test_c99 import cases, written

    need(board)
    trials = written(cases(dtype, count, derandomize=True))
    for trial in trials:
        report = simulate(trial.graph, load_board(board), [clip[None] for clip in trial.clips], rounding=trial.rounding)
        assert report.unequal == (), f"{trial.rounding}, {trial.graph}"


@pytest.mark.parametrize(("board", "dtype"), [(BOARDS[0], "int8"), (BOARDS[1], "int16")])
def test_a_sample_of_random_graphs(board, dtype):
    hold_random_graphs(board, dtype, FEW)


@pytest.mark.firmware
@pytest.mark.timeout(900)
@pytest.mark.parametrize("dtype", ["int8", "int16"])
@pytest.mark.parametrize("board", [*BOARDS, *OTHERS])
def test_random_graphs(board, dtype):
    hold_random_graphs(board, dtype, MANY)
