"""The processor cores that images are built and run for: how compilers and emulators name each."""

from __future__ import annotations

from dataclasses import dataclass

from tinyasc_export.errors import InputError
from tinyasc_firmware_sim.boards import Board, Processor

# How zig names the floating-point units of GCC's -mfpu.
_ZIG_FPU = {"fpv4-sp-d16": "vfp4d16sp", "fpv5-sp-d16": "fp_armv8d16sp", "fpv5-d16": "fp_armv8d16"}


@dataclass(frozen=True)
class Machine:
    """An emulated machine of qemu: its options, and where its memories lie.

    They are larger than those of every board that comes along.
    """

    options: tuple[str, ...]
    flash_origin: int
    ram_origin: int


@dataclass(frozen=True)
class Core:
    """One core.

    Args:
        name: as boards write it.
        zig: zig's name of it.
        gcc: its -mcpu or -march.
        unicorn: the constant of unicorn's model; None where unicorn has none.
        machine: the machine of qemu with this core; None where there is none.
        riscv: whether it is a RISC-V.
    """

    name: str
    zig: str
    gcc: str
    unicorn: str | None
    machine: Machine | None
    riscv: bool = False


CORES = {
    core.name: core
    for core in (
        Core("Cortex-M0+", "cortex_m0plus", "-mcpu=cortex-m0plus", "UC_CPU_ARM_CORTEX_M0", None),
        Core(
            "Cortex-M3",
            "cortex_m3",
            "-mcpu=cortex-m3",
            "UC_CPU_ARM_CORTEX_M3",
            Machine(("-M", "mps2-an385"), 0, 0x20000000),
        ),
        Core(
            "Cortex-M4F",
            "cortex_m4",
            "-mcpu=cortex-m4",
            "UC_CPU_ARM_CORTEX_M4",
            Machine(("-M", "mps2-an386"), 0, 0x20000000),
        ),
        Core(
            "Cortex-M7F",
            "cortex_m7",
            "-mcpu=cortex-m7",
            "UC_CPU_ARM_CORTEX_M7",
            Machine(("-M", "mps2-an500"), 0, 0x20000000),
        ),
        # The machine of the Cortex-M33 starts in the secure state, where memories lie 0x10000000 higher.
        Core(
            "Cortex-M33F",
            "cortex_m33",
            "-mcpu=cortex-m33",
            "UC_CPU_ARM_CORTEX_M33",
            Machine(("-M", "mps2-an505"), 0x10000000, 0x38000000),
        ),
        Core(
            "Cortex-M55",
            "cortex_m55+mve_fp",
            "-mcpu=cortex-m55",
            None,
            Machine(("-M", "mps3-an547"), 0, 0x20000000),
        ),
        Core(
            "RV32IMC",
            "generic_rv32+m+c+zicsr",
            "-march=rv32imc",
            "UC_CPU_RISCV32_BASE32",
            Machine(("-M", "virt", "-bios", "none", "-m", "64M"), 0x80000000, 0x82000000),
            riscv=True,
        ),
    )
}


def core_of(board: Board) -> tuple[Core, Processor]:
    """The core of a board and what is known of its processor.

    Raises:
        InputError: nothing here compiles or runs code for it.
    """
    core = CORES.get(board.core)
    if core is None or board.processor is None:
        raise InputError(
            f"board {board.key!r}: no compiler and emulator for its {board.core} come along; "
            f"there are some for {', '.join(CORES)}"
        )
    return core, board.processor


def zig_flags(core: Core, processor: Processor) -> list[str]:
    """What zig's C compiler has to be told for a core."""
    if core.riscv:
        return ["-target", "riscv32-freestanding-none", f"-mcpu={core.zig}", "-mabi=ilp32", "-mcmodel=medany"]
    fpu = f"+{_ZIG_FPU[processor.fpu]}" if processor.fpu != "none" else ""
    dsp = "+dsp" if processor.dsp and core.name == "Cortex-M33F" else ""
    abi = "eabihf" if fpu else "eabi"
    return ["-target", f"thumb-freestanding-{abi}", f"-mcpu={core.zig}{fpu}{dsp}"]


def gcc_flags(core: Core, processor: Processor) -> list[str]:
    """What GCC has to be told for a core."""
    if core.riscv:
        # In this edition of the ISA the base has the CSR instructions of start-up; libgcc is built for that name.
        return [core.gcc, "-misa-spec=2.2", "-mabi=ilp32", "-mcmodel=medany"]
    if processor.fpu == "none":
        return [core.gcc, "-mthumb", "-mfloat-abi=soft"]
    # The Cortex-M55's own units follow from -mcpu.
    fpu = "auto" if core.name == "Cortex-M55" else processor.fpu
    return [core.gcc, "-mthumb", "-mfloat-abi=hard", f"-mfpu={fpu}"]
