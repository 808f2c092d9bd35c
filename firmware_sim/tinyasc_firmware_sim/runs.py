"""Runs an image on the emulator that it was linked for."""

from __future__ import annotations

from collections.abc import Mapping

from tinyasc_firmware_sim.image import Image
from tinyasc_firmware_sim.results import RunResult

TIMEOUT = 120.0
LIMIT = 20_000_000_000


def run(
    image: Image,
    *,
    files: Mapping[str, bytes] | None = None,
    steps: int = 0,
    timeout: float = TIMEOUT,
    limit: int = LIMIT,
) -> RunResult:
    """Runs an image from reset to its end, and counts every instruction.

    Args:
        image: of `build`.
        files: that the program may read (`sim_read`), by name.
        steps: how many calls of `sim_step` begin a row of counts of their own.
        timeout: in seconds, after which the run is stopped.
        limit: in halfwords of instructions, after which it is stopped.

    Raises:
        InputError: the emulator is not installed or has no such core.
    """
    # Each emulator's package is loaded only when it is used.
    if image.emulator == "qemu":
        from tinyasc_firmware_sim.qemu import run_qemu as emulate
    else:
        from tinyasc_firmware_sim.emulator import run_unicorn as emulate
    return emulate(image, files=files or {}, steps=steps, timeout=timeout, limit=limit)
