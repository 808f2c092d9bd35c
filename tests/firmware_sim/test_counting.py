"""Instruction counts: exact, repeatable, and the same by four ways of counting."""

import numpy as np
import pytest
from emulated import BOARDS, OTHERS, image, need_gcc, need_qemu, u32
from hypothesis import given, settings
from hypothesis import strategies as st

from tinyasc_firmware_sim import emulator, run
from tinyasc_firmware_sim.cycles import COSTS, _decoder, estimate, instruction_costs

unicorn = pytest.importorskip("unicorn", reason="unicorn is not installed: pip install 'tinyasc[firmware]'")

EVERY = [*BOARDS, *(pytest.param(board, marks=pytest.mark.firmware) for board in OTHERS)]


def runs_where(board):
    """The emulator that a board's core runs on by default."""
    if board == "mps3-an547":
        need_qemu(board)
        return "qemu"
    return "unicorn"


@pytest.mark.parametrize("board", EVERY)
def test_a_loop_of_known_length_is_counted_to_the_instruction(board):
    result = run(image("loop", board, emulator=runs_where(board)), files={"turns": u32(1000)})
    assert (result.exit_code, result.fault) == (0, None)
    assert result.per_function["spin"] == 4 * 1000 + 1
    # What is not the harness is main and spin, and nothing is counted twice.
    assert set(result.per_function) == {"spin", "main"} and result.instructions == sum(result.per_function.values())


@settings(max_examples=30, deadline=None)
@given(st.sampled_from(BOARDS), st.integers(1, 20_000))
def test_loops_of_any_length(board, turns):
    result = run(image("loop", board), files={"turns": u32(turns)})
    one = run(image("loop", board), files={"turns": u32(1)})
    assert result.per_function["spin"] == 4 * turns + 1
    assert result.instructions - one.instructions == 4 * (turns - 1)


@pytest.mark.parametrize("board", EVERY)
def test_three_runs_agree_to_the_byte(board):
    files = {"given": np.arange(1, 5, dtype=np.float32).tobytes()}
    program = image("arithmetic", board, emulator=runs_where(board))
    results = [run(program, files=files) for _ in range(3)]
    said = {(r.output, r.exit_code, r.stack_bytes, r.files["sums"], r.counts.executed.tobytes()) for r in results}
    assert len(said) == 1 and results[0].exit_code == 42


class EveryInstruction(emulator._Run):
    """Counts by a hook on every instruction, beside the blocks."""

    def _count(self):
        super()._count()
        self.executed = np.zeros(len(self.image.starts), np.int64)
        self.engine.hook_add(unicorn.UC_HOOK_CODE, self._instruction)

    def _instruction(self, _engine, address, _size, _user):
        self.executed[(address - self.image.layout.flash_origin) // 2] += 1


@pytest.mark.parametrize("board", BOARDS)
def test_blocks_count_what_a_hook_on_every_instruction_counts(board):
    """Soft float, division, conditional instructions and literals between them."""
    single = EveryInstruction(image("arithmetic", board), {"given": bytes(16)}, 0, 10**9)
    result = single.go(60.0)
    assert result.fault is None
    differ = np.flatnonzero(result.per_instruction.sum(0) != single.executed)
    # The hook is not called for an instruction whose condition fails. It takes its cycle, and is counted.
    words = np.frombuffer(result.image.flash[: 2 * len(single.executed)], "<u2")
    for at in differ:
        assert result.per_instruction[:, at].sum() > single.executed[at]
        assert any(word & 0xFF00 == 0xBF00 and word & 15 for word in words[at - 8 : at]), "no IT before it"
    assert single.executed.sum() > 1000 > 10 * len(differ) and single.counter.state.outside == 0


@pytest.mark.parametrize("board", EVERY)
def test_instructions_begin_where_the_disassembler_says(board):
    program = image("arithmetic", board, emulator=runs_where(board))
    result = run(program, files={"given": bytes(16)})
    decoder, unknown = _decoder(program.core), []
    for at in np.flatnonzero(result.per_instruction.sum(0)):
        piece = program.flash[2 * at : 2 * at + 4]
        decoded = next(decoder.disasm(piece, 0, 1), None)
        if decoded is None:
            unknown.append(piece)
        elif program.starts[at + 1]:
            assert decoded.size == 2, decoded
        elif at + 2 < len(program.starts) and program.starts[at + 2]:
            # Between the two lies the second half of one instruction, or a literal behind a jump.
            assert decoded.size == 4 or decoded.mnemonic.startswith(("b", "pop", "c.j", "ret", "bkpt")), decoded
    # Capstone knows no Helium and not every system instruction.
    assert board == "mps3-an547" or len(unknown) <= 2


@pytest.mark.firmware
@pytest.mark.parametrize("program", ["loop", "arithmetic", "steps"])
@pytest.mark.parametrize("board", [b for b in (*BOARDS, *OTHERS) if b not in ("raspberry-pi-pico", "mps3-an547")])
@pytest.mark.parametrize("compiler", ["zig", "gcc"])
def test_unicorn_and_qemu_agree(program, board, compiler):
    need_qemu(board)
    if compiler == "gcc":
        need_gcc(board)
    files = {"turns": u32(77), "depth": u32(3), "given": np.arange(1, 5, dtype=np.float32).tobytes()}
    here, there = (
        run(image(program, board, compiler=compiler, emulator=e), files=files, steps=3) for e in ("unicorn", "qemu")
    )
    assert here.fault is None and there.fault is None
    assert (here.output, here.exit_code, here.files) == (there.output, there.exit_code, there.files)
    assert here.per_function == there.per_function and here.per_step == there.per_step
    assert here.stack_bytes == there.stack_bytes


@pytest.mark.parametrize("board", EVERY)
def test_steps_are_counted_apart(board):
    result = run(image("steps", board, emulator=runs_where(board)), files={"depth": u32(0)}, steps=3)
    first, second, last = result.per_step
    # The loops differ by 100 turns of one length, in which nothing but the loop is executed; compilers unroll by 4.
    assert (second - first) % 25 == 0 and second > first > last > 0
    before = int(np.where(result.program, result.per_instruction, 0)[0].sum())
    assert before + first + second + last == result.instructions


def test_more_steps_than_were_asked_for_fall_into_the_last():
    program = image("steps")
    files = {"depth": u32(2)}
    three, one = run(program, files=files, steps=3), run(program, files=files, steps=1)
    assert one.per_step == [sum(three.per_step)]
    assert len(run(program, files=files, steps=5).per_step) == 5


def test_cycles_of_a_known_loop():
    """Cortex-M4: SUBS, NOP and CMP take one cycle each, a taken BNE three, the last one one."""
    program = image("loop")
    low, high = (run(program, files={"turns": u32(n)}) for n in (100, 1100))
    assert estimate(high).cycles - estimate(low).cycles == pytest.approx(1.33 * 1000 * 6)
    assert estimate(low).band == 0.3 and "estimated, +-30%" in estimate(low).words()


def test_costs_of_loads_side_by_side():
    """LDR r0,[r1]; LDR r2,[r1]; LDMIA r1!,{r2,r3}; ADDS; B: 2, 1, 1 + 2, 1, 1 by the Cortex-M4's manual."""
    code = bytes.fromhex("08680a680cc94018fee7")

    class Piece:
        starts = np.ones(len(code) // 2, bool)
        core = image("loop").core
        layout = image("loop").layout
        flash = code

    assert instruction_costs(Piece(), COSTS["Cortex-M4F"]).tolist() == [2, 1, 3, 1, 1]
