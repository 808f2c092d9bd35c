"""What a run on an emulated board gives: output, counts per instruction and function, stack, faults."""

from __future__ import annotations

import struct
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np

from tinyasc_firmware_sim.image import HARNESS, Image

STATUS_FILE = "sim.status"
_STATUS = struct.Struct("<5I")
_MAGIC = 0x314D4953
KINDS = {1: "bad address", 2: "stack overflow", 3: "bad instruction", 4: "arena overrun"}
HANG = "no end"


@dataclass(frozen=True)
class Fault:
    """Why a run did not end as it should.

    Args:
        kind: a value of `KINDS`, or `HANG`.
        pc: address of the instruction, None where it is not known.
        address: that was touched, None where it is not known.
        function: that the instruction is in, None where it is not known.
        detail: more words.
    """

    kind: str
    pc: int | None = None
    address: int | None = None
    function: str | None = None
    detail: str = ""

    def __str__(self) -> str:
        parts = [self.kind]
        if self.address is not None:
            parts.append(f"at {self.address:#010x}")
        if self.function is not None:
            parts.append(f"in {self.function}()")
        if self.pc is not None:
            parts.append(f"(pc {self.pc:#010x})")
        return " ".join(parts) + (f": {self.detail}" if self.detail else "")


@dataclass(frozen=True)
class Counts:
    """How often every halfword of an image's code was executed.

    Args:
        executed: (rows, halfwords) int64; a row for what ran before the first step, and one for each step.
        jumps: (rows, halfwords + 1) int64: how often a block that ends before this halfword was left by a jump.
    """

    executed: np.ndarray
    jumps: np.ndarray


@dataclass(frozen=True)
class RunResult:
    """What one run gave.

    Args:
        image: that ran.
        emulator: its name and version.
        output: the text that the program printed.
        exit_code: what main returned; None when it did not end by itself.
        stack_bytes: the deepest that the stack went, main's caller included; None when the run did not end by itself.
        fault: None when all went well.
        counts: None where nothing was counted.
        files: that the program wrote, by name.
        seconds: that the emulation took.
    """

    image: Image
    emulator: str
    output: str
    exit_code: int | None
    stack_bytes: int | None
    fault: Fault | None
    counts: Counts | None
    files: dict[str, bytes] = field(default_factory=dict)
    seconds: float = 0.0

    @cached_property
    def per_instruction(self) -> np.ndarray:
        """(rows, halfwords) int64: executions of every instruction, at the halfword where it begins; 0 elsewhere."""
        assert self.counts is not None, "nothing was counted"
        starts = self.image.starts
        return np.where(starts, self.counts.executed[:, : len(starts)], 0)

    @cached_property
    def per_function(self) -> dict[str, int]:
        """Instructions executed in every function, the busiest first; the harness left out."""
        total, origin = self.per_instruction.sum(0), self.image.layout.flash_origin
        found = {
            f.name: int(total[(f.start - origin) // 2 : (f.end - origin) // 2].sum())
            for f in self.image.functions
            if not f.name.startswith(HARNESS)
        }
        return dict(sorted(((n, c) for n, c in found.items() if c), key=lambda item: (-item[1], item[0])))

    @property
    def instructions(self) -> int:
        """Instructions executed in the program's functions, the harness left out."""
        return sum(self.per_function.values())

    @cached_property
    def program(self) -> np.ndarray:
        """Whether each halfword of flash is the program's: bool, False in the harness."""
        mask = np.ones(len(self.image.starts), bool)
        origin = self.image.layout.flash_origin
        for f in self.image.functions:
            if f.name.startswith(HARNESS):
                mask[(f.start - origin) // 2 : (f.end - origin) // 2] = False
        return mask

    @cached_property
    def per_step(self) -> list[int]:
        """Instructions executed from each step to the next, the harness left out."""
        return np.where(self.program, self.per_instruction, 0).sum(1)[1:].tolist()


def read_status(image: Image, content: bytes | None) -> tuple[int | None, Fault | None]:
    """Stack bytes and fault of the status that the harness writes last; both None where there is none."""
    if content is None or len(content) != _STATUS.size:
        return None, None
    magic, kind, pc, address, stack = _STATUS.unpack(content)
    if magic != _MAGIC:
        return None, None
    if kind == 0:
        return stack, None
    pc = (pc & ~1) or None
    # A guard is found broken when the program has ended: where it was broken is not known.
    return None, Fault(KINDS[kind], pc, address or None, image.function_at(pc) if pc else None, _detail(image, kind))


def _detail(image: Image, kind: int) -> str:
    if kind == 2:
        return f"the {image.layout.stack_bytes:,} bytes set aside for it are used up"
    if kind == 4:
        return f"bytes behind the arena of {image.sizes.arena:,} bytes were written"
    return ""
