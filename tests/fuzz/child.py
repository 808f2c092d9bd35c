"""Runs cases of one kind in this process, each as `tinyasc infer` does, and says what each left behind.

python child.py sound|model|harm FIRST COUNT FOLDER SECONDS MEGABYTES

Standard output has one JSON line per case that breaks a rule, and a last one with counts. The file `case` in FOLDER
holds the number that is being run: where this process dies, it names the culprit.
"""

from __future__ import annotations

import collections
import faulthandler
import json
import os
import resource
import signal
import sys
import tempfile
import traceback
import warnings
from collections.abc import Callable
from pathlib import Path

import click
from click.testing import CliRunner, Result

from tinyasc.cli.main import cli

ADDRESS_SPACE = 8 << 30
Case = Callable[[list[str]], str]


def _hang() -> None:
    while True:
        pass


# What no input does: for the tests of this watch itself.
HARM = (
    lambda: None,
    lambda: os.kill(os.getpid(), signal.SIGSEGV),
    _hang,
    lambda: len(bytearray(b"x") * (200 << 20)),
    lambda: [][1],
    lambda: os.write(2, b"note: native"),
    lambda: click.echo("a line\nand another", err=True) or sys.exit(2),
)


def peak_rss(*, fresh: bool = False) -> int:
    """The most memory held so far, KiB; with `fresh` counted from now on. (getrusage's begins with the parent's.)"""
    if fresh:
        Path("/proc/self/clear_refs").write_text("5")
    (line,) = [line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM")]
    return int(line.split()[1])


def main(what: str, first: int, count: int, folder: Path, seconds: float, megabytes: int) -> None:
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_AS, (ADDRESS_SPACE, ADDRESS_SPACE))
    warnings.simplefilter("always")
    os.chdir(folder)
    made = harm if what == "harm" else damaged(what, folder)
    kept = os.dup(2)
    codes: collections.Counter[str] = collections.Counter()
    for number in range(first, first + count):
        (folder / "case").write_text(str(number))
        how, judged = made(number)
        problems: list[str] = []
        before = peak_rss(fresh=True)
        faulthandler.dump_traceback_later(seconds, exit=True, file=kept)
        with tempfile.TemporaryFile() as native:
            os.dup2(native.fileno(), 2)
            code = judged(problems)
            os.dup2(kept, 2)
            faulthandler.cancel_dump_traceback_later()
            native.seek(0)
            if noise := native.read():
                problems.append(f"native code wrote {noise[:200]!r}")
        grown = (peak_rss() - before) // 1024
        if grown > megabytes:
            problems.append(f"took {grown} MB more")
        codes[f"{how.split()[0]} {code}"] += 1
        for problem in problems:
            print(json.dumps({"case": number, "how": how, "problem": problem}), flush=True)
    print(json.dumps({"done": count, "codes": dict(sorted(codes.items()))}), flush=True)


def harm(number: int) -> tuple[str, Case]:
    """A case of `HARM`."""
    return "harm", lambda problems: judge(CliRunner().invoke(click.Command("harm", callback=HARM[number])), problems)


def damaged(what: str, folder: Path) -> Callable[[int], tuple[str, Case]]:
    """What gives the cases of one kind: how a file was damaged, and what runs it."""
    import soundfile
    from cases import model_case, models, sound_case, tiny

    clip, good = folder / "clip.wav", folder / "good.tflite"
    soundfile.write(clip, tiny.tone("low", 5000), tiny.RATE)
    good.write_bytes(models()["int8.tflite"])
    run(good, clip, [])  # imports and first allocations are no case's

    def made(number: int) -> tuple[str, Case]:
        how, content = (model_case if what == "model" else sound_case)(number)
        victim = folder / f"victim{Path(how.split()[0]).suffix}"
        victim.write_bytes(content)
        pair = (victim, clip) if what == "model" else (good, victim)
        return how, lambda problems: run(*pair, problems)

    return made


def run(model: Path, clip: Path, problems: list[str]) -> str:
    """One call of the command, or of the reader of graph files; returns its exit code."""
    if model.suffix == ".npz":
        return load_npz(model, problems)
    result = CliRunner().invoke(cli, ["infer", "--json", "--model", str(model), str(clip)])
    code = judge(result, problems)
    if code == "0" and not json.loads(result.stdout)["label"]:
        problems.append(f"answered {result.stdout[:200]!r}")
    return code


def judge(result: Result, problems: list[str]) -> str:
    """Notes a traceback, another exit code than 0 and 2, and an error that is not told in one line."""
    error = result.exception
    if error is not None and not isinstance(error, SystemExit):
        problems.append("".join(traceback.format_exception(error))[-1500:])
        return "traceback"
    lines = result.stderr.splitlines()
    told = len(lines) == 1 and lines[0].startswith("error: ") and len(lines[0]) < 1500
    if result.exit_code == 2 and not told:
        problems.append(f"said {result.stderr[:500]!r}")
    elif result.exit_code == 0 and lines:
        problems.append(f"answered and said {result.stderr[:300]!r}")
    elif result.exit_code not in (0, 2):
        problems.append(f"ended with {result.exit_code}: {result.stderr[:300]!r}")
    return str(result.exit_code)


def load_npz(model: Path, problems: list[str]) -> str:
    from tinyasc_export.errors import ModelFileError
    from tinyasc_export.graphfile import load_graph

    try:
        load_graph(model.read_bytes(), str(model))
    except ModelFileError:
        return "2"
    except Exception:
        problems.append(traceback.format_exc()[-1500:])
        return "traceback"
    return "0"


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), Path(sys.argv[4]), float(sys.argv[5]), int(sys.argv[6]))
