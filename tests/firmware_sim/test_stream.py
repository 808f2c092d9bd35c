"""Samples to scores on emulated cores: the bits of the front end's specification and of the numpy reference."""

import json
from dataclasses import replace

import numpy as np
import pytest
from emulated import BOARDS, OTHERS, build_once, need_gcc, need_qemu
from small_nets import integer_graph

from tinyasc.frontend import FrontEnd
from tinyasc.frontend_device import board_features, plan_for
from tinyasc_export import reference
from tinyasc_export.errors import InputError
from tinyasc_firmware_sim import load_board, stream
from tinyasc_firmware_sim.net import FaultError
from tinyasc_firmware_sim.stream import default_arithmetic, simulate_stream

FRONT_END = FrontEnd(
    sample_rate=8000, clip_samples=4000, n_fft=512, win_length=512, hop_length=200, n_mels=12, fmax=4000
).with_normalization(np.full(12, 0.05), np.full(12, 2.0))
NEEDED = 512 + 17 * 200
# In every run of the tests each core with the arithmetic that suits it; everything else when the firmware is tested.
QUICK = [(BOARDS[0], "int8", "device"), (BOARDS[1], "int8", "fixed")]
CASES = [
    pytest.param(*case, marks=() if case in QUICK else pytest.mark.firmware)
    for case in (
        (board, precision, arithmetic)
        for board in (*BOARDS, *OTHERS)
        for precision in ("int8", "int16x8")
        for arithmetic in ("device", "fixed")
    )
]


def sound(seed, n=NEEDED):
    """Noise whose loudness steps, from near silence to clipping: int16."""
    rng = np.random.default_rng(seed)
    loudness = np.repeat(10 ** rng.uniform(0, 4.5, n // 400 + 1), 400)[:n]
    return np.clip(loudness * rng.standard_normal(n), -32768, 32767).astype(np.int16)


@pytest.fixture(autouse=True)
def once(monkeypatch):
    build_once(monkeypatch)


@pytest.mark.parametrize(("board", "precision", "arithmetic"), CASES)
def test_the_bits_from_samples_to_scores(runs, board, precision, arithmetic):
    if board == "mps3-an547":
        need_qemu(board)
    graph = integer_graph(precision, frames=FRONT_END.n_frames())
    plan, windows = plan_for(FRONT_END, graph), [sound(seed) for seed in range(2)]
    report = simulate_stream(graph, plan, load_board(board), windows, arithmetic=arithmetic)
    assert report.equal and report.unequal == () and report.inputs == 2
    # Held here once more against what the program handed over, past the report's own comparison.
    for run, samples in zip(runs, windows, strict=True):
        x = board_features(samples, plan, arithmetic)
        assert run.files["features"] == x.tobytes() and len(np.unique(x)) > 20
        assert run.files["scores"] == reference.run(graph, x[None, :, :, None], "tflite").tobytes()
    assert runs[0].files["scores"] != runs[1].files["scores"]
    front_end = report.front_end
    assert front_end is not None and front_end.arithmetic == arithmetic and front_end.frames == 18
    # All that ran is told apart: what is left is main, before and after.
    parts = front_end.instructions + front_end.hand_over_instructions + report.instructions
    assert 0 < runs[0].instructions - parts < 30
    assert front_end.hand_over_instructions > 2 * 12 * 18  # a load and a store for each feature
    assert report.path_seconds > report.seconds
    # Nothing of the samples lies in flash; of RAM they take the buffer of a piece.
    sizes, width = report.sizes, 1 if precision == "int8" else 2
    assert front_end.state_bytes == 6 * 512 + 12 + 12 * 18 * width + 12
    assert sizes.bss - front_end.state_bytes == pytest.approx(2 * 256 + 5 * width, abs=16)
    assert 0 < front_end.table_bytes < sizes.constants
    json.dumps(report.to_dict(), allow_nan=False)


# Those that unicorn and qemu have.
ON_BOTH = [board for board in (BOARDS[0], *OTHERS) if board != "mps3-an547"]


@pytest.mark.firmware
@pytest.mark.parametrize("compiler", ["zig", "gcc"])
@pytest.mark.parametrize("board", ON_BOTH)
def test_unicorn_and_qemu_agree(board, compiler):
    """The same instructions of front end and net, operator by operator, and the same stack, from either compiler."""
    need_qemu(board)
    if compiler == "gcc":
        need_gcc(board)
    graph = integer_graph(frames=FRONT_END.n_frames())
    plan = plan_for(FRONT_END, graph)
    options = {"arithmetic": default_arithmetic(load_board(board)), "compiler": compiler}
    a, b = (
        simulate_stream(graph, plan, load_board(board), [sound(3)], emulator=emulator, **options)
        for emulator in ("unicorn", "qemu")
    )
    assert a.equal and b.equal and a.front_end is not None and b.front_end is not None
    assert a.emulator.startswith("unicorn") and b.emulator.startswith("qemu") and a.compiler == b.compiler
    assert a.front_end.to_dict()["counted"] == b.front_end.to_dict()["counted"]
    assert [op.instructions for op in a.operators] == [op.instructions for op in b.operators]
    # The harness alone differs: on qemu it sets up what forbids memory below the stack.
    assert a.stack_bytes == b.stack_bytes and replace(a.sizes, harness=0) == replace(b.sizes, harness=0)


@pytest.mark.parametrize(
    ("board", "emulator"),
    [
        *((board, "unicorn") for board in BOARDS),
        *(pytest.param(board, "unicorn", marks=pytest.mark.firmware) for board in ON_BOTH[1:]),
        *(pytest.param(board, "qemu", marks=pytest.mark.firmware) for board in (*ON_BOTH, "mps3-an547")),
    ],
)
def test_three_runs_of_a_net_agree_to_the_byte(runs, board, emulator):
    """Counts of every instruction, stack, and all that the program handed over."""
    if emulator == "qemu":
        need_qemu(board)
    graph = integer_graph(frames=FRONT_END.n_frames())
    simulate_stream(graph, plan_for(FRONT_END, graph), load_board(board), [sound(3)] * 3, emulator=emulator)
    said = {(r.counts.executed.tobytes(), r.stack_bytes, r.output, tuple(sorted(r.files.items()))) for r in runs}
    assert len(runs) == 3 and len(said) == 1 and runs[0].instructions > 0


def test_a_fault_is_found_where_it_lies(monkeypatch):
    """Another specification: features and scores differ, while the operators are right on the board's own features."""
    graph = integer_graph(frames=FRONT_END.n_frames())
    original = stream._features
    monkeypatch.setattr(stream, "_features", lambda *args: -1 - original(*args))
    report = simulate_stream(graph, plan_for(FRONT_END, graph), load_board(BOARDS[0]), [sound(0)])
    front_end = report.front_end
    assert front_end is not None and not front_end.equal and not front_end.scores_equal
    assert report.unequal == () and not report.equal


def test_a_stream_that_never_has_a_window_is_named(monkeypatch):
    graph = integer_graph(frames=FRONT_END.n_frames())
    original = stream.run
    monkeypatch.setattr(
        stream, "run", lambda image, files, **o: original(image, files={"samples": files["samples"][:-2]}, **o)
    )
    with pytest.raises(FaultError, match="exit code 3"):
        simulate_stream(graph, plan_for(FRONT_END, graph), load_board(BOARDS[0]), [sound(0)])


def test_the_arithmetic_suits_the_core():
    assert {b: default_arithmetic(load_board(b)) for b in (*BOARDS, *OTHERS)} == {
        "nucleo-l4r5zi": "device",
        "raspberry-pi-pico": "fixed",
        "nucleo-f207zg": "fixed",
        "stm32f746g-disco": "device",
        "nucleo-h743zi2": "device",
        "nucleo-u575zi-q": "device",
        "esp32-c3-devkitm-1": "fixed",
        "mps3-an547": "device",
    }


@pytest.mark.parametrize("windows", [[], [sound(0)[:-1]], [sound(0).astype(np.float32)]])
def test_windows_that_are_none(windows):
    graph = integer_graph(frames=FRONT_END.n_frames())
    with pytest.raises(InputError, match=f"at least {NEEDED:,} int16 samples"):
        simulate_stream(graph, plan_for(FRONT_END, graph), load_board(BOARDS[0]), windows)
