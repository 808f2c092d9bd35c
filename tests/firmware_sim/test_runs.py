"""What a run gives back, and what it says when a program goes wrong."""

import os
import signal
import threading
import time

import numpy as np
import pytest
from emulated import BOARDS, OTHERS, image, need_qemu, u32

from tinyasc_export.errors import InputError
from tinyasc_firmware_sim import BuildError, Sources, TooLargeError, build, load_board, run, shipped_boards
from tinyasc_firmware_sim.cores import CORES, core_of
from tinyasc_firmware_sim.cycles import COSTS
from tinyasc_firmware_sim.qemu import run_qemu

KB = 1024
EVERY = [*BOARDS, *(pytest.param(board, marks=pytest.mark.firmware) for board in OTHERS if board != "mps3-an547")]


def reference_hash():
    """programs/arithmetic.c in Python's integers."""
    mask, x, h = 0xFFFFFFFF, 12345, 2166136261

    def following(v):
        return (v * 1664525 + 1013904223) & mask

    def signed(v):
        return v - (v >> 31 << 32)

    for _ in range(50):
        x = following(x)
        y = following(x) | 1
        h = ((h ^ (x // y)) * 16777619) & mask
        h = ((h ^ (x * y >> 32)) * 16777619) & mask
        a, b = signed(x), y >> 8 | 1
        h = ((h ^ ((abs(a) % b * (1 if a >= 0 else -1)) & mask)) * 16777619) & mask
    return h


@pytest.mark.parametrize("board", EVERY)
def test_arithmetic_is_right(board):
    x = np.array([1.5, -0.3, 7e-3, 1e6], np.float32)
    result = run(image("arithmetic", board), files={"given": x.tobytes()})
    assert (result.output, result.exit_code, result.fault) == (f"{reference_hash():08x}\n", 42, None)
    i = np.arange(4)
    sums = x * x[(i + 1) & 3] + x[(i + 2) & 3] / x[(i + 3) & 3]
    assert result.files["sums"] == sums.astype(np.float32).tobytes() and set(result.files) == {"sums"}


def test_without_its_file_the_program_says_so():
    assert run(image("arithmetic")).exit_code == -1


@pytest.mark.parametrize("board", EVERY)
def test_the_stack_is_painted(board):
    program = image("steps", board)
    used = {n: run(program, files={"depth": u32(n)}).stack_bytes for n in (1, 11, 21)}
    frame = (used[11] - used[1]) // 10
    # A frame holds 64 bytes of array and what the call saves.
    assert 64 <= frame <= 112 and used[21] - used[11] == used[11] - used[1] == 10 * frame
    assert 0 < used[1] < 1024


FAULTS = {
    1: ("bad address", "peek", 0xF0000000),
    2: ("bad address", "poke", None),
    3: ("stack overflow", "descend", None),
    4: ("stack overflow", "fill", None),
    5: ("no end", "forever", None),
    7: ("bad instruction", "main", None),
    8: ("bad address", None, 0x70000000),
}


@pytest.mark.parametrize("board", EVERY)
@pytest.mark.parametrize("which", FAULTS)
def test_faults_are_called_by_their_names(board, which):
    result = run(image("faults", board), files={"which": u32(which)}, timeout=20.0, limit=3_000_000)
    kind, function, address = FAULTS[which]
    assert result.fault is not None and result.exit_code is None and result.stack_bytes is None
    assert result.fault.kind == kind and result.fault.function in (function, "main")
    assert address is None or result.fault.address == address
    assert str(result.fault).startswith(kind)


# Its machines have RAM where flash is, and that of the RISC-V answers at every address.
QEMU_FAULTS = [
    (board, which)
    for board in (*BOARDS, *OTHERS)
    for which in FAULTS
    if board != "raspberry-pi-pico" and which not in (2, 8) and (board, which) != ("esp32-c3-devkitm-1", 1)
]


@pytest.mark.firmware
@pytest.mark.parametrize(("board", "which"), QEMU_FAULTS)
def test_faults_on_qemu(board, which):
    need_qemu(board)
    result = run(image("faults", board, emulator="qemu"), files={"which": u32(which)}, timeout=2.0)
    assert result.fault is not None and result.fault.kind == FAULTS[which][0]


def test_an_interrupt_ends_a_run_at_once():
    program = image("faults")
    run(program, files={"which": u32(0)})  # the counter is compiled
    interrupt = threading.Timer(0.5, os.kill, (os.getpid(), signal.SIGINT))
    # A shell that starts its jobs in the background has them ignore interrupts.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        interrupt.start()
        began = time.perf_counter()
        with pytest.raises(KeyboardInterrupt):
            run(program, files={"which": u32(5)}, timeout=20.0)
        interrupt.join()
    finally:
        signal.signal(signal.SIGINT, before)
    assert time.perf_counter() - began < 10


def test_a_run_ends_when_its_time_is_up():
    result = run(image("faults"), files={"which": u32(5)}, timeout=0.2)
    assert result.fault is not None and result.fault.kind == "no end" and result.seconds < 10


@pytest.mark.parametrize("board", EVERY)
@pytest.mark.parametrize("short", [0, 1])
def test_an_arena_that_is_too_small(board, short):
    program = image("faults", board, ARENA_BYTES=str(1000 - short))
    result = run(program, files={"which": u32(6)})
    assert program.sizes.arena == 1000 - short
    if short == 0:
        assert (result.fault, result.exit_code) == (None, 0)
    else:
        assert result.fault is not None and result.fault.kind == "arena overrun"
        assert result.fault.address == program.symbols["__arena_end"]
        assert f"arena of {1000 - short:,} bytes" in str(result.fault)


def test_a_healthy_run_says_nothing():
    result = run(image("faults"), files={"which": u32(0)})
    assert (result.exit_code, result.fault, result.output) == (4, None, "")


@pytest.mark.parametrize(
    ("board", "memory", "other"), [("raspberry-pi-pico", "RAM", "FLASH"), ("nucleo-l4r5zi", "FLASH", "RAM")]
)
def test_what_does_not_fit_does_not_link(board, memory, other):
    target = load_board(board)
    limit = target.flash_bytes if memory == "FLASH" else target.block_bytes
    with pytest.raises(TooLargeError) as caught:
        image("large", board, **{f"{memory}_BYTES": str(limit), f"{other}_BYTES": "100"})
    assert caught.value.memory == ("flash" if memory == "FLASH" else "RAM")
    assert f"overflows by {caught.value.excess:,} bytes" in str(caught.value) and target.name in str(caught.value)
    # Of RAM the stack is a part that the caller chose.
    assert ("--stack" in str(caught.value)) is (memory == "RAM")
    # As much less fits, and hardly more: sections are aligned to 8 and 16 bytes.
    step = 8 if memory == "FLASH" else 16
    fitting = (limit - caught.value.excess) // step * step
    sizes = image("large", board, **{f"{memory}_BYTES": str(fitting), f"{other}_BYTES": "100"}).sizes
    used = sizes.flash + sizes.harness if memory == "FLASH" else sizes.ram
    assert limit - 64 <= used <= limit
    with pytest.raises(TooLargeError):
        image("large", board, **{f"{memory}_BYTES": str(fitting + step), f"{other}_BYTES": "100"})


def test_the_whole_ram_can_be_used():
    """The last byte of RAM that an arena can have is written and read."""
    assert run(image("large", RAM_BYTES=str(600 * KB), FLASH_BYTES=str(1000 * KB))).exit_code == 0


def test_an_error_in_the_source_is_one_line(tmp_path):
    (tmp_path / "broken.c").write_text("int main(void) { return missing; }\n")
    with pytest.raises(BuildError) as caught:
        build([tmp_path / "broken.c"], load_board("nucleo-l4r5zi"))
    assert "missing" in str(caught.value) and "\n" not in str(caught.value) and "broken.c" in caught.value.log


def test_a_board_without_compiler_is_refused():
    with pytest.raises(InputError, match="Xtensa LX7"):
        image("loop", "esp32-s3-devkitc-1")


def test_missing_parts_are_named(monkeypatch):
    monkeypatch.setattr("shutil.which", lambda *_: None)
    program = image("loop")
    with pytest.raises(InputError, match="qemu-system-arm is not installed"):
        run_qemu(program, files={}, steps=0, timeout=1, limit=1)
    with pytest.raises(InputError, match=r"gcc.*is not installed"):
        build(Sources([]), load_board("nucleo-l4r5zi"), compiler="gcc")
    with pytest.raises(InputError, match="no machine with a Cortex-M0"):
        build(Sources([]), load_board("raspberry-pi-pico"), emulator="qemu")


def test_every_board_that_can_be_simulated_has_costs():
    cores = {core_of(b)[0].name for b in shipped_boards() if b.processor is not None}
    assert cores == set(CORES) == set(COSTS)
