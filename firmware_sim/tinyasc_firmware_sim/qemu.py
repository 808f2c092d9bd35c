"""Runs images on qemu's machines, where it is installed: the only emulator here with a Cortex-M55."""

from __future__ import annotations

import re
import shutil
import subprocess
import tempfile
import time
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path

from tinyasc_export.bounded_call import bounded_call
from tinyasc_export.errors import InputError, TinyascError
from tinyasc_firmware_sim.cores import Core
from tinyasc_firmware_sim.counting import Counter, CounterFile, counter_library
from tinyasc_firmware_sim.image import Image
from tinyasc_firmware_sim.results import HANG, STATUS_FILE, Fault, RunResult, read_status

TEXT = "sim.text"
GRACE = 10.0  # seconds for qemu to end after it was asked to, or to say its version


def qemu_program(core: Core) -> str:
    """The name of the qemu that has a core's machine."""
    return "qemu-system-riscv32" if core.riscv else "qemu-system-arm"


def qemu_installed(core: Core) -> bool:
    """Whether this machine's qemu can run a core."""
    return core.machine is not None and shutil.which(qemu_program(core)) is not None


@lru_cache(maxsize=2)
def qemu_version(program: str) -> str:
    """As "qemu 7.2.22"."""
    done = bounded_call([program, "--version"], seconds=GRACE, what=f"asking {program} for its version")
    found = re.search(r"version (\S+)", done.stdout.decode(errors="replace"))
    return f"qemu {found[1] if found else 'unknown'}"


def run_qemu(image: Image, *, files: Mapping[str, bytes], steps: int, timeout: float, limit: int) -> RunResult:
    """Runs an image from reset to its end; see `run`.

    The files that the program reads and writes lie in a temporary folder, which is qemu's working directory.

    Raises:
        InputError: qemu is not installed, or has no such machine.
        TinyascError: qemu itself failed.
    """
    core = image.core
    if not qemu_installed(core):
        raise InputError(f"{qemu_program(core)} is not installed; install it with your system's packages")
    assert core.machine is not None
    counter = Counter(image, steps, limit)
    with tempfile.TemporaryDirectory(prefix="tinyasc-qemu-") as name:
        folder = Path(name)
        (folder / "image.elf").write_bytes(image.elf)
        for file, content in files.items():
            (folder / file).write_bytes(content)
        shared = CounterFile(counter, folder / "counter.bin")
        given = {path.name for path in folder.iterdir()}
        command = [
            qemu_program(core),
            *core.machine.options,
            *("-display", "none", "-monitor", "none", "-serial", "none", "-no-reboot"),
            *("-chardev", f"file,id=text,path={TEXT}"),
            *("-semihosting-config", "enable=on,target=native,chardev=text"),
            *("-plugin", f"{counter_library('plugin.c')},counter={shared.path}"),
            *("-kernel", "image.elf"),
        ]
        began = time.perf_counter()
        code, said = _call(command, folder, timeout)
        seconds = time.perf_counter() - began
        shared.load()
        written = {path.name: path.read_bytes() for path in sorted(folder.iterdir()) if path.name not in given | {TEXT}}
        status = written.pop(STATUS_FILE, None)
        text = (folder / TEXT).read_bytes() if (folder / TEXT).is_file() else b""
    stack, fault = read_status(image, status)
    if code is None:
        fault = Fault(HANG, None, None, _last(image, counter), f"stopped after {seconds:.1f} s")
    elif status is None:
        if counter.state.halfwords == 0:
            raise TinyascError(f"{qemu_program(core)} failed: {said.strip() or f'exit code {code}'}")
        fault = Fault("lockup", None, None, _last(image, counter), said.strip().splitlines()[0] if said.strip() else "")
    # An exit code passes through the system as eight bits.
    return RunResult(
        image,
        qemu_version(qemu_program(core)),
        text.decode(errors="replace"),
        code if fault is None else None,
        stack,
        fault,
        counter.counts(),
        written,
        seconds,
    )


def _call(command: list[str], folder: Path, timeout: float) -> tuple[int | None, str]:
    """Exit code, None when the time was up, and what qemu said."""
    process = subprocess.Popen(
        command, cwd=folder, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    try:
        said, _ = process.communicate(timeout=timeout)
        return process.returncode, said
    except subprocess.TimeoutExpired:
        process.terminate()
        try:
            said, _ = process.communicate(timeout=GRACE)
        except subprocess.TimeoutExpired:
            process.kill()
            said, _ = process.communicate()
        return None, said
    except BaseException:  # an interrupt that reached this process alone
        process.kill()
        process.wait()
        raise


def _last(image: Image, counter: Counter) -> str | None:
    """The function whose block was begun last."""
    return image.function_at(image.layout.flash_origin + 2 * int(counter.state.end) - 2)
