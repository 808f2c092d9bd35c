"""C compilers for boards: zig's clang from PyPI, or GCC where it is installed."""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path

from tinyasc_export.bounded_call import COMPILER_SECONDS, bounded_call
from tinyasc_export.errors import InputError, TinyascError
from tinyasc_firmware_sim.boards import Board, Processor
from tinyasc_firmware_sim.cores import Core, core_of, gcc_flags, zig_flags
from tinyasc_firmware_sim.image import Image
from tinyasc_firmware_sim.link import Layout, linker_script

RUNTIME = Path(__file__).with_name("runtime")
COMPILERS = ("zig", "gcc")
STACK_BYTES = 4096
# Equal bits on every core need a*b+c to stay two operations.
FLAGS = ("-std=c99", "-ffreestanding", "-ffunction-sections", "-fdata-sections", "-fno-common", "-ffp-contract=off")
_TOO_LARGE = re.compile(r"(?:will not fit in region|region) [`'](\w+)'.*?overflowed by (\d+) bytes", re.S)


class BuildError(TinyascError):
    """The compiler or the linker refused; `log` holds all that it said."""

    def __init__(self, message: str, log: str) -> None:
        super().__init__(message)
        self.log = log


class TooLargeError(InputError):
    """An image that does not fit its board.

    Args:
        memory: "flash" or "RAM".
        excess: bytes that do not fit.
    """

    def __init__(self, board: Board, memory: str, excess: int) -> None:
        has = board.flash_bytes if memory == "flash" else board.block_bytes
        piece = "" if memory == "flash" or has == board.ram_bytes else " in one piece"
        stack = ", less for the stack (--stack)" if memory == "RAM" else ""
        super().__init__(
            f"{board.name}: the image does not fit: {memory} overflows by {excess:,} bytes of the {has:,}{piece} that "
            f"the board has; take a narrower student{stack} or another board (`tinyasc boards`)"
        )
        self.memory, self.excess = memory, excess


@dataclass(frozen=True)
class Sources:
    """What is compiled.

    Args:
        files: C files.
        include: folders of headers.
        defines: macros by name; an empty value defines the bare name.
        optimize: the level.
    """

    files: Sequence[Path]
    include: Sequence[Path] = ()
    defines: Mapping[str, str] = field(default_factory=dict)
    optimize: str = "-O2"


def build(
    sources: Sources | Sequence[Path],
    board: Board,
    *,
    compiler: str | None = None,
    emulator: str = "unicorn",
    stack_bytes: int = STACK_BYTES,
) -> Image:
    """Compiles and links a program with `int main(void)` for a board.

    Args:
        sources: C files, or those with their settings.
        board: its flash and RAM bound the image.
        compiler: "zig" or "gcc"; by default zig where it is installed, else gcc.
        emulator: "unicorn" lays the image out at the board's own addresses, "qemu" at those of its machine.
        stack_bytes: set aside for the stack; a multiple of 16.

    Raises:
        InputError: the board has no such processor here, or no compiler is installed.
        TooLargeError: the image does not fit.
        BuildError: the compiler refused.
        TinyascError: it did not end.
    """
    if not isinstance(sources, Sources):
        sources = Sources(sources)
    core, processor = core_of(board)
    name = compiler or default_compiler(core)
    layout = _layout(board, core, processor, emulator, stack_bytes)
    with tempfile.TemporaryDirectory() as folder:
        elf = Path(folder) / "image.elf"
        script = Path(folder) / "link.ld"
        script.write_text(linker_script(layout), encoding="ascii")
        command = [
            *_compiler(name, core, processor),
            *FLAGS,
            sources.optimize,
            *(f"-D{key}={value}" if value else f"-D{key}" for key, value in sources.defines.items()),
            *(f"-I{folder}" for folder in (RUNTIME, *sources.include)),
            *map(str, sources.files),
            str(RUNTIME / "start.c"),
            *(["-DSIM_GUARD_STACK"] if emulator == "qemu" else []),
            *([str(RUNTIME / "memory.c"), "-lgcc"] if name == "gcc" else []),
            f"-Wl,-T,{script}",
            "-Wl,--gc-sections",
            "-Wl,-e,sim_reset",
            "-o",
            str(elf),
        ]
        code, log = _call(command, f"building the image for {board.name} with {name}")
        if code:
            raise _refused(board, log)
        return Image(elf.read_bytes(), board, core, layout, emulator, compiler_version(name, core))


def default_compiler(core: Core) -> str:
    """Zig where it is installed, else the core's GCC.

    Raises:
        InputError: neither is there.
    """
    for name in COMPILERS:
        if available(name, core):
            return name
    raise InputError(
        f"no C compiler for {core.name}: install one with pip install 'tinyasc[firmware]' (zig), or {gcc_program(core)}"
    )


def available(name: str, core: Core) -> bool:
    """Whether a compiler for a core is installed."""
    return _has_zig() if name == "zig" else shutil.which(gcc_program(core)) is not None


@lru_cache(maxsize=8)
def compiler_version(name: str, core: Core) -> str:
    """A compiler and its version, as "zig 0.17.1" or "arm-none-eabi-gcc 12.2.1"."""
    command = [sys.executable, "-m", "ziglang", "version"] if name == "zig" else [gcc_program(core), "-dumpfullversion"]
    program = name if name == "zig" else gcc_program(core)
    done = bounded_call(command, seconds=COMPILER_SECONDS, what=f"asking {program} for its version")
    return f"{program} {done.stdout.decode(errors='replace').strip()}"


def host_library(source: Path, folder: Path) -> Path:
    """Compiles a C file that includes no header of the C library to a shared library of this machine.

    Raises:
        InputError: no C compiler is installed.
        BuildError: it refused.
        TinyascError: it did not end.
    """
    library = folder / source.with_suffix(".so").name
    host = next((c for c in ("cc", "gcc", "clang") if shutil.which(c)), None)
    if _has_zig():
        command = [sys.executable, "-m", "ziglang", "cc", "-fno-sanitize=undefined"]
    elif host:
        command = [host]
    else:
        raise InputError("no C compiler for this machine: pip install 'tinyasc[firmware]' brings one (zig)")
    command += [
        "-std=c99",
        "-O2",
        "-shared",
        "-nostdlib",
        "-fPIC",
        "-Wl,--allow-shlib-undefined",
        str(source),
        "-o",
        str(library),
    ]
    code, log = _call(command, f"compiling {source.name} for this machine")
    if code:
        raise BuildError(f"{source.name} does not compile: {_first_error(log)}", log)
    return library


def _has_zig() -> bool:
    return importlib.util.find_spec("ziglang") is not None


def gcc_program(core: Core) -> str:
    """The name of the GCC that compiles for a core."""
    return "riscv64-unknown-elf-gcc" if core.riscv else "arm-none-eabi-gcc"


def _compiler(name: str, core: Core, processor: Processor) -> list[str]:
    if name not in COMPILERS:
        raise InputError(f"compiler {name!r} is unknown; choose one of: {', '.join(COMPILERS)}")
    if not available(name, core):
        how = "pip install 'tinyasc[firmware]'" if name == "zig" else f"your system's package of {gcc_program(core)}"
        raise InputError(f"compiler {name!r} for {core.name} is not installed; install it with {how}")
    if name == "zig":
        zig = [sys.executable, "-m", "ziglang", "cc", "-fno-sanitize=undefined", "-fno-unwind-tables"]
        return [*zig, *zig_flags(core, processor)]
    return [gcc_program(core), "-nostartfiles", "-nostdlib", *gcc_flags(core, processor)]


def _layout(board: Board, core: Core, processor: Processor, emulator: str, stack_bytes: int) -> Layout:
    flash, ram = processor.flash_origin, processor.ram_origin
    if emulator == "qemu":
        if core.machine is None:
            raise InputError(f"qemu has no machine with a {core.name}; unicorn runs it")
        flash, ram = core.machine.flash_origin, core.machine.ram_origin
    return Layout(flash, board.flash_bytes, ram, board.block_bytes, stack_bytes)


def _call(command: list[str], what: str) -> tuple[int, str]:
    """A compiler's exit code and what it said."""
    # Its colours would be in the error lines.
    plain = os.environ | {"NO_COLOR": "1", "LC_ALL": "C"}
    done = bounded_call(command, seconds=COMPILER_SECONDS, what=what, env=plain)
    return done.returncode, done.stderr.decode(errors="replace")


def _refused(board: Board, log: str) -> Exception:
    excess: dict[str, int] = {}
    for region, n in _TOO_LARGE.findall(log):
        excess[region] = max(excess.get(region, 0), int(n))
    for region, memory in (("FLASH", "flash"), ("RAM", "RAM")):
        if region in excess:
            return TooLargeError(board, memory, excess[region])
    return BuildError(f"the image for {board.name} does not build: {_first_error(log)}", log)


def _first_error(log: str) -> str:
    lines = log.strip().splitlines() or ["the compiler said nothing"]
    return next((line for line in lines if "error" in line.lower()), lines[-1]).strip()
