"""The one table in which models stand side by side."""

from __future__ import annotations

from dataclasses import dataclass

from rich.console import Console
from rich.table import Table


@dataclass(frozen=True)
class Row:
    """One model: costs (None where they do not apply) and scores.

    `quantization_bytes` are the scales and zero points, which no budget counts but the file holds.
    """

    name: str
    parameters: int
    parameter_bytes: int
    quantization_bytes: int
    file_bytes: int | None
    macs: int | None
    accuracy: float
    log_loss: float
    budget: str


def print_table(title: str, rows: list[Row]) -> None:
    """Prints the table to standard output, as wide as it has to be where that is no terminal."""
    table = Table(title=title, title_justify="left")
    for heading in (
        "model",
        "parameters",
        "parameter bytes",
        "scale bytes",
        "file bytes",
        "MMAC/clip",
        "accuracy",
        "log loss",
        "budget",
    ):
        table.add_column(heading, justify="left" if heading in ("model", "budget") else "right")
    for row in rows:
        table.add_row(
            row.name,
            f"{row.parameters:,}",
            f"{row.parameter_bytes:,}",
            f"{row.quantization_bytes:,}" if row.quantization_bytes else "-",
            "-" if row.file_bytes is None else f"{row.file_bytes:,}",
            "-" if row.macs is None else f"{row.macs / 1e6:.2f}",
            f"{100 * row.accuracy:.2f} %",
            f"{row.log_loss:.3f}",
            row.budget,
        )
    console = Console()
    Console(width=None if console.is_terminal else 170).print(table)
