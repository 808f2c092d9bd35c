"""A deployed net on an emulated board: built, run, held against the numpy reference bit for bit, and counted."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from tinyasc_export import reference
from tinyasc_export.c99 import CSource, Step, to_c
from tinyasc_export.errors import InputError, TinyascError
from tinyasc_export.graph import Graph
from tinyasc_export.memory import plan
from tinyasc_firmware_sim.boards import Board
from tinyasc_firmware_sim.cores import core_of
from tinyasc_firmware_sim.cycles import estimate
from tinyasc_firmware_sim.image import Image, Sizes
from tinyasc_firmware_sim.results import RunResult
from tinyasc_firmware_sim.runs import TIMEOUT, run
from tinyasc_firmware_sim.toolchain import RUNTIME, STACK_BYTES, Sources, build

NAME = "net"


class FaultError(TinyascError):
    """The program did not end as it should; `result` holds what is known."""

    def __init__(self, message: str, result: RunResult) -> None:
        super().__init__(message)
        self.result = result


@dataclass(frozen=True)
class Operator:
    """One operator as it ran.

    Args:
        index: in the graph.
        kind: of the operator.
        module: that it came from.
        macs: true ones.
        instructions: executed, counted.
        cycles: estimated.
        equal: whether every byte of its output is the reference's, for every input.
    """

    index: int
    kind: str
    module: str
    macs: int
    instructions: int
    cycles: float
    equal: bool


@dataclass(frozen=True)
class NetReport:
    """A net on one board. Instructions and bytes are counted, cycles and seconds estimated.

    Args:
        board: that it ran on.
        rounding: of the arithmetic.
        compiler: its name and version.
        emulator: its name and version.
        operators: in the order in which they run.
        sizes: bytes of the image.
        stack_bytes: the deepest that the stack went, of all inputs.
        cycles: estimated, of the whole net.
        band: of the estimate, as a fraction.
        basis: of the estimate, in words.
        inputs: how many were run; counts are those of the first.
        unequal: operators whose output differs from the reference's, in order.
        emulation_seconds: that this machine took, all inputs together.
    """

    board: Board
    rounding: str
    compiler: str
    emulator: str
    operators: tuple[Operator, ...]
    sizes: Sizes
    stack_bytes: int
    cycles: float
    band: float
    basis: str
    inputs: int
    unequal: tuple[int, ...]
    emulation_seconds: float

    @property
    def instructions(self) -> int:
        """Of the whole net."""
        return sum(op.instructions for op in self.operators)

    @property
    def macs(self) -> int:
        """Of the whole net."""
        return sum(op.macs for op in self.operators)

    @property
    def seconds(self) -> float:
        """Estimated latency of one inference."""
        assert self.board.processor is not None
        return self.cycles / self.board.processor.clock_hz

    @property
    def ram_bytes(self) -> int:
        """Arena, other variables and the stack as deep as it went."""
        return self.sizes.arena + self.sizes.data + self.sizes.bss + self.stack_bytes

    def to_dict(self) -> dict[str, Any]:
        """Plain values; what is counted and what is estimated lie under different keys."""
        processor = self.board.processor
        assert processor is not None
        return {
            "board": self.board.key,
            "core": self.board.core,
            "rounding": self.rounding,
            "compiler": self.compiler,
            "emulator": self.emulator,
            "inputs": self.inputs,
            "equals_reference": not self.unequal,
            "unequal_operators": list(self.unequal),
            "counted": {
                "instructions": self.instructions,
                "macs": self.macs,
                "code_bytes": self.sizes.code,
                "constant_bytes": self.sizes.constants,
                "flash_bytes": self.sizes.flash,
                "arena_bytes": self.sizes.arena,
                "stack_bytes": self.stack_bytes,
                "ram_bytes": self.ram_bytes,
            },
            "estimated": {
                "cycles": round(self.cycles),
                "seconds": self.seconds,
                "band": self.band,
                "basis": self.basis,
                "clock_hz": processor.clock_hz,
            },
            "operators": [asdict(op) | {"cycles": round(op.cycles)} for op in self.operators],
        }


def default_emulator(board: Board) -> str:
    """Unicorn by name, or qemu for a core that only qemu has."""
    return "unicorn" if core_of(board)[0].unicorn is not None else "qemu"


def build_net(
    graph: Graph,
    board: Board,
    *,
    rounding: str = "tflite",
    compiler: str | None = None,
    emulator: str | None = None,
    stack_bytes: int = STACK_BYTES,
) -> tuple[Image, CSource]:
    """Writes a net as C and builds it for a board.

    Raises:
        InputError: a graph that C cannot hold, or a board, compiler or emulator that is not there.
        TooLargeError: it does not fit the board.
    """
    source = to_c(graph, name=NAME, rounding=rounding)
    with tempfile.TemporaryDirectory(prefix="tinyasc-net-") as name:
        folder = Path(name)
        for file, text in {**source.files, "net_layout.h": _layout_header(graph, source)}.items():
            (folder / file).write_text(text, encoding="utf-8")
        files = [folder / file for file in source.sources] + [RUNTIME / "net.c"]
        image = build(
            Sources(files, [folder]),
            board,
            compiler=compiler,
            emulator=emulator or default_emulator(board),
            stack_bytes=stack_bytes,
        )
    return image, source


def simulate(
    graph: Graph,
    board: Board,
    inputs: Sequence[np.ndarray],
    *,
    rounding: str = "tflite",
    compiler: str | None = None,
    emulator: str | None = None,
    stack_bytes: int = STACK_BYTES,
    timeout: float = TIMEOUT,
) -> NetReport:
    """Runs a net on an emulated board, and holds every operator's output against the numpy reference.

    Args:
        graph: int8 or int16x8, as the C writer takes it.
        board: real sizes, real addresses where unicorn runs it.
        inputs: each of the graph's input, (1, H, W, C), in its integers; at least one.
        rounding: "tflite" or "single".
        compiler: "zig" or "gcc"; by default what is there.
        emulator: "unicorn" or "qemu"; by default unicorn where it has the core.
        stack_bytes: set aside for the stack.
        timeout: in seconds, for each input.

    Raises:
        InputError: no inputs, a graph that C cannot hold, or a board, compiler or emulator that is not there.
        TooLargeError: it does not fit the board.
        FaultError: it did not end as it should.
    """
    if not inputs:
        raise InputError("a simulation needs at least one input")
    image, source = build_net(
        graph, board, rounding=rounding, compiler=compiler, emulator=emulator, stack_bytes=stack_bytes
    )
    results, unequal = [], set()
    for x in inputs:
        result = run(image, files={"input": x.tobytes()}, steps=2 * len(source.steps), timeout=timeout)
        if result.fault is not None or result.exit_code != 0:
            raise FaultError(f"{board.name}: {result.fault or f'exit code {result.exit_code}'}", result)
        unequal |= _unequal(graph, source, x, rounding, result.files)
        results.append(result)
    first = results[0]
    guess = estimate(first)
    # A step begins with each operator and one behind it, for handing its output over.
    counts, cycles = first.per_step[::2], guess.per_step[::2]
    operators = tuple(
        Operator(step.index, step.kind, step.module, step.macs, n, c, step.index not in unequal)
        for step, n, c in zip(source.steps, counts, cycles, strict=True)
    )
    return NetReport(
        board,
        rounding,
        image.compiler,
        first.emulator,
        operators,
        image.sizes,
        max(r.stack_bytes or 0 for r in results),
        sum(cycles),
        guess.band,
        guess.words(),
        len(inputs),
        tuple(sorted(unequal)),
        sum(r.seconds for r in results),
    )


def random_input(graph: Graph, seed: int = 0) -> np.ndarray:
    """Integers over the whole range of the graph's input, (1, H, W, C): features of no sound."""
    t = graph.tensors[graph.input]
    limits = np.iinfo(t.dtype)
    return np.random.default_rng(seed).integers(limits.min, limits.max, t.shape, t.dtype, endpoint=True)


def _unequal(graph: Graph, source: CSource, x: np.ndarray, rounding: str, files: Mapping[str, bytes]) -> set[int]:
    """Operators whose bytes are not the reference's."""
    expected = reference.run_all(graph, x, rounding)
    return {step.index for step in source.steps if files[_file(step)] != expected[step.output].tobytes()}


def _file(step: Step) -> str:
    """The file that an operator's output is handed over in."""
    return f"output{step.index}"


def _layout_header(graph: Graph, source: CSource) -> str:
    x = graph.tensors[graph.input]
    rows = "".join(f'    {{{step.offset}u, {step.nbytes}u, "{_file(step)}"}},\n' for step in source.steps)
    return f"""#include "{NAME}.h"
#define NET_ARENA {NAME}_arena
#define NET_RUN_OPERATOR {NAME}_run_operator
#define NET_OPERATORS {len(source.steps)}
#define NET_INPUT_AT {plan(graph).offsets[x.name]}u
#define NET_INPUT_BYTES {x.nbytes}u
static const struct {{
    uint32_t at, bytes;
    char file[16];
}} sim_outputs[] = {{
{rows}}};
"""
