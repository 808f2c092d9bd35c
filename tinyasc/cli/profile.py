"""`tinyasc profile`: what a compressed model costs, operator by operator, and which rules it meets."""

from __future__ import annotations

import json
import math
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.table import Table

from tinyasc.compress.profile import measure_drift, profile
from tinyasc.compress.stored import Stored, open_stored
from tinyasc.errors import InputError
from tinyasc.infer.find import newest_model
from tinyasc.training.recipe_parts import Data
from tinyasc.training.run import Run
from tinyasc_export.drift import Drift

WIDTH = 150


@click.command("profile")
@click.argument("model", metavar="[RUN | FILE]", required=False, type=click.Path(path_type=Path))
@click.option(
    "--precision",
    type=click.Choice(["int8", "int16x8", "fp32"]),
    help="Which of a run's graphs [default: the one that the run was made for]; a file says its own.",
)
@click.option("--drift", "with_drift", is_flag=True, help="SQNR and cosine of every tensor against the float graph.")
@click.option("--data", "data_name", metavar="NAME", help="Data set for --drift [default: the run's].")
@click.option("--root", metavar="DIR", type=click.Path(), help="That data set's folder, or for csv the file.")
@click.option(
    "--clips",
    metavar="N",
    type=click.IntRange(min=1),
    default=32,
    show_default=True,
    help="Validation clips for --drift.",
)
@click.option("--json", "as_json", is_flag=True, help="One JSON object in place of the tables.")
def command(
    model: Path | None,
    precision: str | None,
    with_drift: bool,
    data_name: str | None,
    root: str | None,
    clips: int,
    as_json: bool,
) -> None:
    """Count a compressed model: every operator, totals, memory plan, and the verdict of every competition rule.

    Takes a run folder of `tinyasc compress` or a .tflite file in one; by default the newest compression of ./runs. MACs
    are true convolution and linear MACs. The arena is what kernels need for activations when they follow our plan;
    TensorFlow Lite Micro makes its own, larger one.

    \b
    Example:
      tinyasc profile runs/demo-student-128KB-1a2b3c4d --drift
    """  # noqa: D301 (click reads the backspace)
    if model is None:
        model = newest_model(Path(".")).parent
        click.echo(f"run: {model} (newest compression in ./runs)", err=True)
    stored = open_stored(model, precision)
    result = profile(stored)
    drifts = measure_drift(stored, _data(stored, data_name, root), clips=clips) if with_drift else None
    if as_json:
        if drifts is not None:
            # JSON has no infinity: a tensor without any error, or without any signal, has no ratio.
            rows = map(asdict, drifts)
            result["drift"] = [
                {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in row.items()}
                for row in rows
            ]
        click.echo(json.dumps(result, allow_nan=False))
        return
    _print_operators(result)
    _print_totals(result["totals"])
    _print_rules(result["rules"])
    if drifts is not None:
        _print_drift(drifts)


def _data(stored: Stored, name: str | None, root: str | None) -> Data:
    folder = stored.path if stored.path.is_dir() else stored.path.absolute().parent
    data = Run(folder).load().recipe.data if (folder / "model.json").is_file() else None
    if data is None or (name is not None and name != data.name):
        if name is None:
            raise InputError(f"{stored.path}: its data set is unknown; name it with --data and --root")
        data = Data(name=name)
    return data if root is None else data.model_copy(update={"root": root})


def _print(table: Table) -> None:
    console = Console()
    Console(width=None if console.is_terminal else WIDTH).print(table)


def _table(title: str, *headings: str, left: int = 2) -> Table:
    table = Table(title=title, title_justify="left")
    for i, heading in enumerate(headings):
        table.add_column(heading, justify="left" if i < left else "right")
    return table


def _print_operators(result: dict[str, Any]) -> None:
    title = f"{result['model']}, {result['precision']}"
    table = _table(title, "module", "operator", "output", "MACs", "parameter bytes", "arena live bytes")
    for row in result["operators"]:
        shape = " x ".join(str(n) for n in row["shape"][1:])
        numbers = (f"{row[name]:,}" if row[name] else "-" for name in ("macs", "parameter_bytes", "live_bytes"))
        table.add_row(row["module"], row["kind"], shape, *numbers)
    _print(table)


def _print_totals(totals: dict[str, Any]) -> None:
    table = _table("Totals", "count", "value", left=1)
    file_bytes = totals["file_bytes"]
    for name, value in (
        ("parameters", f"{totals['parameters']:,}"),
        ("parameter bytes, as stored (--budget)", f"{totals['parameter_bytes']:,}"),
        ("parameters x width", f"{totals['parameters_x_width']:,}"),
        ("quantisation metadata, bytes", f"{totals['quantization_bytes']:,}"),
        ("file bytes", "-" if file_bytes is None else f"{file_bytes:,}"),
        (f"MACs per clip of {totals['clip_seconds']:g} s", f"{totals['macs']:,}"),
        ("the same as torchinfo counts them", f"{totals['tool_macs']:,}"),
        ("MACs per second of sound", f"{totals['macs_per_second']:,.0f}"),
        ("planned arena, bytes", f"{totals['arena_bytes']:,}"),
        ("with pools beside their input", f"{totals['arena_pools_apart_bytes']:,}"),
        ("its lower bound, bytes", f"{totals['arena_lower_bound']:,}"),
    ):
        table.add_row(name, value)
    _print(table)


def _print_rules(rules: list[dict[str, Any]]) -> None:
    table = _table("Rules", "rule", "verdict", "memory", "MACs per second", "as torchinfo counts", left=2)
    for row in rules:
        verdict = {True: "met", False: "NOT MET: ", None: "unknown: "}[row["met"]] + "; ".join(row["reasons"])
        unit = row["memory_counts"].replace("_", " ").replace("nonzero", "non-zero")
        limit = "" if row["macs_limit"] is None else f" of {row['macs_limit']:,}"
        macs = f"{row['macs_per_second']:,.0f}{limit}"
        memory, tool = f"{row['memory']:,} of {row['memory_limit']:,} {unit}", f"{row['tool_macs_per_second']:,.0f}"
        table.add_row(row["rule"], verdict, memory, macs, tool)
    _print(table)


def _print_drift(rows: list[Drift]) -> None:
    table = _table("Drift against float32, the worst first", "module", "operator", "tensor", "SQNR dB", "cosine")
    for row in rows:
        table.add_row(row.module, row.kind, row.tensor, f"{row.sqnr_db:.1f}", f"{row.cosine:.4f}")
    _print(table)
