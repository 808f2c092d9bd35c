"""An estimate of processor cycles from instruction counts: never a measurement.

Every instruction has the cost of its class, as the core's reference manual gives it for memory without wait states; a
branch that is taken costs more. The board's factor stands for wait states, caches and dual issue. Held against
published MLPerf Tiny runs, Cortex-M4 boards take 1.23 to 1.43 of the sum and Cortex-M33 boards 1.01 to 1.14; so the
band is 30 % where such runs are known, and 50 % where none is.
"""

from __future__ import annotations

from dataclasses import dataclass

import capstone
import numpy as np

from tinyasc_firmware_sim.cores import Core, core_of
from tinyasc_firmware_sim.image import Image
from tinyasc_firmware_sim.results import RunResult


@dataclass(frozen=True)
class Costs:
    """Cycles by class of instruction.

    Args:
        load: of a load that does not follow another load or store.
        store: likewise.
        following: of a load or store right behind another one.
        block: of a load or store of N words beside N.
        taken: beside its own cycle, of a branch that is taken.
        multiply_add: of MLA and MLS.
        long_multiply: of SMULL, UMULL and their sums.
        divide: of an integer division, middle of its range.
        float_add: of VADD, VMUL and conversions.
        float_multiply_add: of VMLA and VFMA.
        float_divide: of VDIV and VSQRT.
        unknown: of what the disassembler does not know: Helium's instructions.
        band: of the estimate, as a fraction.
        source: of the costs.
    """

    load: int
    store: int
    following: int
    block: int
    taken: int
    multiply_add: int
    long_multiply: int
    divide: int
    float_add: int
    float_multiply_add: int
    float_divide: int
    unknown: int
    band: float
    source: str


_M4 = (2, 2, 1, 1, 2, 1, 1, 7, 1, 3, 14)
_HELD = "as for the Cortex-M4; published MLPerf Tiny runs hold the sum"
COSTS = {
    "Cortex-M0+": Costs(
        2, 2, 2, 1, 1, 1, 1, 1, 1, 1, 1, 1, 0.5, "Arm Cortex-M0+ TRM, table 3-1; multiplier of one cycle"
    ),
    "Cortex-M3": Costs(2, 2, 1, 1, 2, 2, 4, 7, 1, 1, 1, 1, 0.5, "Arm Cortex-M3 TRM, table 3-1"),
    "Cortex-M4F": Costs(*_M4, 1, 0.3, "Arm Cortex-M4 TRM, tables 3-1 and 7-1"),
    "Cortex-M7F": Costs(*_M4, 1, 0.3, "as for the Cortex-M4; the board's factor holds dual issue and caches"),
    "Cortex-M33F": Costs(*_M4, 1, 0.3, _HELD),
    "Cortex-M55": Costs(*_M4, 2, 0.5, "as for the Cortex-M4, Helium two cycles (four beats, two at once)"),
    "RV32IMC": Costs(2, 1, 1, 1, 2, 1, 1, 10, 1, 1, 1, 1, 0.5, "assumed: no timing of this core is published"),
}


@dataclass(frozen=True)
class Estimate:
    """Estimated cycles of one run.

    Args:
        per_row: for every row of the run's counts, the board's factor included.
        band: that the truth is thought to lie within, as a fraction.
        factor: of the board.
        source: of costs and factor.
    """

    per_row: tuple[float, ...]
    band: float
    factor: float
    source: str

    @property
    def cycles(self) -> float:
        """Of the whole run."""
        return sum(self.per_row)

    @property
    def per_step(self) -> tuple[float, ...]:
        """Of every step, what ran before the first left out."""
        return self.per_row[1:]

    def words(self) -> str:
        """What has to stand beside every figure of it."""
        return f"estimated, +-{self.band:.0%} (zero-wait costs x {self.factor:g}: {self.source})"


def estimate(result: RunResult) -> Estimate:
    """Estimates the cycles of a run, the harness left out."""
    image = result.image
    _, processor = core_of(image.board)
    costs = COSTS[image.core.name]
    assert result.counts is not None, "nothing was counted"
    own = result.program
    straight = np.where(own, result.per_instruction, 0) @ instruction_costs(image, costs)
    # A jump is counted at the halfword behind its branch.
    jumps = result.counts.jumps[:, 1 : len(own) + 1] @ own.astype(np.int64)
    rows = (straight + costs.taken * jumps) * processor.wait_state_factor
    source = f"{costs.source}; factor: {processor.factor_source}"
    return Estimate(tuple(map(float, rows)), costs.band, processor.wait_state_factor, source)


def instruction_costs(image: Image, costs: Costs) -> np.ndarray:
    """Cycles of the instruction that begins at each halfword of flash, branches as if not taken: int64."""
    table = np.zeros(len(image.starts), np.int64)
    decoder, origin = _decoder(image.core), image.layout.flash_origin
    after_access = False
    last_end = -1
    for at in np.flatnonzero(image.starts):
        piece = image.flash[2 * at : 2 * at + 4]
        decoded = next(decoder.disasm(piece, origin + 2 * int(at), 1), None)
        if decoded is None:
            table[at], after_access, last_end = costs.unknown, False, -1
            continue
        name = decoder.insn_name(decoded.id) or decoded.mnemonic
        access = _is_access(name)
        table[at] = (
            costs.following if access and after_access and last_end == at else _cost(name, decoded.op_str, costs)
        )
        after_access, last_end = access, at + decoded.size // 2
    return table


def _decoder(core: Core) -> capstone.Cs:
    if core.riscv:
        return capstone.Cs(capstone.CS_ARCH_RISCV, capstone.CS_MODE_RISCV32 | capstone.CS_MODE_RISCVC)
    return capstone.Cs(capstone.CS_ARCH_ARM, capstone.CS_MODE_THUMB | capstone.CS_MODE_MCLASS | capstone.CS_MODE_V8)


_LOADS = ("ldr", "ldrb", "ldrh", "ldrsb", "ldrsh", "vldr", "lw", "lh", "lb", "lhu", "lbu", "c.lw", "c.lwsp")
_STORES = ("str", "strb", "strh", "vstr", "sw", "sh", "sb", "c.sw", "c.swsp")


def _is_access(name: str) -> bool:
    return name in _LOADS or name in _STORES


def _cost(name: str, operands: str, costs: Costs) -> int:
    if name in _LOADS:
        return costs.load
    if name in _STORES:
        return costs.store
    if name in ("ldrd", "strd"):
        return costs.block + 2
    if name.startswith(("ldm", "stm", "vldm", "vstm")) or name in ("push", "pop", "vpush", "vpop"):
        registers = operands[operands.find("{") + 1 : operands.find("}")].split(",")
        return costs.block + sum(2 if r.strip().startswith("d") else 1 for r in registers)
    if name in ("mla", "mls"):
        return costs.multiply_add
    if name in ("smull", "umull", "smlal", "umlal", "umaal"):
        return costs.long_multiply
    if name in ("sdiv", "udiv", "div", "divu", "rem", "remu"):
        return costs.divide
    if name.startswith(("vdiv", "vsqrt")):
        return costs.float_divide
    if name.startswith(("vmla", "vmls", "vfma", "vfms", "vnml", "vfnm")):
        return costs.float_multiply_add
    return costs.float_add if name.startswith("v") else 1
