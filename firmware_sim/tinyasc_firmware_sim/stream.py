"""The whole path on an emulated board: int16 samples pushed in pieces, front end, net, scores.

The samples are a file of the host, which the program reads through semihosting 256 at a time into a buffer of 512
bytes, as a board's DMA fills one: they take nothing of flash, and of RAM only that buffer.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from tinyasc_export import frontend_device, frontend_fixed, reference
from tinyasc_export.c99 import to_c, with_front_end
from tinyasc_export.errors import InputError
from tinyasc_export.frontend_plan import FrontEndPlan
from tinyasc_export.graph import Graph
from tinyasc_firmware_sim.boards import Board
from tinyasc_firmware_sim.cores import core_of
from tinyasc_firmware_sim.cycles import estimate
from tinyasc_firmware_sim.front_end import FrontEndReport
from tinyasc_firmware_sim.net import NAME, NetReport, build_source, check_end, report_of, unequal_operators
from tinyasc_firmware_sim.runs import TIMEOUT, run
from tinyasc_firmware_sim.toolchain import STACK_BYTES


def default_arithmetic(board: Board) -> str:
    """Of the front end: "device" where the core has a floating-point unit, else "fixed".

    Raises:
        InputError: nothing here runs code for the board.
    """
    _, processor = core_of(board)
    return "fixed" if processor.fpu == "none" else "device"


def simulate_stream(
    graph: Graph,
    plan: FrontEndPlan,
    board: Board,
    windows: Sequence[np.ndarray],
    *,
    arithmetic: str | None = None,
    rounding: str = "tflite",
    compiler: str | None = None,
    emulator: str | None = None,
    stack_bytes: int = STACK_BYTES,
    timeout: float = TIMEOUT,
) -> NetReport:
    """Runs front end and net on an emulated board, and holds features, operators and scores against numpy bit for bit.

    Features are compared with the numpy specification of the front end; every operator with the reference on the
    features that the board computed, so that a fault is found where it lies; scores with specification and reference
    from samples on.

    Args:
        graph: int8 or int16x8, as the C writer takes it.
        plan: of the front end, for the graph's input.
        board: real sizes, real addresses where unicorn runs it.
        windows: (n,) int16 each, at least as long as what the net hears at once; each is heard from silence. What
            follows the first whole window is not read.
        arithmetic: "device" or "fixed"; by default what suits the core.
        rounding: "tflite" or "single", of the net.
        compiler: "zig" or "gcc"; by default what is there.
        emulator: "unicorn" or "qemu"; by default unicorn where it has the core.
        stack_bytes: set aside for the stack.
        timeout: in seconds, for each window.

    Raises:
        InputError: no windows or too short ones, a graph or a front end that C cannot hold, or a board, compiler or
            emulator that is not there.
        TooLargeError: it does not fit the board.
        FaultError: it did not end as it should.
    """
    needed = plan.n_fft + (plan.n_frames - 1) * plan.hop_length
    if not windows or any(w.dtype != np.int16 or w.ndim != 1 or len(w) < needed for w in windows):
        raise InputError(f"a simulation from samples needs windows of at least {needed:,} int16 samples each")
    arithmetic = arithmetic or default_arithmetic(board)
    net = to_c(graph, name=NAME, rounding=rounding)
    source = with_front_end(net, graph, plan, arithmetic=arithmetic)
    # runtime/stream.c takes that file in.
    written = [file for file in source.sources if file != f"{NAME}_stream.c"]
    options: dict[str, Any] = {"compiler": compiler, "emulator": emulator, "stack_bytes": stack_bytes}
    image = build_source(source, graph, board, written, ["stream.c", "stream_main.c"], **options)
    x, n = graph.tensors[graph.input], len(source.steps)
    results, unequal, features_equal, scores_equal = [], set(), True, True
    for samples in windows:
        result = run(image, files={"samples": samples.tobytes()}, steps=2 * n + 3, timeout=timeout)
        check_end(result)
        expected = _features(samples[:needed], plan, arithmetic)
        features_equal &= result.files["features"] == expected.tobytes()
        heard = np.frombuffer(result.files["features"], x.dtype).reshape(x.shape)
        unequal |= unequal_operators(graph, source, heard, rounding, result.files)
        scores = reference.run(graph, expected.reshape(x.shape), rounding)
        scores_equal &= result.files["scores"] == scores.tobytes()
        results.append(result)
    # Steps: the front end, the hand-over, each operator and one behind it, what follows the scores.
    counts, cycles = results[0].per_step, estimate(results[0]).per_step
    front_end = FrontEndReport(
        arithmetic,
        plan.n_frames,
        counts[0],
        cycles[0],
        counts[1] + sum(counts[3:-1:2]),
        cycles[1] + sum(cycles[3:-1:2]),
        source.constant_bytes - net.constant_bytes,
        source.state_bytes,
        features_equal,
        scores_equal,
    )
    return report_of(source, rounding, results, unequal, slice(2, -1, 2), front_end)


def _features(samples: np.ndarray, plan: FrontEndPlan, arithmetic: str) -> np.ndarray:
    """The specification's features, (n_mels, n_frames)."""
    if arithmetic == "device":
        return frontend_device.features(samples, frontend_device.tables(plan))
    return frontend_fixed.features(samples, frontend_fixed.tables(plan))
