"""`tinyasc simulate --chart`: instructions of front end and operators as bars; matplotlib is imported to draw them."""

from __future__ import annotations

import io
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from tinyasc.errors import InputError
from tinyasc.files import check_writable, write_atomic
from tinyasc_firmware_sim.net import NetReport

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SMALL = 0.005  # of the net's instructions: as a bar of its own it could not be seen
INK, GRID, COUNTED, ESTIMATED = "#222222", "#d9d9d9", "#4c78a8", "#e08a3c"


def check_chart(file: Path) -> None:
    """Refuses a picture that could not be written at the end.

    Raises:
        InputError: not a .png, a folder that cannot be written to, or matplotlib is not installed.
    """
    if file.suffix.lower() != ".png":
        raise InputError(f"--chart {file}: name a .png file")
    check_writable(file.parent, "--chart")
    try:
        import matplotlib  # noqa: F401
    except ImportError:
        raise InputError("--chart needs matplotlib: pip install matplotlib") from None


def write_chart(report: NetReport, title: str, file: Path) -> Path:
    """Draws a report and writes it as PNG; returns its file."""
    picture = io.BytesIO()
    draw_chart(report, title).savefig(picture, format="png", dpi=150, bbox_inches="tight", facecolor="white")
    write_atomic(file, picture.getvalue())
    return file


def draw_chart(report: NetReport, title: str) -> Figure:
    """Counted instructions as bars, estimated milliseconds as points on a second axis; whiskers are their band.

    The front end is on top where it ran on the board, then the operators in their order; those below `SMALL` of all
    instructions share the last bar.
    """
    from matplotlib.figure import Figure
    from matplotlib.ticker import FuncFormatter

    processor = report.board.processor
    assert processor is not None
    bars = _bars(report)
    figure = Figure(figsize=(9, 1.6 + 0.24 * len(bars)), layout="constrained")
    axes = figure.subplots()
    rows = range(len(bars))
    axes.barh(rows, [bar.instructions for bar in bars], color=COUNTED, height=0.7, zorder=2)
    axes.set_yticks(rows, [bar.name for bar in bars], size=8)
    axes.set_ylim(len(bars) - 0.5, -0.5)
    axes.set_xlim(left=0)
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value / 1e6:g}"))
    axes.set_xlabel("million instructions, counted (bars)", color=COUNTED)
    axes.grid(axis="x", color=GRID, linewidth=0.6, zorder=0)
    axes.spines[["right"]].set_visible(False)
    above = axes.twiny()
    times = [1e3 * bar.cycles / processor.clock_hz for bar in bars]
    spread = [report.band * t for t in times]
    above.errorbar(times, list(rows), xerr=spread, fmt="o", color=ESTIMATED, markersize=3, linewidth=1, zorder=3)
    above.set_xlim(left=0)
    above.set_xlabel(f"ms at {processor.clock_hz / 1e6:g} MHz, estimated +-{report.band:.0%} (points)", color=ESTIMATED)
    heard = "front end and net" if report.front_end else "net"
    figure.suptitle(
        f"{title} on {report.board.name}\n{heard}: {sum(bar.instructions for bar in bars) / 1e6:,.1f} M instructions "
        f"counted, {sum(times):,.0f} ms estimated",
        size=10,
        color=INK,
    )
    return figure


class _Bar(NamedTuple):
    name: str
    instructions: int
    cycles: float


def _bars(report: NetReport) -> list[_Bar]:
    front_end = report.front_end
    heard = [_Bar(f"front end ({front_end.arithmetic})", front_end.instructions, front_end.cycles)] if front_end else []
    small = [op for op in report.operators if op.instructions < SMALL * report.instructions]
    # One small operator alone is clearer by its own name.
    small = small if len(small) > 1 else []
    named = [
        _Bar(f"{op.module} {op.kind}".strip(), op.instructions, op.cycles) for op in report.operators if op not in small
    ]
    rest = [_Bar(f"{len(small)} others", sum(op.instructions for op in small), sum(op.cycles for op in small))]
    return heard + named + (rest if small else [])
