"""`tinyasc simulate`: a net in C on an emulated board."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.table import Table

from tinyasc.cli.chart import check_chart, write_chart
from tinyasc.compress.board_path import NO_FRONT_END, Sound, duty, read_sound, real_time, simulate_path
from tinyasc.compress.stored import Stored, open_stored
from tinyasc.errors import InputError, TinyascError
from tinyasc.frontend_device import BOARD_ARITHMETICS
from tinyasc.infer.find import newest_model
from tinyasc_export.rounding import ROUNDINGS
from tinyasc_firmware_sim.boards import Board, load_board, shipped_boards
from tinyasc_firmware_sim.cores import core_of
from tinyasc_firmware_sim.front_end import FrontEndReport
from tinyasc_firmware_sim.net import NetReport
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
    help="Which of a run's graphs [default: the one that the run was made for]; a file says its own.",
)
@click.option(
    "--rounding", type=click.Choice(tuple(ROUNDINGS)), default="tflite", show_default=True, help="Of the arithmetic."
)
@click.option(
    "--front-end",
    type=click.Choice((*BOARD_ARITHMETICS, NO_FRONT_END)),
    help="What makes features of a clip: float32 on the board (device), integers on the board (fixed), or the numpy "
    "front end on this machine (none) [default: device where the core has a floating-point unit, else fixed].",
)
@click.option("--all-windows", is_flag=True, help="Of clips longer than the model's input: all, not the first alone.")
@click.option(
    "--tta",
    "copies",
    metavar="N",
    type=click.IntRange(min=1),
    default=1,
    help="Also say whether answers out of N test-time copies of a clip come in time.",
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
    precision: str | None,
    rounding: str,
    front_end: str | None,
    all_windows: bool,
    copies: int,
    compiler: str | None,
    emulator: str | None,
    stack_bytes: int,
    timeout: float,
    chart: Path | None,
    as_json: bool,
) -> None:
    """Run a compressed model in C on an emulated board, and count every instruction.

    Takes a run folder of `tinyasc compress`, or a .tflite or graph file in one; by default the newest compression of
    ./runs. Front end and net are written as C, built with the board's real memory sizes, fed the clip's samples a piece
    at a time, and features, every operator's output and the scores are held against numpy bit for bit. Instructions
    and bytes are counted, cycles and seconds are estimated. Without a clip the net alone runs, on random features. The
    first window is counted, all are compared. Exits with 1 where a bit differs or a program faults.

    \b
    Examples:
      tinyasc simulate runs/demo-student-128KB-1a2b3c4d clip.wav --board stm32l4r5
      tinyasc simulate runs/demo-student-128KB-1a2b3c4d clip.wav --board rp2040 --tta 4
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
    if front_end in BOARD_ARITHMETICS and not clips:
        raise InputError(f"--front-end {front_end} needs sound: name a clip")
    board = None if board_name == ALL else load_board(board_name)
    if board is not None:
        core_of(board)  # before minutes of reading and compiling
    stored = open_stored(model, precision)
    sound = read_sound(stored, clips, every_window=all_windows)
    click.echo(f"input: {_input(sound, len(clips), front_end)}", err=True)
    options: dict[str, Any] = {
        "front_end": front_end,
        "rounding": rounding,
        "compiler": compiler,
        "emulator": emulator,
        "stack_bytes": -(-stack_bytes // 16) * 16,
        "timeout": timeout,
    }
    failed: list[str] = []
    if board is None:
        reports = [_try(stored, board, sound, options) for board in shipped_boards()]
        if as_json:
            click.echo(json.dumps([_plain(report, stored, copies) for report in reports], allow_nan=False))
        else:
            _print_boards(reports, stored, copies)
        done = [report for report in reports if isinstance(report, NetReport)]
        # What does not fit or is not installed is an answer; a fault or a compiler's refusal is none.
        failed = [r[0].key for r in reports if not isinstance(r, NetReport) and not isinstance(r[1], InputError)]
    else:
        report = simulate_path(stored, board, sound, **options)
        if as_json:
            click.echo(json.dumps(_plain(report, stored, copies), allow_nan=False))
        else:
            _print_report(report, stored, copies)
        if chart is not None:
            write_chart(report, f"{stored.path.name}, {stored.precision}", chart)
            click.echo(f"chart: {chart}", err=True)
        done = [report]
    wrong = [report.board.key for report in done if not report.equal]
    if wrong:
        raise TinyascError(f"bits differ from numpy's on {', '.join(wrong)}")
    if failed:
        raise TinyascError(f"did not run to its end on {', '.join(failed)}, which could carry it")


def _input(sound: Sound, clips: int, front_end: str | None) -> str:
    if not sound.windows:
        return "random features"
    left_out = f"; {sound.left_out} later window(s) left out (--all-windows takes them)" if sound.left_out else ""
    host = f"; {HOST}" if front_end == NO_FRONT_END else ""
    return f"{len(sound.windows)} window(s) of {clips} clip(s){left_out}{host}"


Outcome = NetReport | tuple[Board, TinyascError]


def _try(stored: Stored, board: Board, sound: Sound, options: dict[str, Any]) -> Outcome:
    try:
        return simulate_path(stored, board, sound, **options)
    except TinyascError as error:
        return board, error


def _plain(report: Outcome, stored: Stored, copies: int) -> dict[str, Any]:
    if not isinstance(report, NetReport):
        return {"board": report[0].key, "error": str(report[1])}
    values, share = report.to_dict(), duty(report, stored.clip_seconds)
    values["estimated"] |= {"clip_seconds": stored.clip_seconds, "duty": share, "real_time": real_time(report, share)}
    if copies > 1:
        share = duty(report, stored.clip_seconds, copies)
        values["estimated"]["tta"] = {"copies": copies, "duty": share, "real_time": real_time(report, share)}
    return {"model": str(stored.path), "precision": stored.precision} | values


def _table(title: str, *headings: str, left: int = 1) -> Table:
    table = Table(title=title, title_justify="left")
    for i, heading in enumerate(headings):
        table.add_column(heading, justify="left" if i < left else "right")
    return table


def _print(table: Table) -> None:
    console = Console()
    Console(width=None if console.is_terminal else WIDTH).print(table)


def _print_report(report: NetReport, stored: Stored, copies: int) -> None:
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
    sizes, front_end = report.sizes, report.front_end
    if front_end is not None:
        _print(_front_end_table(report, front_end))
    counted = "front end and net" if front_end else "the net alone"
    state = front_end.state_bytes if front_end else 0
    verdicts = []
    for n in dict.fromkeys((1, copies)):
        share = duty(report, stored.clip_seconds, n)
        each = f"{n} copies per clip" if n > 1 else "one answer per clip"
        verdicts.append((f"duty: {counted}, {each} of {stored.clip_seconds:g} s, estimated {band}", f"{share:.1%}"))
        verdicts.append((f"real time: {counted}, {each}", real_time(report, share)))
    totals = _table("Totals", "count", "value")
    for name, value in (
        (
            "operators' outputs",
            "equal to the numpy reference" if not report.unequal else "DIFFER from the numpy reference",
        ),
        ("instructions of the net, counted", f"{report.instructions:,}"),
        ("instructions per MAC", f"{report.instructions / max(report.macs, 1):.2f}"),
        (f"cycles of the net, estimated {band}", f"{report.cycles:,.0f}"),
        (
            f"latency of the net at {processor.clock_hz / 1e6:g} MHz, estimated {band}",
            f"{report.seconds * 1e3:,.1f} ms",
        ),
        *verdicts,
        ("flash: code", f"{sizes.code:,}"),
        ("flash: weights and tables", f"{sizes.constants + sizes.data:,}"),
        ("flash of the board", f"{report.board.flash_bytes:,}"),
        ("RAM: arena", f"{sizes.arena:,}"),
        *([("RAM: front end and frames", f"{state:,}")] if state else []),
        ("RAM: other variables", f"{sizes.data + sizes.bss - state:,}"),
        ("RAM: stack, the deepest it went", f"{report.stack_bytes:,}"),
        ("RAM of the board in one piece", f"{report.board.block_bytes:,}"),
    ):
        totals.add_row(name, value)
    _print(totals)
    click.echo(f"cycles: {report.basis}")
    click.echo(f"built by {report.compiler}, {report.rounding} rounding; run on {report.emulator}")


def _front_end_table(report: NetReport, front_end: FrontEndReport) -> Table:
    processor = report.board.processor
    assert processor is not None
    band = f"+-{report.band:.0%}"
    milliseconds = front_end.cycles / processor.clock_hz * 1e3
    table = _table(f"Front end on the board, {front_end.arithmetic}", "count", "value")
    for name, value in (
        ("features", f"{'equal to' if front_end.equal else 'DIFFER from'} the numpy specification"),
        ("scores, from samples on", f"{'equal to' if front_end.scores_equal else 'DIFFER from'} numpy's"),
        ("instructions per frame, counted", f"{front_end.instructions / front_end.frames:,.0f}"),
        (f"instructions per window of {front_end.frames} frames, counted", f"{front_end.instructions:,}"),
        ("instructions from frames to the net and from it to scores, counted", f"{front_end.hand_over_instructions:,}"),
        (f"cycles per window, estimated {band}", f"{front_end.cycles:,.0f}"),
        (f"time per window at {processor.clock_hz / 1e6:g} MHz, estimated {band}", f"{milliseconds:,.1f} ms"),
        ("flash: its tables", f"{front_end.table_bytes:,}"),
        ("RAM: its state and the window's frames", f"{front_end.state_bytes:,}"),
    ):
        table.add_row(name, value)
    return table


def _print_boards(reports: list[Outcome], stored: Stored, copies: int) -> None:
    headings = (
        "board",
        "core",
        "bits",
        "front end",
        "flash",
        "RAM",
        "net: instructions",
        "cycles, est.",
        "latency, est.",
    )
    headings += ("duty", "in time") + ((f"duty x {copies}", "in time") if copies > 1 else ())
    table = _table(f"{stored.path.name}, {stored.precision}", *headings, left=4)
    for report in reports:
        if not isinstance(report, NetReport):
            continue
        table.add_row(
            report.board.key,
            report.board.core,
            "equal" if report.equal else "DIFFER",
            report.front_end.arithmetic if report.front_end else "-",
            f"{report.sizes.flash:,}",
            f"{report.ram_bytes:,}",
            f"{report.instructions:,}",
            f"{report.cycles:,.0f} +-{report.band:.0%}",
            f"{report.seconds * 1e3:,.0f} ms",
            *(part for n in dict.fromkeys((1, copies)) for part in _in_time(report, stored, n)),
        )
    _print(table)
    for report in reports:
        if not isinstance(report, NetReport):
            click.echo(f"not {report[0].key}: {report[1]}")


def _in_time(report: NetReport, stored: Stored, copies: int) -> tuple[str, str]:
    share = duty(report, stored.clip_seconds, copies)
    return f"{share:.1%}", real_time(report, share)
