"""Pictures of explanations: the log-mel above, the maps below on the same axes.

matplotlib is imported when a picture is drawn, and drawn on without pyplot: no window, no global state.
"""

from __future__ import annotations

import textwrap
from typing import TYPE_CHECKING, Any

import numpy as np

from tinyasc.evaluate.explain import METHODS, Explanation
from tinyasc.frontend import FrontEnd, band_frequencies, frame_times

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Both perceptually uniform, and unlike enough that nobody takes a map for sound.
SOUND, MAP = "magma", "viridis"
UNITS = {
    "attention": "attention A",
    "amfm": "mean |value|",
    "gates": "mean gate",
    "gradcam": "Grad-CAM",
}
PER_LINE = 5
DECIBELS = 80.0
TICKS_HZ = (20000, 10000, 5000, 2000, 1000, 500, 200, 100, 50)
SMALL, TINY = 8.5, 7.5


def picture(explanation: Explanation, front_end: FrontEnd, *, clip: str, model: str) -> Figure:
    """Draws one explanation.

    One row of maps is broken into lines of at most `PER_LINE`. Maps share one colour scale; with method amfm those of
    a block do, since blocks differ in size of values.

    Args:
        explanation: of one input.
        front_end: of its features.
        clip: its name, for the title.
        model: its name.
    """
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    e = explanation
    lines, columns = _layout(len(e.rows), len(e.columns))
    width = max(6.2, 1.2 + 2.3 * columns)
    height = 1.7 if lines > 1 or columns > 1 else 2.2
    figure = Figure(figsize=(width, 1.2 + height * (1.15 + lines)), layout="constrained")
    # In stereo two cells make a panel, so that two log-mels fill the first line. The last column is for colour bars.
    wide = columns * front_end.sides
    grid = figure.add_gridspec(
        1 + lines,
        wide + 1,
        height_ratios=[1.15] + [1.0] * lines,
        width_ratios=[1.0] * wide + [0.05 * front_end.sides],
    )
    sound = _draw_sound(figure, grid, e, front_end)
    cells = [(row, column) for row in range(len(e.rows)) for column in range(len(e.columns))]
    for i, (row, column) in enumerate(cells):
        first = i % columns * front_end.sides
        place = grid[1 + i // columns, first : first + front_end.sides]
        axes = figure.add_subplot(place, sharex=sound, sharey=sound)
        shared = e.method != "amfm"
        image = _show(axes, e.maps[row, column], e, front_end, MAP, *_range(e.maps if shared else e.maps[row]))
        if row == 0 or shared:
            name, answer = _title(e, row, column)
            axes.set_title(name, size=SMALL, loc="left", weight="bold" if answer else "normal")
        if e.rows[row] and column == 0:
            axes.set_ylabel(e.rows[row], size=SMALL)
        axes.tick_params(labelsize=TINY, length=2.5, labelleft=i % columns == 0, labelbottom=i + columns >= len(cells))
        if i == 0 or (column == 0 and not shared):
            _colour_bar(figure, image, grid[1:, -1] if shared else grid[1 + row, -1], UNITS[e.method])
    sound.xaxis.set_major_locator(MaxNLocator(5))  # which the panels share
    figure.supxlabel("time in s", size=SMALL)
    figure.supylabel("frequency in Hz", size=SMALL)
    words = [
        textwrap.fill(line, int(13 * width)) for line in (f"{clip}: {_answers(e)}", _about(e), f"{_sizes(e)}; {model}")
    ]
    figure.suptitle("\n".join(words), size=SMALL, x=0.01, ha="left", linespacing=1.4)
    return figure


def _layout(rows: int, columns: int) -> tuple[int, int]:
    """Lines of panels and panels in a line; lines of one row are as even as they can be."""
    if rows > 1:
        return rows, columns
    lines = -(-columns // PER_LINE)
    return lines, -(-columns // lines)


def _draw_sound(figure: Figure, grid: Any, e: Explanation, front_end: FrontEnd) -> Axes:
    """The log-mel of every side of the sound in the first line of the grid; returns the first panel."""
    mel = e.mel[: front_end.sides]
    decibels = mel if front_end.log else 10 * np.log10(np.maximum(mel, front_end.amin))
    top = float(decibels.max())
    scale = max(float(np.percentile(decibels, 1)), top - DECIBELS), top
    names = ("log-mel",) if len(mel) == 1 else ("log-mel, left", "log-mel, right")
    half = (grid.ncols - 1) // len(mel)
    panels = [figure.add_subplot(grid[0, i * half : (i + 1) * half]) for i in range(len(mel))]
    for axes, side, name in zip(panels, decibels, names, strict=True):
        image = _show(axes, side, e, front_end, SOUND, scale[0], max(top, scale[0] + 1))
        axes.set_title(name, size=SMALL, loc="left")
        axes.tick_params(labelsize=TINY, length=2.5, labelleft=axes is panels[0])
        if axes is panels[0]:
            _colour_bar(figure, image, grid[0, -1], "dB")
    return panels[0]


def _show(
    axes: Axes, values: np.ndarray, e: Explanation, front_end: FrontEnd, colours: str, low: float, high: float
) -> Any:
    """One map with seconds and Hz on its axes; a row of pixels is a mel band, so that Hz are spaced as mels are."""
    times = e.start + frame_times(front_end)
    half = front_end.hop_length / front_end.sample_rate / 2
    image = axes.imshow(
        values,
        origin="lower",
        aspect="auto",
        interpolation="nearest",
        cmap=colours,
        vmin=low,
        vmax=high,
        extent=(times[0] - half, times[-1] + half, -0.5, len(values) - 0.5),
    )
    places, names = hz_ticks(band_frequencies(front_end))
    axes.set_yticks(places, names)
    return image


def hz_ticks(bands: np.ndarray) -> tuple[list[float], list[str]]:
    """Places among mel bands, and names, of round frequencies within them that do not crowd each other."""
    places: list[float] = []
    names: list[str] = []
    for hz in TICKS_HZ:
        if not bands[0] <= hz <= bands[-1]:
            continue
        place = float(np.interp(hz, bands, np.arange(len(bands))))
        if not places or places[-1] - place >= len(bands) / 7:
            places.append(place)
            names.append(f"{hz // 1000}k" if hz >= 1000 else str(hz))
    return places, names


def _range(maps: np.ndarray) -> tuple[float, float]:
    """The colour scale's ends, never the same."""
    low, high = float(maps.min()), float(maps.max())
    return (low, high) if high > low else (low, low + 1e-3)


def _title(e: Explanation, row: int, column: int) -> tuple[str, bool]:
    """A panel's title, and whether it is of the model's answer."""
    name = e.columns[column]
    if e.method in ("amfm", "gates"):
        return name, False
    share = e.probabilities[row, e.labels.index(name)]
    nothing = ", nowhere above 0" if e.method == "gradcam" and not e.maps[row, column].any() else ""
    return _share(name, share) + nothing, name == e.top(row, 1)[0][0]


def _answers(e: Explanation) -> str:
    if len(e.probabilities) > 1:
        return ", ".join(f"{_share(*e.top(i, 1)[0])} ({row})" for i, row in enumerate(e.rows))
    told = f" ({e.rows[0]})" if e.method != "amfm" and e.rows[0] else ""
    return ", ".join(_share(*best) for best in e.top(0, 3)) + told


def _share(name: str, share: float) -> str:
    return f"{name.replace('_', ' ')} {100 * share:.1f} %"


def _about(e: Explanation) -> str:
    return METHODS[e.method] + (f" at {e.layer}" if e.method == "gradcam" else "")


def _sizes(e: Explanation) -> str:
    sizes = [f"{bands} x {frames}" for bands, frames in dict.fromkeys(map(tuple, e.map_sizes.reshape(-1, 2).tolist()))]
    return f"maps of {', '.join(sizes)} stretched by nearest neighbour"


def _colour_bar(figure: Figure, image: Any, place: Any, label: str) -> None:
    bar = figure.colorbar(image, cax=figure.add_subplot(place))
    bar.set_label(label, size=SMALL)
    bar.formatter.set_powerlimits((-2, 3))  # pyright: ignore[reportAttributeAccessIssue]
    bar.ax.yaxis.offsetText.set_fontsize(TINY)
    bar.ax.tick_params(labelsize=TINY, length=2.5)
