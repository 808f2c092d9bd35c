"""The linker script of an image: a board's real sizes, so that what does not fit does not link."""

from __future__ import annotations

from dataclasses import dataclass

GUARD_BYTES = 32


@dataclass(frozen=True)
class Layout:
    """Where an image lies: addresses of the machine that runs it, sizes of the board.

    Args:
        flash_origin: address of the first byte of code.
        flash_bytes: for code and constants.
        ram_origin: address of the first byte of RAM.
        ram_bytes: in one piece, the stack included.
        stack_bytes: of RAM that are set aside for the stack; a multiple of 16.
    """

    flash_origin: int
    flash_bytes: int
    ram_origin: int
    ram_bytes: int
    stack_bytes: int


def linker_script(layout: Layout) -> str:
    """The script, for GNU ld and lld.

    The stack is the lowest piece of RAM, so that what overflows it leaves RAM and faults in place of overwriting data.
    Variables whose section's name holds "arena" are kept apart; the bytes behind them are a guard that is looked at
    when the run ends. The harness (the vectors and the functions sim_..., about 1 KB) has a section of its own: it
    takes flash, as any start-up code does, but is not counted as the program's.
    """
    return f"""MEMORY {{
  FLASH (rx) : ORIGIN = {layout.flash_origin:#x}, LENGTH = {layout.flash_bytes}
  RAM (rw) : ORIGIN = {layout.ram_origin:#x}, LENGTH = {layout.ram_bytes}
}}
SECTIONS {{
  .sim : {{ KEEP(*(.vectors)) *(.text.sim_* .rodata.sim_*) }} > FLASH
  .text : {{ *(.text .text.*) }} > FLASH
  .rodata : {{ *(.rodata .rodata.* .srodata .srodata.*) }} > FLASH
  .stack (NOLOAD) : {{ __stack_bottom = .; . += {layout.stack_bytes}; __stack_top = .; }} > RAM
  .data : ALIGN(8) {{ __data_start = .; *(.data .data.* .sdata .sdata.*) __data_end = .; }} > RAM AT > FLASH
  __data_load = LOADADDR(.data);
  .arena (NOLOAD) : ALIGN(16) {{
    __arena_start = .; *(.bss.*arena*) __arena_end = .; . += {GUARD_BYTES}; __guard_end = .;
  }} > RAM
  .bss (NOLOAD) : ALIGN(8) {{ __bss_start = .; *(.bss .bss.* .sbss .sbss.* COMMON) __bss_end = .; }} > RAM
  /DISCARD/ : {{ *(.ARM.exidx* .ARM.extab* .eh_frame* .comment .note*) }}
}}
"""
