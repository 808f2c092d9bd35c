"""`tinyasc simulate`: a net in C on an emulated board."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click
import numpy as np
from rich.console import Console
from rich.table import Table

from tinyasc.audio import read_audio
from tinyasc.cli.chart import check_chart, write_chart
from tinyasc.compress.stored import Stored, open_stored
from tinyasc.errors import InputError, TinyascError
from tinyasc.frontend import features
from tinyasc.infer.find import newest_model
from tinyasc.infer.runner import windows
from tinyasc_export.drift import quantize_input
from tinyasc_export.rounding import ROUNDINGS
from tinyasc_firmware_sim.boards import Board, load_board, shipped_boards
from tinyasc_firmware_sim.cores import core_of
from tinyasc_firmware_sim.net import NetReport, random_input, simulate
from tinyasc_firmware_sim.toolchain import COMPILERS, STACK_BYTES

WIDTH = 150
ALL = "all"
HOST = "the features were computed on this machine by the numpy front end; the front end is not part of the counts"


@click.command("simulate")
@click.argument("model", metavar="[RUN | FILE]", required=False, type=click.Path(path_type=Path))
@click.argument("clips", metavar="[CLIP]...", nargs=-1, type=click.Path(path_type=Path))
@click.option(
    "--board", "board_name", metavar="NAME", required=True, help="A board or its chip (`tinyasc boards`), or all."
)
@click.option(
    "--precision",
    type=click.Choice(["int8", "int16x8"]),
    default="int8",
    show_default=True,
    help="Which of a run's graphs; a file says its own.",
)
@click.option(
    "--rounding", type=click.Choice(tuple(ROUNDINGS)), default="tflite", show_default=True, help="Of the arithmetic."
)
@click.option("--compiler", type=click.Choice(COMPILERS), help="Default: zig where it is installed, else gcc.")
@click.option(
    "--emulator", type=click.Choice(["unicorn", "qemu"]), help="Default: unicorn, and qemu for cores that only it has."
)
@click.option(
    "--stack",
    "stack_bytes",
    metavar="BYTES",
    type=click.IntRange(256, 1 << 20),
    default=STACK_BYTES,
    show_default=True,
    help="RAM set aside for the stack; what it went to is measured.",
)
@click.option("--timeout", metavar="S", type=click.FloatRange(0.1), default=300.0, show_default=True, help="Per input.")
@click.option(
    "--chart",
    metavar="FILE.png",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Draw instructions and estimated time per operator; of one board.",
)
@click.option("--json", "as_json", is_flag=True, help="One JSON object in place of the tables.")
def command(
    model: Path | None,
    clips: tuple[Path, ...],
    board_name: str,
    precision: str,
    rounding: str,
    compiler: str | None,
    emulator: str | None,
    stack_bytes: int,
    timeout: float,
    chart: Path | None,
    as_json: bool,
) -> None:
    """Run a compressed model in C on an emulated board, and count every instruction.

    Takes a run folder of `tinyasc compress`, or a .tflite or graph file in one; by default the newest compression of
    ./runs. The net is written as C, built with the board's real memory sizes, run, and every operator's output is held
    against the numpy reference bit for bit. Instructions and bytes are counted, cycles and seconds are estimated.
    Without a clip the input is random. The first clip is counted, all are compared. Exits with 1 where a bit differs.

    \b
    Example:
      tinyasc simulate runs/demo-student-128KB-1a2b3c4d clip.wav --board stm32l4r5
      tinyasc simulate --board stm32l4r5 --chart operators.png
      tinyasc simulate --board all
    """  # noqa: D301 (click reads the backspace)
    if chart is not None:
        if board_name == ALL:
            raise InputError("--chart draws one board's operators; name it in place of --board all")
        check_chart(chart)
    if model is None:
        model = newest_model(Path(".")).parent
        click.echo(f"run: {model} (newest compression in ./runs)", err=True)
    board = None if board_name == ALL else load_board(board_name)
    if board is not None:
        core_of(board)  # before minutes of reading and compiling
    stored = open_stored(model, precision)
    inputs = _inputs(stored, clips)
    click.echo(f"input: {f'{len(inputs)} window(s) of {len(clips)} clip(s); {HOST}' if clips else 'random'}", err=True)
    options: dict[str, Any] = {
        "rounding": rounding,
        "compiler": compiler,
        "emulator": emulator,
        "stack_bytes": -(-stack_bytes // 16) * 16,
        "timeout": timeout,
    }
    if board is None:
        reports = [_try(stored, board, inputs, options) for board in shipped_boards()]
        if as_json:
            click.echo(json.dumps([_plain(report, stored) for report in reports], allow_nan=False))
        else:
            _print_boards(reports, stored)
        done = [report for report in reports if isinstance(report, NetReport)]
    else:
        report = simulate(stored.graph, board, inputs, **options)
        if as_json:
            click.echo(json.dumps(_plain(report, stored), allow_nan=False))
        else:
            _print_report(report, stored)
        if chart is not None:
            write_chart(report, f"{stored.path.name}, {stored.precision}", chart)
            click.echo(f"chart: {chart}", err=True)
        done = [report]
    wrong = [report.board.key for report in done if report.unequal]
    if wrong:
        raise TinyascError(f"the outputs differ from the numpy reference on {', '.join(wrong)}")


def _inputs(stored: Stored, clips: tuple[Path, ...]) -> list[np.ndarray]:
    if not clips:
        return [random_input(stored.graph)]
    front_end = stored.front_end
    inputs = []
    for clip in clips:
        samples = read_audio(clip, front_end.sample_rate, stereo=front_end.stereo)
        for part in windows(samples, front_end.clip_samples):
            # The graph has the channels last, the front end first.
            mel = features(part, front_end).transpose(1, 2, 0)[None]
            inputs.append(quantize_input(stored.graph, mel))
    return inputs


Outcome = NetReport | tuple[Board, str]


def _try(stored: Stored, board: Board, inputs: list[np.ndarray], options: dict[str, Any]) -> Outcome:
    try:
        return simulate(stored.graph, board, inputs, **options)
    except (InputError, TinyascError) as error:
        return board, str(error)


def _plain(report: Outcome, stored: Stored) -> dict[str, Any]:
    if not isinstance(report, NetReport):
        return {"board": report[0].key, "error": report[1]}
    duty = report.seconds / stored.clip_seconds
    values = report.to_dict()
    values["estimated"] |= {"clip_seconds": stored.clip_seconds, "duty": duty, "real_time": _verdict(report, duty)}
    return {"model": str(stored.path), "precision": stored.precision} | values


def _verdict(report: NetReport, duty: float) -> str:
    """Whether one inference ends before the next clip has been heard, over the whole band of the estimate."""
    if duty * (1 + report.band) <= 1:
        return "yes"
    return "no" if duty * (1 - report.band) > 1 else "within the band of the estimate"


def _table(title: str, *headings: str, left: int = 1) -> Table:
    table = Table(title=title, title_justify="left")
    for i, heading in enumerate(headings):
        table.add_column(heading, justify="left" if i < left else "right")
    return table


def _print(table: Table) -> None:
    console = Console()
    Console(width=None if console.is_terminal else WIDTH).print(table)


def _print_report(report: NetReport, stored: Stored) -> None:
    band = f"+-{report.band:.0%}"
    headings = ("module", "operator", "MACs", "instructions", "per MAC", f"cycles, est. {band}", "share", "reference")
    table = _table(f"{stored.path.name}, {stored.precision}, on {report.board.name}", *headings, left=2)
    for op in report.operators:
        table.add_row(
            op.module,
            op.kind,
            f"{op.macs:,}" if op.macs else "-",
            f"{op.instructions:,}",
            f"{op.instructions / op.macs:.2f}" if op.macs else "-",
            f"{op.cycles:,.0f}",
            f"{op.cycles / report.cycles:.1%}",
            "equal" if op.equal else "DIFFERS",
        )
    _print(table)
    processor = report.board.processor
    assert processor is not None
    sizes, duty = report.sizes, report.seconds / stored.clip_seconds
    totals = _table("Totals", "count", "value")
    for name, value in (
        ("outputs", "equal to the numpy reference" if not report.unequal else "DIFFER from the numpy reference"),
        ("instructions, counted", f"{report.instructions:,}"),
        ("instructions per MAC", f"{report.instructions / max(report.macs, 1):.2f}"),
        (f"cycles, estimated {band}", f"{report.cycles:,.0f}"),
        (f"latency at {processor.clock_hz / 1e6:g} MHz, estimated {band}", f"{report.seconds * 1e3:,.1f} ms"),
        (f"duty: one inference per clip of {stored.clip_seconds:g} s", f"{duty:.1%}"),
        ("real time, the front end not counted", _verdict(report, duty)),
        ("flash: code", f"{sizes.code:,}"),
        ("flash: weights and tables", f"{sizes.constants + sizes.data:,}"),
        ("flash of the board", f"{report.board.flash_bytes:,}"),
        ("RAM: arena", f"{sizes.arena:,}"),
        ("RAM: other variables", f"{sizes.data + sizes.bss:,}"),
        ("RAM: stack, the deepest it went", f"{report.stack_bytes:,}"),
        ("RAM of the board in one piece", f"{report.board.block_bytes:,}"),
    ):
        totals.add_row(name, value)
    _print(totals)
    click.echo(f"cycles: {report.basis}")
    click.echo(f"built by {report.compiler}, {report.rounding} rounding; run on {report.emulator}")


def _print_boards(reports: list[Outcome], stored: Stored) -> None:
    headings = ("board", "core", "reference", "flash", "RAM", "instructions", "cycles, est.", "latency, est.", "duty")
    table = _table(f"{stored.path.name}, {stored.precision}", *headings, left=3)
    for report in reports:
        if not isinstance(report, NetReport):
            continue
        table.add_row(
            report.board.key,
            report.board.core,
            "DIFFERS" if report.unequal else "equal",
            f"{report.sizes.flash:,}",
            f"{report.ram_bytes:,}",
            f"{report.instructions:,}",
            f"{report.cycles:,.0f} +-{report.band:.0%}",
            f"{report.seconds * 1e3:,.0f} ms",
            f"{report.seconds / stored.clip_seconds:.1%}",
        )
    _print(table)
    for report in reports:
        if not isinstance(report, NetReport):
            click.echo(f"not {report[0].key}: {report[1]}")
