"""Tables of what our C kernels cost on a core, and a net's latency, estimated from them without building it.

A table holds instructions and cycles (of the core's model, before the board's factor) per unit of `work`. It is made by
counting the kernels on the emulated core: `tests/bench/kernel_costs.py`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cache
from importlib import resources

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from tinyasc_export.errors import InputError
from tinyasc_firmware_sim.boards import Board
from tinyasc_firmware_sim.cores import core_of
from tinyasc_firmware_sim.work import Work, total

PRECISIONS = ("int8", "int16x8")
# One table of 256 values at int8.
_TABLE_OF_INT8 = ("relu", "sigmoid", "hardswish", "rsqrt")


class UnitCost(BaseModel):
    """Of one unit of a kernel's work."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    instructions: float = Field(ge=0)
    cycles: float = Field(ge=0)


class KernelCosts(BaseModel):
    """The table of one core.

    Args:
        core: its name, as boards write it.
        made_by: the command.
        compiler: its name and version.
        emulator: its name and version.
        cycle_band: that the core's cycle model states for counted instructions, as a fraction.
        table_band: how far instructions from this table may lie from counted ones, as a fraction.
        costs: by precision, kernel and unit.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    core: str
    made_by: str
    compiler: str
    emulator: str
    cycle_band: float = Field(gt=0, lt=1)
    table_band: float = Field(gt=0, lt=1)
    costs: dict[str, dict[str, dict[str, UnitCost]]]


@dataclass(frozen=True)
class Latency:
    """An estimate of one inference, front end not included.

    Args:
        board: that it is for.
        instructions: estimated from the table, or counted.
        cycles: estimated, the board's factor included.
        band: of the cycles, as a fraction.
        counted: whether the instructions were counted.
    """

    board: Board
    instructions: float
    cycles: float
    band: float
    counted: bool = False

    @property
    def seconds(self) -> float:
        """Of one inference."""
        return self.cycles / core_of(self.board)[1].clock_hz

    def milliseconds(self, copies: int = 1) -> int:
        """Of `copies` inferences, rounded up to a whole one."""
        return math.ceil(1000 * self.seconds * copies)


def load_costs(board: Board) -> KernelCosts:
    """The table of a board's core.

    Raises:
        InputError: nothing here compiles or runs code for it, or its core has no table.
    """
    core, _ = core_of(board)
    table = _read(core.name)
    if table is None:
        raise InputError(f"board {board.key!r}: there is no table of what kernels cost on its {core.name}")
    return table


def estimate_latency(works: tuple[tuple[Work, ...], ...], precision: str, board: Board) -> Latency:
    """Estimates one inference on a board from the table of its core.

    Args:
        works: of the graph (`work.work`).
        precision: "int8" or "int16x8".
        board: whose clock and wait-state factor count.

    Raises:
        InputError: a board without a table, or a kernel that the table lacks.
    """
    table, (_, processor) = load_costs(board), core_of(board)
    instructions = cycles = 0.0
    for (kernel, unit), n in total(works).items():
        cost = table.costs.get(precision, {}).get(kernel_name(kernel, precision), {}).get(unit)
        if cost is None:
            raise InputError(f"board {board.key!r}: what {kernel} costs at {precision} is not in {table.core}'s table")
        instructions += n * cost.instructions
        cycles += n * cost.cycles
    band = (1 + table.cycle_band) * (1 + table.table_band) - 1
    return Latency(board, instructions, cycles * processor.wait_state_factor, band)


def kernel_name(kernel: str, precision: str) -> str:
    """The kernel that computes a piece of work: functions of one int8 value are all one table look-up."""
    return "lookup" if precision == "int8" and kernel in _TABLE_OF_INT8 else kernel


def file_name(core: str) -> str:
    """Of a core's table."""
    return core.lower().replace("+", "plus") + ".yaml"


@cache
def _read(core: str) -> KernelCosts | None:
    file = resources.files("tinyasc_firmware_sim") / "kernel_costs" / file_name(core)
    if not file.is_file():
        return None
    try:
        return KernelCosts.model_validate(yaml.safe_load(file.read_text(encoding="utf-8")))
    except (ValueError, yaml.YAMLError, ValidationError) as error:
        raise InputError(f"{file}: no valid table of costs ({str(error).splitlines()[0]})") from None
