"""The firmware simulation: boards, compilers and emulators.

from tinyasc_firmware_sim import build, load_board, run
result = run(build([Path("main.c")], load_board("stm32l4r5")))
print(result.output, result.exit_code, result.instructions, result.per_function, result.stack_bytes, result.fault)
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tinyasc_firmware_sim.boards import Board, load_board, shipped_boards
    from tinyasc_firmware_sim.image import Image
    from tinyasc_firmware_sim.results import Fault, RunResult
    from tinyasc_firmware_sim.runs import run
    from tinyasc_firmware_sim.toolchain import BuildError, Sources, TooLargeError, build

__version__ = "0.1.0"

# Loaded when first asked for: boards need no emulator.
_MODULES = {
    "boards": ("Board", "load_board", "shipped_boards"),
    "image": ("Image",),
    "results": ("Fault", "RunResult"),
    "runs": ("run",),
    "toolchain": ("BuildError", "Sources", "TooLargeError", "build"),
}
_MODULE_OF = {name: module for module, names in _MODULES.items() for name in names}

__all__ = [
    "Board",
    "BuildError",
    "Fault",
    "Image",
    "RunResult",
    "Sources",
    "TooLargeError",
    "build",
    "load_board",
    "run",
    "shipped_boards",
]


def __getattr__(name: str) -> Any:
    if name not in _MODULE_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"tinyasc_firmware_sim.{_MODULE_OF[name]}"), name)
