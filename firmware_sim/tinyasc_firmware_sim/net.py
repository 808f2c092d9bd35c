"""A deployed net on an emulated board: built, run, held against the numpy reference bit for bit, and counted."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Mapping, Sequence
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
from tinyasc_firmware_sim.front_end import FrontEndReport
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
        front_end: what ran before the net; None where it was given features.
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
    front_end: FrontEndReport | None = None

    @property
    def equal(self) -> bool:
        """Whether nothing that was compared differs: features, operators, scores."""
        front_end = self.front_end
        return not self.unequal and (front_end is None or (front_end.equal and front_end.scores_equal))

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
        return self._seconds(self.cycles)

    @property
    def path_seconds(self) -> float:
        """Estimated time that all of one window takes: its front end, where there is one, and the net."""
        before = self.front_end.cycles + self.front_end.hand_over_cycles if self.front_end else 0.0
        return self._seconds(before + self.cycles)

    def _seconds(self, cycles: float) -> float:
        assert self.board.processor is not None
        return cycles / self.board.processor.clock_hz

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
            "equals_reference": self.equal,
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
                "path_seconds": self.path_seconds,
                "band": self.band,
                "basis": self.basis,
                "clock_hz": processor.clock_hz,
            },
            "operators": [asdict(op) | {"cycles": round(op.cycles)} for op in self.operators],
            "front_end": None if self.front_end is None else self.front_end.to_dict(),
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
    options: dict[str, Any] = {"compiler": compiler, "emulator": emulator, "stack_bytes": stack_bytes}
    return build_source(source, graph, board, source.sources, ["net.c"], **options), source


def build_source(
    source: CSource,
    graph: Graph,
    board: Board,
    written: Iterable[str],
    runtime: Iterable[str],
    *,
    compiler: str | None,
    emulator: str | None,
    stack_bytes: int,
) -> Image:
    """Builds written C together with a program of the harness, which finds the net by `net_layout.h`.

    Args:
        source: whose files are written; its name is `NAME`.
        graph: that it was written from.
        board: whose sizes bound the image.
        written: names of the source's files that are compiled.
        runtime: names of the files of runtime/ that are compiled beside them.
        compiler: as `build` takes it.
        emulator: "unicorn" or "qemu"; by default unicorn where it has the core.
        stack_bytes: set aside for the stack.
    """
    with tempfile.TemporaryDirectory(prefix="tinyasc-net-") as name:
        folder = Path(name)
        for file, text in {**source.files, "net_layout.h": _layout_header(graph, source)}.items():
            (folder / file).write_text(text, encoding="utf-8")
        return build(
            Sources([*(folder / file for file in written), *(RUNTIME / file for file in runtime)], [folder]),
            board,
            compiler=compiler,
            emulator=emulator or default_emulator(board),
            stack_bytes=stack_bytes,
        )


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
        check_end(result)
        unequal |= unequal_operators(graph, source, x, rounding, result.files)
        results.append(result)
    # A step begins with each operator and one behind it, for handing its output over.
    return report_of(source, rounding, results, unequal, slice(None, None, 2))


def check_end(result: RunResult) -> None:
    """Raises FaultError where a run did not end as it should."""
    if result.fault is not None or result.exit_code != 0:
        why = result.fault or f"exit code {result.exit_code}"
        raise FaultError(f"{result.image.board.name}: {why}", result)


def report_of(
    source: CSource,
    rounding: str,
    results: Sequence[RunResult],
    unequal: set[int],
    where: slice,
    front_end: FrontEndReport | None = None,
) -> NetReport:
    """What the runs of a net say.

    Args:
        source: of the net.
        rounding: of its arithmetic.
        results: at least one; counts are the first one's.
        unequal: operators whose output differs from the reference's in any of them.
        where: the steps of a run that are the operators, in order.
        front_end: what ran before the net.
    """
    first = results[0]
    guess = estimate(first)
    counts, cycles = first.per_step[where], guess.per_step[where]
    operators = tuple(
        Operator(step.index, step.kind, step.module, step.macs, n, c, step.index not in unequal)
        for step, n, c in zip(source.steps, counts, cycles, strict=True)
    )
    return NetReport(
        first.image.board,
        rounding,
        first.image.compiler,
        first.emulator,
        operators,
        first.image.sizes,
        max(r.stack_bytes or 0 for r in results),
        sum(cycles),
        guess.band,
        guess.words(),
        len(results),
        tuple(sorted(unequal)),
        sum(r.seconds for r in results),
        front_end,
    )


def random_input(graph: Graph, seed: int = 0) -> np.ndarray:
    """Integers over the whole range of the graph's input, (1, H, W, C): features of no sound.

    Raises:
        InputError: a graph in floating point.
    """
    t = graph.tensors[graph.input]
    if t.dtype not in ("int8", "int16"):
        raise InputError(f"boards run integer graphs, the model's input is {t.dtype}; take int8 or int16x8")
    limits = np.iinfo(t.dtype)
    return np.random.default_rng(seed).integers(limits.min, limits.max, t.shape, t.dtype, endpoint=True)


def unequal_operators(
    graph: Graph, source: CSource, x: np.ndarray, rounding: str, files: Mapping[str, bytes]
) -> set[int]:
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
