"""The counter that both emulators share: memory for its rows, and the library that fills it."""

from __future__ import annotations

import atexit
import ctypes
import shutil
import tempfile
from functools import lru_cache
from pathlib import Path

import numpy as np

from tinyasc_firmware_sim.image import Image
from tinyasc_firmware_sim.results import Counts
from tinyasc_firmware_sim.toolchain import RUNTIME, host_library


class CounterState(ctypes.Structure):
    """`Counter` of runtime/counter.h."""

    _fields_ = (
        ("base", ctypes.c_uint64),
        ("slots", ctypes.c_uint64),
        ("edges", ctypes.c_void_p),
        ("jumps", ctypes.c_void_p),
        ("step", ctypes.c_uint64),
        ("rows", ctypes.c_uint64),
        ("row", ctypes.c_uint64),
        ("end", ctypes.c_uint64),
        ("halfwords", ctypes.c_uint64),
        ("limit", ctypes.c_uint64),
        ("outside", ctypes.c_uint64),
        ("stopped", ctypes.c_uint64),
        ("stop", ctypes.c_void_p),
        ("riscv", ctypes.c_uint64),
    )


class Counter:
    """Counts one run of an image.

    Args:
        image: to be run.
        steps: rows behind the first; a row is what runs between two calls of `sim_step`.
        limit: halfwords of instructions after which the run is stopped.
    """

    def __init__(self, image: Image, steps: int, limit: int) -> None:
        slots = image.code_halfwords + 1
        self.edges = np.zeros((steps + 1, slots + 1), np.int64)
        self.jumps = np.zeros_like(self.edges)
        first = image.symbols.get("sim_step")
        self.state = CounterState(
            base=image.layout.flash_origin,
            slots=slots,
            edges=self.edges.ctypes.data,
            jumps=self.jumps.ctypes.data,
            # A program that never calls it is linked without it.
            step=slots if first is None else (first - image.layout.flash_origin) // 2,
            rows=steps + 1,
            limit=limit,
            riscv=image.core.riscv,
        )

    def counts(self) -> Counts:
        """What was counted so far."""
        return Counts(np.cumsum(self.edges, axis=1)[:, :-1], self.jumps)


@lru_cache(maxsize=2)
def counter_library(name: str) -> Path:
    """A C file of runtime/, compiled for this machine once per process."""
    folder = tempfile.mkdtemp(prefix="tinyasc-counter-")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return host_library(RUNTIME / name, Path(folder))


class CounterFile:
    """A counter in a file, for an emulator that is another process.

    Args:
        counter: whose rows and limit it takes.
        path: to be written.
    """

    def __init__(self, counter: Counter, path: Path) -> None:
        self.counter, self.path = counter, path
        first, size = ctypes.sizeof(CounterState), counter.edges.nbytes
        state = CounterState.from_buffer_copy(counter.state)
        state.edges, state.jumps = first, first + size
        path.write_bytes(bytes(state) + bytes(2 * size))

    def load(self) -> None:
        """Takes over into the counter what the file holds."""
        content = self.path.read_bytes()
        first, counter = ctypes.sizeof(CounterState), self.counter
        counter.state = CounterState.from_buffer_copy(content[:first])
        for i, array in enumerate((counter.edges, counter.jumps)):
            array[:] = np.frombuffer(content, np.int64, array.size, first + i * array.nbytes).reshape(array.shape)
