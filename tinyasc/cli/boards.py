"""`tinyasc boards`: the boards that come along."""

from __future__ import annotations

import json

import click
from rich.console import Console
from rich.table import Table

from tinyasc_firmware_sim.boards import Board, shipped_boards
from tinyasc_firmware_sim.cores import CORES
from tinyasc_firmware_sim.qemu import qemu_installed, qemu_program
from tinyasc_firmware_sim.toolchain import available, gcc_program

WIDTH = 150


@click.command("boards")
@click.option("--json", "as_json", is_flag=True, help="One JSON array in place of the table, with every source.")
def command(as_json: bool) -> None:
    """List the boards: processor, clock, flash, RAM, and whether this machine can emulate them.

    \b
    Example:
      tinyasc boards
    """  # noqa: D301 (click reads the backspace)
    boards = shipped_boards()
    if as_json:
        click.echo(json.dumps([b.model_dump() | {"emulated": emulated(b)} for b in boards], allow_nan=False))
        return
    table = Table(title="Boards", title_justify="left")
    for heading in ("name", "chip", "core"):
        table.add_column(heading)
    for heading in ("MHz", "flash", "RAM", "in one piece"):
        table.add_column(heading, justify="right")
    table.add_column("emulated here by")
    for board in boards:
        chip, clock = (board.processor.chip, f"{board.processor.clock_hz / 1e6:g}") if board.processor else ("-", "-")
        sizes = (f"{n:,}" for n in (board.flash_bytes, board.ram_bytes, board.block_bytes))
        table.add_row(board.key, chip, board.core, clock, *sizes, emulated(board))
    console = Console()
    Console(width=None if console.is_terminal else WIDTH).print(table)


def emulated(board: Board) -> str:
    """What runs a board's core here, or what is missing."""
    core = CORES.get(board.core)
    if core is None or board.processor is None:
        return "nothing: no compiler and emulator come along"
    if not any(available(compiler, core) for compiler in ("zig", "gcc")):
        return f"nothing: needs zig (pip install 'tinyasc[firmware]') or {gcc_program(core)}"
    ways = [*(["unicorn"] if core.unicorn else []), *(["qemu"] if qemu_installed(core) else [])]
    return ", ".join(ways) or f"nothing: needs {qemu_program(core)}"
