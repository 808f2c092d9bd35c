"""`tinyasc listen`: names the scene of a microphone or a pipe, as it goes on. Imports the edge half only."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import json
import os
import signal
import stat
import sys
import threading
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import click

from tinyasc.cli.named_model import named_model
from tinyasc.cli.options import check_exact, model_option
from tinyasc.errors import InputError, TinyascError
from tinyasc.infer.backends.base import ARITHMETICS
from tinyasc.infer.backends.choose import AUTO, BACKENDS
from tinyasc.infer.find import default_model
from tinyasc.infer.listening import UNKNOWN, Answer, Counts, Listener, run
from tinyasc.infer.pcm import FORMATS, MAX_CHANNELS, MAX_RATE, PcmLayout, Read
from tinyasc.infer.quiet import quiet_stderr
from tinyasc.infer.runner import load
from tinyasc.infer.sources import Microphone, PipeSource, load_sounddevice
from tinyasc.printable import printable

STDIN = "-"
# A listener that is behind stays behind, and says so once a minute.
NOTE_SECONDS = 60.0


@click.command("listen")
@click.argument("source", metavar="[-]", required=False)
@model_option
@click.option(
    "--backend",
    type=click.Choice(BACKENDS),
    default=AUTO,
    show_default=True,
    help="As in infer: c compiles a folder of C and runs it.",
)
@click.option(
    "--arithmetic",
    type=click.Choice(ARITHMETICS),
    default=ARITHMETICS[0],
    show_default=True,
    help="What computes features, as in infer.",
)
@click.option(
    "--hop",
    metavar="SECONDS",
    type=click.FloatRange(min=0, min_open=True, max=86400),
    help="From one window to the next [default: 1, or a window where that is shorter].",
)
@click.option(
    "--smooth", metavar="N", type=click.IntRange(1, 10000), default=3, show_default=True, help="Windows to average."
)
@click.option(
    "--threshold",
    metavar="P",
    type=click.FloatRange(0, 1),
    default=0.5,
    show_default=True,
    help="A likeliest scene below this probability is 'unknown'; 0 names one always.",
)
@click.option(
    "--rate",
    metavar="HZ",
    type=click.IntRange(1, MAX_RATE),
    help="Of the PCM, or to record at [default: the model's; a WAV header's].",
)
@click.option(
    "--channels",
    metavar="N",
    type=click.IntRange(1, MAX_CHANNELS),
    help="Of the PCM, interleaved [default: the model's; a WAV header's].",
)
@click.option(
    "--format", "pcm_format", type=click.Choice(list(FORMATS)), help="Of the PCM [default: s16le; a WAV header's]."
)
@click.option(
    "--no-drop",
    is_flag=True,
    help="What writes to the pipe can wait: answer every window, as quickly as it goes. Always so for a file.",
)
@click.option("--device", metavar="NAME", help="Microphone: a number or a part of its name [default: the system's].")
@click.option("--devices", is_flag=True, help="List the sound devices and exit.")
@click.option("--exact", is_flag=True, help="Reference kernels for integer models, 15 times slower, as in infer.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object per window and line.")
def command(
    source: str | None,
    model_path: Path | None,
    backend: str,
    arithmetic: str,
    hop: float | None,
    smooth: int,
    threshold: float,
    rate: int | None,
    channels: int | None,
    pcm_format: str | None,
    no_drop: bool,
    device: str | None,
    devices: bool,
    exact: bool,
    as_json: bool,
) -> None:
    """Name the scene of what is heard, on and on.

    Without an argument from the microphone; with - from standard input, raw PCM or a WAV stream. Prints a line
    when the scene changes, and ends in order, with exit code 0, at the end of the input or on SIGINT or SIGTERM.

    It never falls behind a live source: when answers come too slowly windows are skipped, when even that does not
    help the oldest sound is dropped, and both are counted and said.

    \b
    Examples:
      tinyasc listen
      arecord -q -t raw -f S16_LE -r 32000 -c 1 | tinyasc listen -
      tinyasc listen --backend c --arithmetic device --model firmware/scenes
      ffmpeg -v error -i long.mp3 -f wav - | tinyasc listen - --no-drop --json
    """  # noqa: D301 (click reads the backspace)
    if devices:
        click.echo(str(load_sounddevice().query_devices()))
        return
    _refuse_mixtures(source, channels=channels, format=pcm_format, no_drop=no_drop or None, device=device)
    pipe = _standard_input() if source == STDIN else None
    with stopping() as stop:
        if model_path is None:
            model_path, which = default_model(Path("."))
            click.echo(f"model: {printable(str(model_path))} ({which})", err=True)
        else:
            model_path = named_model(model_path, backend)
        with quiet_stderr():
            model = load(model_path, exact=exact, backend=backend, arithmetic=arithmetic)
        check_exact(exact, model)
        listener = Listener(model, hop_seconds=hop, smooth=smooth, threshold=threshold)
        front_end = model.front_end
        with contextlib.ExitStack() as held:
            if pipe is None:
                heard = microphone = Microphone(rate, front_end.sample_rate, front_end.sides, device)
                held.callback(microphone.close)
                click.echo(f"note: listening to {printable(microphone.name)} at {microphone.rate} Hz", err=True)
            else:
                read, waits = pipe
                default = PcmLayout(front_end.sample_rate, front_end.sides, "s16le")
                given = {"rate": rate, "channels": channels, "format": pcm_format}
                heard = PipeSource(read, default, live=not (no_drop or waits), **given)
            report = (
                JsonReport(heard)
                if as_json
                else TextReport(heard, max(len(printable(label)) for label in (*model.labels, UNKNOWN)))
            )
            report.start(
                model=str(model_path),
                window_seconds=front_end.clip_samples / front_end.sample_rate,
                hop_seconds=listener.hop_seconds,
                smooth=smooth,
                threshold=threshold,
            )
            try:
                run(heard, listener, report, lambda: bool(stop))
            except TinyascError:
                report.end(listener.counts, "failed")
                raise
            report.end(listener.counts, stop[0] if stop else "end of input")
            if not stop and listener.counts.seconds == 0:
                raise InputError("standard input held no sound; check what writes to it")


class Report:
    """What JSON and text have in common: notes on standard error."""

    def __init__(self, source: Microphone | PipeSource) -> None:
        # What a pipe holds is told when its first bytes have come.
        self._pipe = source if isinstance(source, PipeSource) else None
        self._mend = "take a longer --hop"
        if self._pipe is not None:
            self._mend = f"if what writes can wait (a file, ffmpeg) add --no-drop, else {self._mend}"
        self._noted = Counts()
        self._quiet_until = 0.0
        self._silent = False

    def start(self, **settings: Any) -> None:
        """Called once, with what is asked for."""

    def answer(self, answer: Answer, counts: Counts) -> None:
        """Called at every window that is answered."""
        if answer.silent and not self._silent:
            self.note(f"{clock(answer.seconds)}: the sound is all zeros; is the microphone muted?")
        self._silent = answer.silent

    def counted(self, counts: Counts) -> None:
        """Says what was skipped or dropped since the last such note, once a minute at most."""
        if self._pipe is not None and self._pipe.reader is not None:
            kind = "a WAV stream" if self._pipe.reader.wav else "PCM"
            self.note(f"reading {kind} of {self._pipe.reader.layout}")
            self._pipe = None
        if time.monotonic() >= self._quiet_until:
            self._say_lost(counts)

    def end(self, counts: Counts, reason: str) -> None:
        """Called once, at the end."""
        self._say_lost(counts)

    def _say_lost(self, counts: Counts) -> None:
        before, self._noted = self._noted, dataclasses.replace(counts)
        skipped, breaks = counts.skipped - before.skipped, counts.breaks - before.breaks
        wrong, dropped = counts.not_finite - before.not_finite, counts.dropped_seconds - before.dropped_seconds
        if not skipped and not breaks:
            return
        self._quiet_until = time.monotonic() + NOTE_SECONDS
        where = clock(counts.seconds)
        lost = [f"{dropped:.1f} s of sound dropped"] * bool(dropped) + [f"windows skipped: {skipped}"] * bool(skipped)
        said = ", ".join(lost)
        if wrong:
            self.note(f"{where}: {wrong} samples were NaN or infinite; {said}; does --format say what is sent?")
        elif lost:
            self.note(f"{where}: fell behind; {said}; {self._mend}")
        else:
            self.note(f"{where}: the sound device lost some sound")

    def note(self, text: str) -> None:
        """A line on standard error."""
        click.echo(f"note: {printable(text)}", err=True)


class TextReport(Report):
    """For people: a line when the scene changes."""

    def __init__(self, source: Microphone | PipeSource, width: int) -> None:
        super().__init__(source)
        self._width = width

    def answer(self, answer: Answer, counts: Counts) -> None:
        """Where in the recording, what, how surely."""
        super().answer(answer, counts)
        if answer.changed:
            nearest = f"  (nearest: {printable(answer.best)})" if answer.label == UNKNOWN else ""
            share = f"{100 * answer.confidence:5.1f} %"
            click.echo(f"{clock(answer.seconds):>8}  {printable(answer.label):<{self._width}}  {share}{nearest}")

    def end(self, counts: Counts, reason: str) -> None:
        """What was heard, on standard error."""
        super().end(counts, reason)
        click.echo(
            f"heard {clock(counts.seconds)}, {counts.windows} windows; skipped {counts.skipped}, dropped "
            f"{counts.dropped_seconds:.1f} s ({reason})",
            err=True,
        )


class JsonReport(Report):
    """For programs: an object per line, told apart by its `event`."""

    def start(self, **settings: Any) -> None:
        """The settings."""
        _record("start", **settings)

    def answer(self, answer: Answer, counts: Counts) -> None:
        """A window."""
        super().answer(answer, counts)
        _record(
            "window",
            seconds=answer.seconds,
            label=answer.label,
            best=answer.best,
            confidence=answer.confidence,
            changed=answer.changed,
            probabilities=dict(zip(answer.labels, answer.probabilities.tolist(), strict=True)),
            silent=answer.silent,
            milliseconds=round(answer.milliseconds, 3),
            skipped=counts.skipped,
            dropped_seconds=round(counts.dropped_seconds, 3),
        )

    def end(self, counts: Counts, reason: str) -> None:
        """The counts."""
        super().end(counts, reason)
        _record("end", reason=reason, **dataclasses.asdict(counts))


@contextlib.contextmanager
def stopping() -> Iterator[list[str]]:
    """A list that is empty until SIGINT or SIGTERM comes, whose name it then holds; a second one ends the process."""
    stop: list[str] = []
    kept: dict[signal.Signals, Any] = {}

    def note(number: int, frame: Any) -> None:
        del frame
        stop.append(signal.Signals(number).name)
        for each, handler in kept.items():
            signal.signal(each, handler)

    if threading.current_thread() is threading.main_thread():  # signals come to no other
        kept = {number: signal.signal(number, note) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stop
    finally:
        for number, handler in kept.items():
            signal.signal(number, handler)


def clock(seconds: float) -> str:
    """Seconds as h:mm:ss."""
    whole = int(seconds)
    return f"{whole // 3600}:{whole // 60 % 60:02}:{whole % 60:02}"


def _record(event: str, **values: Any) -> None:
    utc = datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    click.echo(json.dumps({"event": event, "utc": utc, **values}))


def _refuse_mixtures(source: str | None, **given: Any) -> None:
    """Refuses a source that is none, and options that would do nothing with this one."""
    if source not in (None, STDIN):
        raise click.UsageError(
            f"{source}: the one source that can be named is - (standard input); for files there is `tinyasc infer`",
            click.get_current_context(),
        )
    idle = ["device"] if source == STDIN else ["channels", "format", "no_drop"]
    for name in idle:
        if given[name] is not None:
            where = "the microphone" if name == "device" else "standard input (tinyasc listen -)"
            raise click.UsageError(f"--{name.replace('_', '-')} is for {where}", click.get_current_context())


def _standard_input() -> tuple[Read, bool]:
    """How to read it, and whether it waits for its reader, as a file does.

    Raises:
        InputError: it is closed, or a terminal.
    """
    if sys.stdin is None:  # the file descriptor was closed when Python began
        raise InputError("standard input is closed; pipe PCM into it")
    stream = sys.stdin.buffer
    if stream.isatty():
        raise InputError("standard input is a terminal; pipe PCM into it, or leave out - for the microphone")
    try:
        number = stream.fileno()
    except OSError:  # no real file: in memory
        return stream.read, True
    # Past Python's buffer, whose lock a thread that waits in it would hold when the process ends.
    return functools.partial(os.read, number), stat.S_ISREG(os.fstat(number).st_mode)
