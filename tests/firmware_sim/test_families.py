"""Every student family on every emulated core, from a WAV file to scores: numpy's bits throughout."""

import pytest
from emulated import BOARDS, need_qemu
from small_students import FRONT_END, STUDENTS, heard, student

from tinyasc.frontend_device import board_features, plan_for
from tinyasc_export import reference
from tinyasc_firmware_sim import load_board
from tinyasc_firmware_sim.stream import default_arithmetic, simulate_stream

# One board for each core, and RV32 on both emulators.
CORES = (
    ("nucleo-l4r5zi", "unicorn"),  # Cortex-M4F
    ("raspberry-pi-pico", "unicorn"),  # Cortex-M0+
    ("nucleo-f207zg", "unicorn"),  # Cortex-M3
    ("stm32f746g-disco", "unicorn"),  # Cortex-M7F
    ("nucleo-u575zi-q", "unicorn"),  # Cortex-M33F
    ("mps3-an547", "qemu"),  # Cortex-M55
    ("esp32-c3-devkitm-1", "unicorn"),  # RV32IMC
    ("esp32-c3-devkitm-1", "qemu"),
)
# In every run of the tests a student at each arithmetic on each of two cores; all when the firmware is tested.
QUICK = [
    ("pooled_cnn", "int8", BOARDS[0]),
    ("sepconv_ca", "int16x8", BOARDS[0]),
    ("pooled_cnn", "int16x8", BOARDS[1]),
    ("sepconv_ca", "int8", BOARDS[1]),
]
# Each core sees both roundings, and each student sees both.
CASES = [
    pytest.param(
        *(family, precision, board, emulator, ("tflite", "single")[(i + j) % 2]),
        marks=() if (family, precision, board) in QUICK else pytest.mark.firmware,
    )
    for j, (board, emulator) in enumerate(CORES)
    for i, (family, precision) in enumerate(STUDENTS)
]


@pytest.fixture(scope="module")
def clips(tmp_path_factory):
    return heard(tmp_path_factory.mktemp("clips"))


@pytest.mark.parametrize(("family", "precision", "board", "emulator", "rounding"), CASES)
def test_from_a_wav_to_scores(runs, clips, family, precision, board, emulator, rounding):
    if emulator == "qemu":
        need_qemu(board)
    graph, target = student(family, precision), load_board(board)
    plan = plan_for(FRONT_END, graph)
    report = simulate_stream(graph, plan, target, clips, rounding=rounding, emulator=emulator)
    assert report.unequal == () and report.equal and report.inputs == len(runs) == 2
    assert report.emulator.startswith(emulator) and len(report.operators) == len(graph.ops)
    # Held here once more, past the report's own comparison.
    for run, samples in zip(runs, clips, strict=True):
        x = board_features(samples, plan, default_arithmetic(target))
        assert run.files["scores"] == reference.run(graph, x[None, :, :, None], rounding).tobytes()
    assert runs[0].files["features"] != runs[1].files["features"]
