"""The tables in which models, folds and devices stand side by side."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from tinyasc.training.catalogue import Entry

if TYPE_CHECKING:
    from tinyasc.compress.frontier import Point

WIDTH = 170  # where standard output is no terminal


@dataclass(frozen=True)
class Row:
    """One model: costs (None where they do not apply) and scores.

    `quantization_bytes` are the scales and zero points, which no budget counts but the file holds; `interval` is the
    accuracy's, of 95 %.
    """

    name: str
    parameters: int | None
    parameter_bytes: int | None
    quantization_bytes: int
    file_bytes: int | None
    macs: int | None
    accuracy: float
    log_loss: float
    budget: str
    interval: tuple[float, ...] | None = None


def print_table(title: str, rows: list[Row]) -> None:
    """Prints models with costs and scores to standard output."""
    headings = ("model", "parameters", "parameter bytes", "scale bytes", "file bytes", "MMAC/clip", "accuracy")
    table = _table((*headings, "95 % interval", "log loss", "budget"), left=("model", "budget"))
    for row in rows:
        table.add_row(
            row.name,
            _count(row.parameters),
            _count(row.parameter_bytes),
            _count(row.quantization_bytes or None),
            _count(row.file_bytes),
            "-" if row.macs is None else f"{row.macs / 1e6:.2f}",
            _percent(row.accuracy),
            _interval(row.interval),
            f"{row.log_loss:.3f}",
            row.budget,
        )
    _print(title, table)


def print_folds(name: str, scores: dict[str, Any]) -> None:
    """Prints a cross-validation: every fold, all out-of-fold answers, and what seeds change."""
    seeds = len(scores["over_seeds"]["seeds"]) if "over_seeds" in scores else 1
    title = f"{name}: every fold tested by {'a model' if seeds == 1 else f'{seeds} models (seeds)'} that never heard it"
    title += f", mean of {scores['tta']} test-time copies" if scores["tta"] > 1 else ""
    table = _table(("fold", "answers", "accuracy", "95 % interval", "class average", "log loss"), left=("fold",))
    for fold, part in scores["per_fold"].items():
        table.add_row(fold, *_scores(part))
    table.add_section()
    table.add_row("out of fold, all", *_scores(scores))
    _print(title, table)


def print_pooled(rows: Sequence[tuple[str, dict[str, Any]]]) -> None:
    """Prints folds and seeds of one recipe that were scored together."""
    headings = ("models", "seeds", "folds", "answers", "accuracy", "95 % interval", "class average", "log loss")
    title = "Together (± is the standard deviation over seeds)"
    table = _table(headings, left=("models",))
    for name, scores in rows:
        listed = [", ".join(map(str, scores[key])) for key in ("seeds", "folds")]
        table.add_row(name, *listed, *_scores(scores))
    _print(title, table)


def print_devices(rows: Sequence[tuple[str, dict[str, Any]]]) -> None:
    """Prints the accuracy on every device, one column per model."""
    title = "Accuracy by device"
    table = _table(("device", "clips", *(name for name, _ in rows)), left=("device",))
    first = rows[0][1]["per_device"]
    order = {None: 0, True: 1, False: 2}
    marks = {None: "", True: " (seen)", False: " (unseen)"}
    for device in sorted(first, key=lambda name: (order[first[name]["seen"]], name)):
        cells = [scores["per_device"].get(device) for _, scores in rows]
        shown = [_percent(cell["accuracy"]) if cell else "-" for cell in cells]
        table.add_row(device + marks[first[device]["seen"]], f"{first[device]['clips']:.0f}", *shown)
    table.add_section()
    means = {"mean_over_devices": "mean over devices", "seen_devices": "mean, seen", "unseen_devices": "mean, unseen"}
    for key, words in means.items():
        if key in first or any(key in scores for _, scores in rows):
            table.add_row(words, "", *(_percent(s[key]["accuracy"]) if key in s else "-" for _, s in rows))
    _print(title, table)


def print_groups(rows: Sequence[tuple[str, dict[str, Any]]]) -> None:
    """Prints the accuracy on groups of scenes: that of the scenes' sums, and of what was trained on the groups."""
    title = "Accuracy on groups of scenes: by the sum over each group's scenes, and by a head or model for groups"
    table = _table(("model", "groups", "sums", "trained on groups"), left=("model", "groups"))
    for name, scores in rows:
        head = _percent(scores["head"]["accuracy"]) if "head" in scores else "-"
        table.add_row(name, ", ".join(scores["scenes"]), _percent(scores["summed"]["accuracy"]), head)
    _print(title, table)


def print_views(rows: Sequence[tuple[str, dict[str, Any]]]) -> None:
    """Prints clean clips, seen and unseen microphones."""
    views = rows[0][1]
    n = {key: len(views[key]["devices"]) for key in ("seen", "unseen")}
    title = (
        f"Through the microphones of {views['list']}: {n['seen']} of its training list (seen), "
        f"{n['unseen']} of its test list (unseen)"
    )
    headings = ("model", "clips", "accuracy", "95 % interval", "log loss", "worst microphone")
    table = _table(headings, left=("model", "clips", "worst microphone"))
    for name, scores in rows:
        for key in ("clean", "seen", "unseen"):
            _, accuracy, interval, _, loss = _scores(scores[key])
            own = {device: scores["per_device"][device]["accuracy"] for device in scores[key]["devices"]}
            worst = min(own, key=lambda device: own[device])
            shown = "" if key == "clean" else f"{_percent(own[worst])} {worst}"
            table.add_row(name if key == "clean" else "", key, accuracy, interval, loss, shown)
        table.add_section()
    _print(title, table)


def print_comparison(rows: Sequence[dict[str, Any]]) -> None:
    """Prints paired differences with their intervals and p values."""
    first = rows[0]
    unit = "recording places" if first["by"] == "location" else "clips"
    title = (
        f"Against {first['against']}: paired bootstrap on {first['clips']} clips, {unit} drawn {first['draws']} times"
    )
    headings = ("model", "accuracy", "95 % interval", "p", "log loss", "95 % interval", "p")
    table = _table(headings, left=("model",))
    for row in rows:
        cells = []
        for key, scale, digits in (("accuracy", 100, 2), ("log_loss", 1, 3)):
            found = row[key]
            low, high = (f"{scale * found[end]:+.{digits}f}" for end in ("low", "high"))
            unit = " points" if key == "accuracy" else ""
            cells += [f"{scale * found['difference']:+.{digits}f}{unit}", f"{low} to {high}", f"{found['p']:.4f}"]
        table.add_row(row["model"], *cells)
    _print(title, table)


def print_recipes(entries: Sequence[Entry]) -> None:
    """Prints the shipped recipes."""
    table = _table(
        ("recipe", "family", "parameters", "fast", "published"), left=("recipe", "family", "fast", "published")
    )
    table.columns[0].no_wrap = True  # to be copied into a command
    for entry in entries:
        fast = "--fast" if entry.fast else ""
        table.add_row(entry.name, entry.family, _count(entry.parameters), fast, Text(entry.published or "-"))
    title = (
        "Recipes, with parameters for 10 classes; students take their teacher's front end, here 64 mels of one channel"
    )
    _print(title, table)


def print_frontier(points: Sequence[Point]) -> None:
    """Prints the students that were counted; those on the frontier are marked."""
    headings = ("student", "width", "mels", "precision", "parameter bytes", "file bytes", "MMAC/s", "RAM bytes")
    known = any(p.accuracy is not None for p in points)
    table = _table(
        (*headings, *(["accuracy"] if known else []), "limits", "frontier", ""), left=("student", "precision")
    )
    for p in points:
        name = p.family + "".join(f", {key} {value}" for key, value in p.options.items())
        scores = ["-" if p.accuracy is None else _percent(p.accuracy)] if known else []
        table.add_row(
            name,
            f"{p.width:g}",
            str(p.n_mels),
            p.precision,
            _count(p.parameter_bytes),
            _count(p.file_bytes),
            f"{p.macs_per_second / 1e6:.2f}",
            _count(p.ram_bytes),
            *scores,
            "met" if p.met else "broken",
            "*" if p.best else "",
            "chosen" if p.chosen else "",
        )
    more = "accuracy, bytes, MACs and RAM" if known else "more parameters, fewer MACs and less RAM"
    _print(f"Students that were counted; * is on the frontier of {more}", table)


def _scores(scores: dict[str, Any]) -> list[str]:
    """Answers, accuracy, its interval, class average and log loss; mean ± standard deviation where there are seeds."""
    cells = [f"{scores['clips']:.0f}"]
    spread = scores.get("over_seeds", {})
    accuracy, average, loss = (
        (scores[key], spread.get(key, {}).get("standard_deviation"))
        for key in ("accuracy", "class_average_accuracy", "log_loss")
    )
    cells.append(_percent(*accuracy))
    cells.append(_interval((scores.get("intervals") or {}).get("accuracy")))
    cells.append(_percent(*average))
    return [*cells, f"{loss[0]:.3f}" + ("" if loss[1] is None else f" ± {loss[1]:.3f}")]


def _table(headings: Sequence[str], *, left: Sequence[str]) -> Table:
    table = Table()
    for heading in headings:
        table.add_column(heading, justify="left" if heading in left else "right")
    return table


def _print(title: str, table: Table) -> None:
    width = None if Console().is_terminal else WIDTH
    console = Console(width=width)
    # Not as the table's title, which would be folded at the table's width.
    console.print(title, style="italic", highlight=False, markup=False)
    console.print(table)


def _count(value: int | None) -> str:
    return "-" if value is None else f"{value:,}"


def _percent(value: float, deviation: float | None = None) -> str:
    return f"{100 * value:.2f}" + ("" if deviation is None else f" ± {100 * deviation:.2f}") + " %"


def _interval(values: Sequence[float] | None) -> str:
    return "-" if values is None else f"{100 * values[0]:.1f} to {100 * values[1]:.1f}"
