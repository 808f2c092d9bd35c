"""A linked image: its bytes, symbols and sizes, read from the ELF file."""

from __future__ import annotations

import bisect
import io
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from elftools.elf.elffile import ELFFile
from elftools.elf.sections import SymbolTableSection

from tinyasc_firmware_sim.boards import Board
from tinyasc_firmware_sim.cores import Core
from tinyasc_firmware_sim.link import GUARD_BYTES, Layout

HARNESS = "sim_"


@dataclass(frozen=True)
class Function:
    """A function: its name, its first address and the address behind its last byte."""

    name: str
    start: int
    end: int


@dataclass(frozen=True)
class Sizes:
    """Bytes of an image.

    Args:
        code: instructions and the constants between them, the harness left out.
        constants: read-only data: weights and tables.
        data: initialised variables; they take flash and RAM.
        bss: cleared variables, the arena left out.
        arena: variables whose section's name holds "arena".
        stack: set aside for the stack.
        harness: of the start-up code that only the emulated run needs.
    """

    code: int
    constants: int
    data: int
    bss: int
    arena: int
    stack: int
    harness: int

    @property
    def flash(self) -> int:
        """Of flash, the harness left out."""
        return self.code + self.constants + self.data

    @property
    def ram(self) -> int:
        """Of RAM with the whole stack that was set aside."""
        return self.data + self.bss + self.arena + self.stack


@dataclass(frozen=True)
class Image:
    """What `build` made.

    Args:
        elf: the file.
        board: it was linked for.
        core: of that board.
        layout: where it lies; for qemu at the addresses of an emulated machine.
        emulator: that it was linked for, "unicorn" or "qemu".
        compiler: its name and version.
    """

    elf: bytes
    board: Board
    core: Core
    layout: Layout
    emulator: str
    compiler: str

    @cached_property
    def _file(self) -> ELFFile:
        return ELFFile(io.BytesIO(self.elf))

    @cached_property
    def entry(self) -> int:
        """Address of the first instruction."""
        return int(self._file["e_entry"]) & ~1

    @cached_property
    def symbols(self) -> dict[str, int]:
        """Addresses by name, without the bit that marks Thumb code."""
        return {
            s.name: int(s["st_value"]) & ~(s["st_info"]["type"] == "STT_FUNC" and not self.core.riscv)
            for s in self._symbols()
            if s.name and not s.name.startswith("$")
        }

    @cached_property
    def functions(self) -> list[Function]:
        """Every function by address; what lies between two belongs to the first where no size is given."""
        found = {}
        for s in self._symbols():
            if s["st_info"]["type"] == "STT_FUNC":
                start = int(s["st_value"]) & ~(not self.core.riscv)
                # Of several names of one address (aliases) the first by name is kept.
                if start not in found or s.name < found[start][0]:
                    found[start] = (s.name, int(s["st_size"]))
        starts = sorted(found)
        ends = [*starts[1:], max((start + found[start][1] for start in starts), default=0)]
        return [
            Function(found[a][0], a, a + found[a][1] if found[a][1] else b) for a, b in zip(starts, ends, strict=True)
        ]

    def function_at(self, address: int) -> str | None:
        """The name of the function that holds an address."""
        i = bisect.bisect_right([f.start for f in self.functions], address) - 1
        return self.functions[i].name if i >= 0 and address < self.functions[i].end else None

    @cached_property
    def sizes(self) -> Sizes:
        """Bytes by kind."""
        of = {s.name: int(s["sh_size"]) for s in self._file.iter_sections()}
        return Sizes(
            code=of.get(".text", 0),
            constants=of.get(".rodata", 0),
            data=of.get(".data", 0),
            bss=of.get(".bss", 0),
            arena=of.get(".arena", 0) - GUARD_BYTES,
            stack=of.get(".stack", 0),
            harness=of.get(".sim", 0),
        )

    def segments(self) -> list[tuple[int, bytes]]:
        """What is loaded: physical address and bytes of each piece."""
        return [
            (int(s["p_paddr"]), s.data())
            for s in self._file.iter_segments()
            if s["p_type"] == "PT_LOAD" and s["p_filesz"]
        ]

    @cached_property
    def flash(self) -> bytes:
        """The content of flash from `layout.flash_origin` to the end of the code."""
        end = max(a + len(b) for a, b in self.segments())
        content = bytearray(end - self.layout.flash_origin)
        for address, piece in self.segments():
            at = address - self.layout.flash_origin
            content[at : at + len(piece)] = piece
        return bytes(content)

    @cached_property
    def code_halfwords(self) -> int:
        """Halfwords from the first byte of flash to the end of the code; behind it lie constants alone."""
        return max(last for _, last in self._code_ranges)

    @cached_property
    def starts(self) -> np.ndarray:
        """Whether an instruction begins at each halfword of the code: bool, one more than there are halfwords."""
        marks = np.zeros(self.code_halfwords + 1, bool)
        words = np.frombuffer(self.flash[: len(self.flash) // 2 * 2], "<u2")
        # 32-bit instructions by their first halfword: Thumb by its five high bits, RISC-V by its two low ones.
        wide = (words & 3) == 3 if self.core.riscv else (words >> 11) >= 0b11101
        for first, last in self._code_ranges:
            at = first
            while at < last:
                marks[at] = True
                at += 2 if wide[at] else 1
        return marks

    @cached_property
    def _code_ranges(self) -> list[tuple[int, int]]:
        """Pieces of `flash` that hold instructions, in halfwords; literals between them are left out."""
        ranges = []
        symbols = [
            (int(s["st_value"]), s.name[:2], s["st_shndx"]) for s in self._symbols() if s.name[:2] in ("$t", "$x", "$d")
        ]
        for index, section in enumerate(self._file.iter_sections()):
            if not section["sh_flags"] & 4 or section["sh_type"] != "SHT_PROGBITS":
                continue
            low, high = int(section["sh_addr"]), int(section["sh_addr"]) + int(section["sh_size"])
            # GCC's RISC-V code bears no mapping symbols: it holds no literals.
            inside = sorted((a, kind) for a, kind, where in symbols if where == index) or [(low, "$x")]
            ends = [*(a for a, _ in inside[1:]), high]
            ranges += [
                ((a - self.layout.flash_origin) // 2, (b - self.layout.flash_origin) // 2)
                for (a, kind), b in zip(inside, ends, strict=True)
                if kind != "$d"
            ]
        return ranges

    def _symbols(self):
        table = self._file.get_section_by_name(".symtab")
        assert isinstance(table, SymbolTableSection), "images are linked with their symbols"
        return table.iter_symbols()
