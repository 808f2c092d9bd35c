"""`tinyasc simulate --chart`: instructions per operator as horizontal bars; matplotlib is imported to draw them."""

from __future__ import annotations

import io
from pathlib import Path
from typing import TYPE_CHECKING

from tinyasc.errors import InputError
from tinyasc.files import check_writable, write_atomic
from tinyasc_firmware_sim.net import NetReport

if TYPE_CHECKING:
    from matplotlib.figure import Figure

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
    """One bar per operator, the first on top: counted instructions; estimated milliseconds are points on a second axis.

    Whiskers are the band of the estimate.
    """
    from matplotlib.figure import Figure

    processor = report.board.processor
    assert processor is not None
    figure = Figure(figsize=(9, 1.6 + 0.24 * len(report.operators)), layout="constrained")
    axes = figure.subplots()
    rows = range(len(report.operators))
    axes.barh(rows, [op.instructions for op in report.operators], color=COUNTED, height=0.7, zorder=2)
    axes.set_yticks(rows, [f"{op.module} {op.kind}".strip() for op in report.operators], size=7)
    axes.set_ylim(len(report.operators) - 0.5, -0.5)
    axes.set_xlim(left=0)
    axes.set_xlabel("instructions, counted (bars)", color=COUNTED)
    axes.grid(axis="x", color=GRID, linewidth=0.6, zorder=0)
    axes.spines[["right"]].set_visible(False)
    above = axes.twiny()
    times = [1e3 * op.cycles / processor.clock_hz for op in report.operators]
    spread = [report.band * t for t in times]
    above.errorbar(times, list(rows), xerr=spread, fmt="o", color=ESTIMATED, markersize=3, linewidth=1, zorder=3)
    above.set_xlim(left=0)
    above.set_xlabel(f"ms at {processor.clock_hz / 1e6:g} MHz, estimated +-{report.band:.0%} (points)", color=ESTIMATED)
    figure.suptitle(
        f"{title} on {report.board.name}: {report.instructions:,} instructions, "
        f"{1e3 * report.seconds:.3g} ms estimated",
        size=10,
        color=INK,
    )
    return figure
