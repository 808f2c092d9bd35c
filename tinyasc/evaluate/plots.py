"""Pictures of an evaluation: confusion matrix, reliability diagram, bars per class and per device.

matplotlib is imported when a picture is drawn, and drawn on without pyplot: no window, no global state.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from tinyasc.files import write_atomic

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

INK, GRID, BAR, SEEN, UNSEEN, OTHER = "#222222", "#d9d9d9", "#4c78a8", "#4c78a8", "#e08a3c", "#8a8a8a"


def write_plots(scores: dict[str, Any], folder: Path, *, title: str) -> list[Path]:
    """Draws what `summary.evaluate` found.

    Args:
        scores: its dictionary.
        folder: where the PNG files go.
        title: of the model and the data, above every picture.

    Returns:
        The files: confusion.png, reliability.png, classes.png, and devices.png where there are several devices.
    """
    drawn = {
        "confusion.png": confusion(np.array(scores["confusion_matrix"]), scores["labels"], title),
        "reliability.png": reliability(scores["calibration"], title),
        "classes.png": classes(scores["per_class"], title),
    }
    if len(scores.get("per_device", {})) > 1:
        drawn["devices.png"] = devices(scores["per_device"], title)
    return [write_figure(figure, folder / name) for name, figure in drawn.items()]


def write_views_plot(views: dict[str, Any], folder: Path, *, title: str) -> Path:
    """Draws what `summary.device_views` found as microphones.png."""
    return write_figure(devices(views["per_device"], title), folder / "microphones.png")


def confusion(matrix: np.ndarray, names: Sequence[str], title: str) -> Figure:
    """Counts in cells that are shaded by the share of their row, the right class."""
    k = len(names)
    side = min(3.2 + 0.48 * k, 18)
    figure, axes = _figure(side, side)
    rows = matrix.sum(axis=1, keepdims=True)
    share = matrix / np.maximum(rows, 1)
    axes.imshow(share, cmap="Blues", vmin=0, vmax=1)
    size = 9 if k <= 15 else 6
    for i, j in zip(*np.nonzero(matrix), strict=True) if k <= 30 else ():
        axes.text(
            j, i, f"{matrix[i, j]}", ha="center", va="center", size=size, color="white" if share[i, j] > 0.5 else INK
        )
    size = 9 if k <= 30 else 6
    axes.set_xticks(
        range(k), [_words(name) for name in names], rotation=45, ha="right", rotation_mode="anchor", size=size
    )
    axes.set_yticks(range(k), [_words(name) for name in names], size=size)
    axes.set_xticks(np.arange(k + 1) - 0.5, minor=True)
    axes.set_yticks(np.arange(k + 1) - 0.5, minor=True)
    axes.grid(which="minor", color=GRID, linewidth=0.6)
    axes.tick_params(which="both", length=0)
    axes.set(xlabel="answer", ylabel="right class")
    axes.set_title(f"{title}\nclips per answer, shaded by their share of the right class", size=10, loc="left")
    return figure


def reliability(calibration: dict[str, Any], title: str) -> Figure:
    """Accuracy against confidence, with the number of clips in every bin below."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5.2, 5.6), layout="constrained")
    axes, below = figure.subplots(2, 1, sharex=True, height_ratios=(4, 1))
    bins = [b for b in calibration["bins"] if b["clips"]]
    middles = [(b["lower"] + b["upper"]) / 2 for b in bins]
    width = 0.92 / len(calibration["bins"])
    axes.bar(middles, [b["accuracy"] for b in bins], width, color=BAR, label="accuracy")
    axes.plot(
        [b["confidence"] for b in bins], [b["accuracy"] for b in bins], "o", color=INK, ms=3.5, label="mean confidence"
    )
    axes.plot([0, 1], [0, 1], "--", color=INK, linewidth=1, label="perfect calibration")
    below.bar(middles, [b["clips"] for b in bins], width, color=BAR)
    axes.set(xlim=(0, 1), ylim=(0, 1.02), ylabel="accuracy")
    below.set(xlabel="confidence (probability of the answer)", ylabel="clips")
    axes.legend(loc="upper left", frameon=False, fontsize=9)
    for part in (axes, below):
        _plain(part, "y")
    error = calibration["expected_calibration_error"]
    axes.set_title(
        f"{title}\nexpected calibration error {error:.3f}, {len(calibration['bins'])} bins", size=10, loc="left"
    )
    return figure


def classes(per_class: dict[str, dict[str, Any]], title: str) -> Figure:
    """Accuracy (recall) of every class as a bar, its precision as a mark."""
    names = [name for name, scores in per_class.items() if scores["clips"]]
    figure, axes = _figure(7.2, 1.5 + 0.3 * len(names))
    y = np.arange(len(names))
    values = [100 * per_class[name]["accuracy"] for name in names]
    axes.barh(y, values, 0.66, color=BAR, label="accuracy (recall)")
    marks = [
        (i, 100 * per_class[name]["precision"])
        for i, name in enumerate(names)
        if per_class[name]["precision"] is not None
    ]
    axes.plot([v for _, v in marks], [i for i, _ in marks], "D", color=UNSEEN, ms=5, mec="white", label="precision")
    _bar_labels(axes, y, values)
    axes.set_yticks(y, [f"{_words(name)} ({per_class[name]['clips']})" for name in names], size=9)
    _percent(axes, len(names))
    _legend_above(axes)
    axes.set_title(f"{title}, clips in brackets", size=10, loc="left", pad=24)
    return figure


def devices(per_device: dict[str, dict[str, Any]], title: str) -> Figure:
    """Accuracy of every device, coloured by whether training heard it."""
    order = {None: 0, True: 1, False: 2}
    names = sorted(per_device, key=lambda name: (order[per_device[name]["seen"]], name))
    figure, axes = _figure(7.2, 1.5 + 0.27 * len(names))
    y = np.arange(len(names))
    values = [100 * per_device[name]["accuracy"] for name in names]
    for seen, colour, words in (
        (None, OTHER, "as it is"),
        (True, SEEN, "seen"),
        (False, UNSEEN, "unseen"),
    ):
        own = [i for i, name in enumerate(names) if per_device[name]["seen"] is seen]
        if own:
            mean = "" if len(own) == 1 else f", mean {np.mean([values[i] for i in own]):.1f} %"
            axes.barh(y[own], [values[i] for i in own], 0.66, color=colour, label=words + mean)
    _bar_labels(axes, y, values)
    axes.set_yticks(y, [f"{name} ({per_device[name]['clips']:.0f})" for name in names], size=9)
    _percent(axes, len(names))
    _legend_above(axes)
    axes.set_title(f"{title}, clips in brackets", size=10, loc="left", pad=24)
    return figure


def write_figure(figure: Figure, file: Path, *, dpi: int = 150) -> Path:
    """Writes one picture as PNG; returns its file."""
    picture = io.BytesIO()
    figure.savefig(picture, format="png", dpi=dpi, bbox_inches="tight", facecolor="white")
    write_atomic(file, picture.getvalue())
    return file


def _figure(width: float, height: float) -> tuple[Figure, Axes]:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    return figure, figure.subplots()


def _legend_above(axes: Axes) -> None:
    legend = axes.legend(
        loc="lower left",
        bbox_to_anchor=(0, 1.0),
        ncols=3,
        frameon=False,
        fontsize=8.5,
        borderpad=0.2,
        columnspacing=1.2,
        handlelength=1.2,
    )
    # Else a wide legend takes the axes' room.
    legend.set_in_layout(False)


def _percent(axes: Axes, bars: int) -> None:
    axes.set(xlim=(0, 102), ylim=(-0.6, bars - 0.4), xlabel="percent")
    axes.set_xticks(range(0, 101, 20))
    axes.invert_yaxis()
    _plain(axes, "x")


def _bar_labels(axes: Axes, y: np.ndarray, values: Sequence[float]) -> None:
    for i, value in zip(y, values, strict=True):
        # At the foot of the bar, where no other mark stands.
        inside = value > 9
        axes.text(
            1.2 if inside else value + 1, i, f"{value:.1f}", va="center", size=8, color="white" if inside else INK
        )


def _plain(axes: Axes, grid: Literal["x", "y"]) -> None:
    axes.spines[["top", "right"]].set_visible(False)
    axes.set_axisbelow(True)
    axes.grid(axis=grid, color=GRID, linewidth=0.6)


def _words(name: str) -> str:
    return name.replace("_", " ")
