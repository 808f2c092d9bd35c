"""Runs images on unicorn: bare cores from PyPI, no root, exact counts."""

from __future__ import annotations

import ctypes
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor, wait
from functools import lru_cache
from importlib.metadata import version

import unicorn
from unicorn import arm_const, riscv_const
from unicorn.unicorn_py3.unicorn import Uc, UcError, uclib

from tinyasc_export.errors import InputError
from tinyasc_firmware_sim.counting import Counter, counter_library
from tinyasc_firmware_sim.image import Image
from tinyasc_firmware_sim.results import HANG, STATUS_FILE, Fault, RunResult, read_status

PAGE = 4096
SYSTEM_PAGE = 0xE000E000
LARGEST_PUSH = 128
STACK_REACH = 1 << 20  # how far below the stack an overflow is looked for
_MEMORY = {
    unicorn.UC_MEM_READ_UNMAPPED: "read",
    unicorn.UC_MEM_WRITE_UNMAPPED: "write",
    unicorn.UC_MEM_FETCH_UNMAPPED: "jump",
    unicorn.UC_MEM_READ_PROT: "read",
    unicorn.UC_MEM_WRITE_PROT: "write to flash",
    unicorn.UC_MEM_FETCH_PROT: "jump into data",
}


def run_unicorn(
    image: Image,
    *,
    files: Mapping[str, bytes],
    steps: int,
    timeout: float,
    limit: int,
) -> RunResult:
    """Runs an image from reset to its end; see `run`."""
    if image.core.unicorn is None:
        raise InputError(f"unicorn has no {image.core.name}; qemu runs it (install qemu-system-arm)")
    return _Run(image, files, steps, limit).go(timeout)


@lru_cache(maxsize=1)
def _library() -> ctypes.CDLL:
    return ctypes.CDLL(str(counter_library("counter.c")))


class _Run:
    """One run: the engine, its hooks, and the host's side of semihosting."""

    def __init__(self, image: Image, files: Mapping[str, bytes], steps: int, limit: int) -> None:
        self.image, self.files = image, dict(files)
        self.written: dict[str, bytes] = {}
        self.open: list[tuple[str, int]] = []  # name and position by handle - 1
        self.text, self.exit_code = bytearray(), None
        self.fault: Fault | None = None
        self.interrupted = False
        riscv = image.core.riscv
        if riscv:
            self.pc, self.sp = riscv_const.UC_RISCV_REG_PC, riscv_const.UC_RISCV_REG_SP
            self.arguments = riscv_const.UC_RISCV_REG_A0, riscv_const.UC_RISCV_REG_A1
            self.engine = Uc(unicorn.UC_ARCH_RISCV, unicorn.UC_MODE_RISCV32)
        else:
            self.pc, self.sp = arm_const.UC_ARM_REG_PC, arm_const.UC_ARM_REG_SP
            self.arguments = arm_const.UC_ARM_REG_R0, arm_const.UC_ARM_REG_R1
            model = getattr(arm_const, str(image.core.unicorn))
            mode = unicorn.UC_MODE_THUMB | unicorn.UC_MODE_MCLASS
            self.engine = Uc(unicorn.UC_ARCH_ARM, mode, model)
        self._load()
        self.counter = Counter(image, steps, limit)
        self._count()
        self.engine.hook_add(unicorn.UC_HOOK_INTR, self._exception)
        self.engine.hook_add(unicorn.UC_HOOK_MEM_INVALID, self._bad_access)

    def _load(self) -> None:
        layout, engine = self.image.layout, self.engine
        for origin, size, access in (
            (layout.flash_origin, layout.flash_bytes, unicorn.UC_PROT_READ | unicorn.UC_PROT_EXEC),
            (layout.ram_origin, layout.ram_bytes, unicorn.UC_PROT_READ | unicorn.UC_PROT_WRITE),
        ):
            low = origin // PAGE * PAGE
            engine.mem_map(low, -(-(origin + size) // PAGE) * PAGE - low, access)
        engine.mem_write(layout.flash_origin, self.image.flash)
        if not self.image.core.riscv:
            # The system control space is not emulated: what start-up sets there is kept and does nothing.
            engine.mem_map(SYSTEM_PAGE, PAGE, unicorn.UC_PROT_READ | unicorn.UC_PROT_WRITE)
        engine.reg_write(self.sp, self.image.symbols["__stack_top"])

    def _count(self) -> None:
        self.counter.state.stop = ctypes.cast(uclib.uc_emu_stop, ctypes.c_void_p).value
        self.hook = ctypes.c_size_t()
        # A Python function per block would be 100 times slower. A range that ends before it begins means everywhere.
        status = uclib.uc_hook_add(
            self.engine._uch,
            ctypes.byref(self.hook),
            unicorn.UC_HOOK_BLOCK,
            _library().on_block,
            ctypes.byref(self.counter.state),
            ctypes.c_uint64(1),
            ctypes.c_uint64(0),
        )
        if status != unicorn.UC_ERR_OK:
            raise UcError(status)

    def go(self, timeout: float) -> RunResult:
        """Runs to the end.

        In a thread: Python's signal handlers run in the main one, where unicorn would keep them waiting, and an
        interrupt that is raised in a hook is lost.
        """
        began = time.perf_counter()
        with ThreadPoolExecutor(max_workers=1) as pool:
            running = pool.submit(self._emulate, began + timeout)
            try:
                running.result()
            except KeyboardInterrupt:
                self.interrupted = True
                while wait([running], timeout=0.05).not_done:
                    self.engine.emu_stop()
                raise
        seconds = time.perf_counter() - began
        if self.exit_code is None and self.fault is None:
            self.fault = self._hang(seconds)
        stack, reported = read_status(self.image, self.written.pop(STATUS_FILE, None))
        fault = self.fault or reported
        return RunResult(
            self.image,
            f"unicorn {version('unicorn')}",
            self.text.decode(errors="replace"),
            self.exit_code if fault is None else None,
            stack,
            fault,
            self.counter.counts(),
            self.written,
            seconds,
        )

    def _emulate(self, deadline: float) -> None:
        at: int | None = self.image.entry
        while at is not None and not self.interrupted:
            left = max(1, int((deadline - time.perf_counter()) * 1e6))
            try:
                self.engine.emu_start(at | (not self.image.core.riscv), 0xFFFFFFFF, timeout=left)
                at = None
            except UcError as error:
                at = self._resumed(error)

    def _hang(self, seconds: float) -> Fault:
        pc = self.engine.reg_read(self.pc)
        why = f"stopped after {seconds:.1f} s and {self.counter.state.halfwords:,} halfwords of instructions"
        return Fault(HANG, pc, None, self.image.function_at(pc), why)

    def _bad_access(self, engine: Uc, access: int, address: int, size: int, _value: int, _user: object) -> bool:
        pc = engine.reg_read(self.pc)
        where = self.image.function_at(pc)
        if self._overflowed(address):
            used = f"the {self.image.layout.stack_bytes:,} bytes set aside for it are used up"
            self.fault = Fault("stack overflow", pc, address, where, used)
        else:
            self.fault = Fault("bad address", pc, address, where, f"{_MEMORY.get(access, 'access')} of {size} bytes")
        return False

    def _overflowed(self, address: int) -> bool:
        """What lies below the stack is touched while the stack pointer is there, or about to be."""
        bottom = self.image.symbols["__stack_bottom"]
        # A PUSH or VPUSH writes at most so much before the stack pointer follows.
        near = self.engine.reg_read(self.sp) < bottom + LARGEST_PUSH
        return near and bottom - STACK_REACH <= address < bottom

    def _resumed(self, error: UcError) -> int | None:
        """Where to go on after an error: unicorn stops at RISC-V's semihosting calls as at a bad instruction."""
        pc = self.engine.reg_read(self.pc)
        if self.fault is None and error.errno == unicorn.UC_ERR_INSN_INVALID and self._called(pc):
            return None if self.exit_code is not None else self.engine.reg_read(self.pc)
        if self.fault is None:
            bad = error.errno in (unicorn.UC_ERR_INSN_INVALID, unicorn.UC_ERR_EXCEPTION)
            self.fault = Fault("bad instruction" if bad else str(error), pc, None, self.image.function_at(pc))
        return None

    def _exception(self, engine: Uc, number: int, _user: object) -> None:
        pc = engine.reg_read(self.pc)
        if not self._called(pc):
            # unicorn's RISC-V stands four bytes behind the instruction, however long that is.
            pc -= 4 if self.image.core.riscv else 0
            self.fault = Fault("bad instruction", pc, None, self.image.function_at(pc), f"exception {number}")
            engine.emu_stop()
        elif self.exit_code is not None:
            engine.emu_stop()

    def _called(self, pc: int) -> bool:
        """Does the semihosting call at `pc` and steps over it; False where there is none."""
        riscv = self.image.core.riscv
        call = b"\x73\x00\x10\x00" if riscv else b"\xab\xbe"
        if self._read(pc, len(call)) != call:
            return False
        answer = self._semihosting(*(self.engine.reg_read(r) for r in self.arguments))
        self.engine.reg_write(self.arguments[0], answer & 0xFFFFFFFF)
        self.engine.reg_write(self.pc, (pc + len(call)) | (not riscv))
        return True

    def _read(self, address: int, size: int) -> bytes:
        try:
            return bytes(self.engine.mem_read(address, size))
        except UcError:
            return b""

    def _words(self, address: int, n: int) -> list[int]:
        content = self.engine.mem_read(address, 4 * n)
        return [int.from_bytes(content[4 * i : 4 * i + 4], "little") for i in range(n)]

    def _semihosting(self, operation: int, block: int) -> int:
        """One call of Arm's "Semihosting for AArch32 and AArch64" (2.0), as far as the harness uses it."""
        if operation == 0x01:  # SYS_OPEN
            name, mode, length = self._words(block, 3)
            return self._open(bytes(self.engine.mem_read(name, length)).decode(errors="replace"), mode)
        if operation == 0x02:  # SYS_CLOSE
            return 0
        if operation == 0x04:  # SYS_WRITE0
            while (byte := self.engine.mem_read(block, 1)[0]) != 0:
                self.text.append(byte)
                block += 1
            return 0
        if operation in (0x05, 0x06):  # SYS_WRITE, SYS_READ: give back how many bytes were left
            handle, at, size = self._words(block, 3)
            name, position = self.open[handle - 1]
            if operation == 0x05:
                self.written[name] = self.written.get(name, b"") + bytes(self.engine.mem_read(at, size))
                return 0
            piece = self.files[name][position : position + size]
            self.engine.mem_write(at, piece)
            self.open[handle - 1] = (name, position + len(piece))
            return size - len(piece)
        if operation == 0x20:  # SYS_EXIT_EXTENDED
            code = self._words(block, 2)[1]
            self.exit_code = code - (code >> 31 << 32)
            return 0
        self.fault = Fault("bad instruction", None, None, None, f"semihosting call {operation:#x} is not known here")
        self.engine.emu_stop()
        return -1

    def _open(self, name: str, mode: int) -> int:
        if mode >= 4:
            self.written[name] = b""
        elif name not in self.files:
            return -1
        self.open.append((name, 0))
        return len(self.open)
