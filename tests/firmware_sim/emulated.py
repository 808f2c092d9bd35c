"""Programs built once per test run: compiling is most of what these tests take."""

from functools import lru_cache
from pathlib import Path

import pytest

pytest.importorskip("ziglang", reason="zig is not installed: pip install 'tinyasc[firmware]'")
pytest.importorskip("unicorn", reason="unicorn is not installed: pip install 'tinyasc[firmware]'")

from tinyasc_firmware_sim import Sources, build, load_board, net, stream
from tinyasc_firmware_sim.cores import core_of
from tinyasc_firmware_sim.qemu import qemu_installed, qemu_program
from tinyasc_firmware_sim.toolchain import available

PROGRAMS = Path(__file__).parent / "programs"
BOARDS = ("nucleo-l4r5zi", "raspberry-pi-pico")  # Cortex-M4F and M0+: what a plain `make test` builds for
OTHERS = ("nucleo-f207zg", "stm32f746g-disco", "nucleo-h743zi2", "nucleo-u575zi-q", "esp32-c3-devkitm-1", "mps3-an547")


@lru_cache(maxsize=64)
def image(program, board="nucleo-l4r5zi", compiler="zig", emulator="unicorn", stack_bytes=4096, **defines):
    """One of programs/, built for a board."""
    sources = Sources([PROGRAMS / f"{program}.c"], defines=defines)
    return build(sources, load_board(board), compiler=compiler, emulator=emulator, stack_bytes=stack_bytes)


@lru_cache(maxsize=1)
def _builder():
    return net.build_source, {}


def build_once(monkeypatch):
    """From here on a net is compiled once per board and arithmetic: what tests change lies behind that."""
    original, built = _builder()

    def cached(source, graph, board, *args, **options):
        key = (tuple(sorted(source.files.items())), board.key, tuple(sorted(options.items())))
        if key not in built:
            built[key] = original(source, graph, board, *args, **options)
        return built[key]

    for module in (net, stream):
        monkeypatch.setattr(module, "build_source", cached)


def need_qemu(board):
    """Skips, with the reason, where the qemu of a board's core is not installed."""
    core, _ = core_of(load_board(board))
    if not qemu_installed(core):
        pytest.skip(f"{qemu_program(core)} is not installed or has no {core.name}")


def need_gcc(board):
    """Skips, with the reason, where the GCC of a board's core is not installed."""
    core, _ = core_of(load_board(board))
    if not available("gcc", core):
        pytest.skip(f"no GCC for {core.name} is installed")


def u32(value):
    """Four bytes, as a program reads them."""
    return value.to_bytes(4, "little")
