"""The frontier of what was counted: which students trade parameters, MACs and RAM best, as a table and a picture."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tinyasc.compress.limits import WHAT, Limits
from tinyasc.compress.plan import Candidate, Result, Solution
from tinyasc.evaluate.plots import GRID, INK, write_figure
from tinyasc.files import write_atomic

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLOURS = ("#4c78a8", "#e08a3c", "#54a24b", "#b279a2", "#9d755d", "#72b7b2")
MARKERS = ("o", "s", "^", "D", "v", "P")
# Of a picture's axes: attribute of `Point`, words, the divisor of its unit, and the limits that are drawn on it.
_ACROSS = ("parameter_bytes", "bytes of parameters, KB", 1024, ("budget",))
_UP = (
    ("macs_per_second", "MMAC per second of sound", 1e6, ("macs",)),
    ("ram_bytes", "RAM, KB", 1024, ("ram",)),
)


@dataclass(frozen=True)
class Point:
    """One student of a frontier.

    Args:
        family: of models.
        width: of its width option.
        options: the family's other options, where they are not the recipe's.
        n_mels: of its front end.
        precision: of its main file.
        parameter_bytes: at that precision.
        file_bytes: upper estimate.
        macs_per_second: of sound.
        ram_bytes: arena, front end, and what is set aside for the stack.
        accuracy: of a short training on validation clips, between 0 and 1; None where there was none.
        met: holds all limits.
        best: none of the others is at least as good in everything; see `frontier_table`.
        chosen: was taken.
    """

    family: str
    width: float
    options: dict[str, Any]
    n_mels: int
    precision: str
    parameter_bytes: int
    file_bytes: int
    macs_per_second: int
    ram_bytes: int
    accuracy: float | None
    met: bool
    best: bool
    chosen: bool


def frontier_table(solution: Solution, accuracies: Sequence[float | None] | None = None) -> list[Point]:
    """Every student that was counted, by family and size.

    Where accuracies are known, a student is on the frontier when no other is as accurate with no more bytes, MACs and
    RAM. Without them the bytes of parameters, its capacity, stand in for the accuracy.

    Args:
        solution: of the solver.
        accuracies: of a short training, one for each of `solution.tried`.
    """
    scores = accuracies or [None] * len(solution.tried)
    known = any(score is not None for score in scores)
    rated = [_rating(c, score, known) for c, score in zip(solution.tried, scores, strict=True)]
    points = []
    for candidate, score, own in zip(solution.tried, scores, rated, strict=True):
        plan = candidate.plan
        best = own is not None and not any(
            other is not None and other != own and all(o <= x for o, x in zip(other, own, strict=True))
            for other in rated
        )
        chosen = candidate.plan == solution.chosen.plan
        points.append(
            Point(
                plan.family,
                plan.width,
                plan.options,
                plan.n_mels,
                plan.precision,
                plan.parameter_bytes,
                plan.file_bytes,
                plan.macs_per_second,
                plan.ram_bytes,
                score,
                candidate.met,
                best,
                chosen,
            )
        )
    return sorted(points, key=lambda p: (p.family, p.precision, -p.n_mels, -p.parameter_bytes))


def _rating(candidate: Candidate, score: float | None, known: bool) -> tuple[float, ...] | None:
    """Everything that should be small."""
    plan = candidate.plan
    if not known:
        return (-plan.parameter_bytes, plan.macs_per_second, plan.ram_bytes)
    return None if score is None else (-score, plan.parameter_bytes, plan.macs_per_second, plan.ram_bytes)


def write_frontier(points: Sequence[Point], limits: Limits, file: Path, results: Sequence[Result] = ()) -> list[Path]:
    """Writes the picture, and the table beside it as JSON with the same name.

    Args:
        points: of `frontier_table`.
        limits: drawn as lines.
        file: of the picture; it ends in .png.
        results: of a search; the table holds all of its trials.

    Returns:
        Both files.
    """
    table = file.with_suffix(".json")
    lines = [{"name": name, "what": WHAT[name], "limit": number} for name, number in _lines(limits).items()]
    trials = [{**vars(r), "candidate": asdict(r.candidate.plan)} for r in results]
    content = {"limits": lines, "students": [vars(p) for p in points]} | ({"trials": trials} if trials else {})
    write_atomic(table, json.dumps(content, indent=1))
    return [write_figure(draw_frontier(points, limits), file), table]


def draw_frontier(points: Sequence[Point], limits: Limits) -> Figure:
    """MACs and RAM against the bytes of parameters: filled within the limits, hollow beyond, the choice ringed."""
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D

    figure = Figure(figsize=(10.5, 5.0), layout="constrained")
    for axes, up in zip(figure.subplots(1, 2), _UP, strict=True):
        _panel(axes, points, _lines(limits), up)
    families = list(dict.fromkeys(p.family for p in points))
    handles = [
        Line2D([], [], color=COLOURS[i % len(COLOURS)], marker=MARKERS[i % len(MARKERS)], linewidth=1, label=name)
        for i, name in enumerate(families)
    ]
    taken = next((p for p in points if p.chosen), None)
    choice = "" if taken is None else f": {taken.family} {taken.width:g}, {taken.n_mels} mels{_percent(taken)}"
    for words, marker, face, size in (
        ("holds every limit", "o", INK, 6),
        ("breaks one", "o", "white", 6),
        ("chosen" + choice, "*", INK, 13),
    ):
        handles.append(
            Line2D(
                [], [], linestyle="none", color=INK, marker=marker, markerfacecolor=face, markersize=size, label=words
            )
        )
    handles.append(Line2D([], [], color=INK, linestyle="--", linewidth=1, label="limit"))
    figure.legend(handles=handles, loc="outside lower center", ncols=min(len(handles), 6), frameon=False, fontsize=9)
    return figure


def _panel(axes: Axes, points: Sequence[Point], limits: dict[str, int], up: tuple[str, str, float, tuple[str, ...]]):
    key, words, unit, drawn = up
    across, across_words, across_unit, across_drawn = _ACROSS
    families = list(dict.fromkeys(p.family for p in points))
    for i, family in enumerate(families):
        colour, marker = COLOURS[i % len(COLOURS)], MARKERS[i % len(MARKERS)]
        members = [p for p in points if p.family == family]
        # A line joins the widths of one student; other front ends and multipliers are other students.
        for kind in dict.fromkeys((p.n_mels, p.precision, str(p.options)) for p in members):
            line = [p for p in members if (p.n_mels, p.precision, str(p.options)) == kind]
            x, y = [getattr(p, across) / across_unit for p in line], [getattr(p, key) / unit for p in line]
            axes.plot(x, y, color=colour, linewidth=0.9, alpha=0.5, zorder=2)
            for p, px, py in zip(line, x, y, strict=True):
                face = colour if p.met else "white"
                axes.plot(px, py, marker, color=colour, markerfacecolor=face, markersize=6, zorder=3)
                if p.accuracy is not None:
                    score = f"{100 * p.accuracy:.0f} %"
                    axes.annotate(score, (px, py), (5, -9), textcoords="offset points", fontsize=7, color=INK)
                if p.chosen:
                    axes.plot(px, py, "*", color=INK, markersize=15, zorder=4)
    axes.set_xscale("log", base=2)
    axes.set_yscale("log", base=2)
    _draw_limits(axes, limits, across_drawn, across_unit, vertical=True)
    _draw_limits(axes, limits, drawn, unit, vertical=False)
    _plain_numbers(axes)
    axes.set(xlabel=across_words, ylabel=words)


def _draw_limits(axes: Axes, limits: dict[str, int], names: tuple[str, ...], unit: float, *, vertical: bool) -> None:
    for name in names:
        if name not in limits:
            continue
        number = limits[name] / unit
        low, high = axes.get_xlim() if vertical else axes.get_ylim()
        # A limit far off would squeeze the students into a corner; the words under the picture's line still say it.
        if not low / 4 <= number <= high * 4:
            continue
        draw = axes.axvline if vertical else axes.axhline
        draw(number, color=INK, linestyle="--", linewidth=1, zorder=1)
        text = f"{name} {number:.4g} {'M' if 'macs' in name else 'KB'}"
        if vertical:
            axes.annotate(text, (number, 0), (-3, 4), xycoords=("data", "axes fraction"), textcoords="offset points",
                          rotation=90, ha="right", va="bottom", fontsize=8, color=INK)  # fmt: skip
        else:
            axes.annotate(text, (0, number), (4, 3), xycoords=("axes fraction", "data"), textcoords="offset points",
                          fontsize=8, color=INK)  # fmt: skip


def _plain_numbers(axes: Axes) -> None:
    from matplotlib.ticker import FuncFormatter, NullFormatter

    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axis.set_minor_formatter(NullFormatter())
    axes.grid(color=GRID, linewidth=0.6, zorder=0)
    axes.spines[["top", "right"]].set_visible(False)


def _lines(limits: Limits) -> dict[str, int]:
    numbers = {limit.name: limit.number for limit in limits.limits}
    if limits.copies > 1 and "macs" in numbers:
        numbers["macs"] //= limits.copies  # the students' MACs are those of one inference
    if limits.rule is not None and limits.rule.macs_per_second is not None:
        numbers["macs"] = min(limits.rule.macs_per_second, numbers.get("macs", limits.rule.macs_per_second))
    return numbers


def _percent(point: Point) -> str:
    return "" if point.accuracy is None else f", {100 * point.accuracy:.1f} %"
