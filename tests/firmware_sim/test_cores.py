"""Random graphs and every student family on emulated cores: the numpy reference's bits in every operator."""

import sys
from pathlib import Path

import numpy as np
import pytest
from emulated import BOARDS, OTHERS, need_qemu

from tinyasc_firmware_sim import load_board
from tinyasc_firmware_sim.net import random_input, simulate

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


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("dtype", ["int8", "int16"])
@pytest.mark.parametrize("board", [*BOARDS, *OTHERS])
def test_random_graphs(board, dtype):
    hold_random_graphs(board, dtype, MANY)


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("board", [*BOARDS, *OTHERS])
def test_every_student_family(board):
    """Narrow ones, which build quickly and fit; features of clips, and integers over the whole range."""
    pytest.importorskip("torch", reason="torch is not installed")
    from students import OPTIONS, Exported
    from test_c99_students import WIDTH

    need(board)
    for i, (family, full) in enumerate(OPTIONS.values()):
        student = Exported(family, full | WIDTH.get(family, {"base_channels": 8}))
        inputs = [student.integers[:1].astype(np.int8), random_input(student.int8)]
        rounding = ("tflite", "single")[i % 2]
        report = simulate(student.int8, load_board(board), inputs, rounding=rounding)
        assert report.unequal == () and report.inputs == 2, f"{family}, {rounding}"
