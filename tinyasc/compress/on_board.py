"""The written net on the emulated board of `--latency`: built, held against the reference, its instructions counted."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from tinyasc.compress.limits import Check, Limits
from tinyasc.errors import InputError, TinyascError
from tinyasc_export.graph import Graph
from tinyasc_firmware_sim.boards import Board
from tinyasc_firmware_sim.latency import Latency


@dataclass(frozen=True)
class OnBoard:
    """What came of it.

    Args:
        board: that it was built for.
        latency: with the counted instructions; None where nothing was counted.
        checks: that the board itself makes: an image that does not link is one that is not met.
        about: one clause for the user: what was counted, or why nothing was.
    """

    board: Board
    latency: Latency | None
    checks: tuple[Check, ...]
    about: str

    def report(self) -> dict[str, Any]:
        """For report.json; what is counted and what is estimated lie under different keys."""
        found: dict[str, Any] = {"board": self.board.key, "about": self.about}
        if self.latency is not None:
            found["counted"] = {"instructions": round(self.latency.instructions)}
            found["estimated"] = {
                "cycles": round(self.latency.cycles),
                "seconds": self.latency.seconds,
                "band": self.latency.band,
            }
        return found


def count_on_board(graph: Graph, limits: Limits) -> OnBoard | None:
    """Builds and runs a quantised graph on the board of a limit on latency; None without such a limit.

    Where compiler, emulator or their Python packages are missing, `about` says so.

    Raises:
        TinyascError: the net ran and does not answer as the numpy reference, or ended in a fault.
    """
    board = limits.board
    if board is None:
        return None
    try:
        from tinyasc_firmware_sim.net import random_input, simulate
        from tinyasc_firmware_sim.toolchain import TooLargeError

    except ImportError as error:
        return _uncounted(board, f"{error.name} is not installed: pip install 'tinyasc[firmware]'")
    try:
        ran = simulate(graph, board, [random_input(graph)])
    except TooLargeError as error:
        has = board.flash_bytes if error.memory == "flash" else board.block_bytes
        what = f"bytes of {error.memory} that the image in C takes"
        check = Check("image", what, has, has + error.excess, False, f"board {board.key}")
        return OnBoard(board, None, (check,), f"not counted: {error}")
    except InputError as error:
        return _uncounted(board, str(error))
    if ran.unequal:
        raise TinyascError(
            f"{board.name}: operators {', '.join(map(str, ran.unequal))} of the net in C differ from the numpy "
            "reference; please report this"
        )
    latency = Latency(board, ran.instructions, ran.cycles, ran.band, counted=True)
    return OnBoard(
        board,
        latency,
        (),
        f"{ran.instructions:,} instructions counted on an emulated {board.core} ({ran.emulator}, {ran.compiler}), "
        f"equal to the numpy reference in every operator; {1e3 * latency.seconds:.3g} ms estimated +-{ran.band:.0%}, "
        "front end not included",
    )


def _uncounted(board: Board, why: str) -> OnBoard:
    return OnBoard(board, None, (), f"not counted on an emulated {board.core}, only estimated from its table: {why}")
