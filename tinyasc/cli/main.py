"""The `tinyasc` command: finds a command, loads its module only then, and turns every error into one line.

Tests call `CliRunner().invoke(cli, [...])`: the error lines and exit codes are those that a user sees.
"""

from __future__ import annotations

import contextlib
import errno
import importlib
import io
import os
import sys
from collections.abc import Sequence
from typing import Any, NoReturn

import click

from tinyasc import __version__
from tinyasc.errors import MissingExtraError, TinyascError
from tinyasc.printable import printable

# name -> (where it lives, its line in `tinyasc --help`). The lines stand here because reading them from the
# commands would import torch. The three main commands come first.
COMMANDS: dict[str, tuple[str, str]] = {
    "train": ("tinyasc.cli.train:command", "Train a model; without arguments on synthetic scenes."),
    "compress": ("tinyasc.cli.compress:command", "Make a trained model fit a budget, and write its files."),
    "infer": ("tinyasc.cli.infer:command", "Name the scene of audio clips."),
    "listen": ("tinyasc.cli.listen:command", "Name the scene of a microphone or a pipe, on and on."),
    "show": ("tinyasc.cli.show:command", "Print what a model file says of itself."),
    "evaluate": ("tinyasc.cli.evaluate:command", "Measure a model on a test set."),
    "explain": ("tinyasc.cli.explain:command", "Draw where in time and frequency a trained model looks."),
    "profile": ("tinyasc.cli.profile:command", "Count a model operator by operator, and hold it against every rule."),
    "export": ("tinyasc.cli.export:command", "Write a model as ONNX, TFLite or C in a precision of your choice."),
    "simulate": ("tinyasc.cli.simulate:command", "Run a model in C on an emulated board, and count instructions."),
    "boards": ("tinyasc.cli.boards:command", "List the boards that a model can be held against."),
    "data": ("tinyasc.cli.data:command", "List, make, check or draw data sets."),
}
OURS = ("tinyasc", "tinyasc_export", "tinyasc_firmware_sim")
# A full disk, a used-up quota, a limit on the size of files.
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
INTERRUPTED = 130  # 128 + SIGINT, as shells have it
# What a group called without a command raises since click 8.2; its message is a page, not a line.
_HELP_INSTEAD: Any = getattr(click.exceptions, "NoArgsIsHelpError", ())


class LazyGroup(click.Group):
    """A group whose commands are imported when they are called, and which says every error in one line."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """The names, in the order of `COMMANDS`."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Imports one command.

        Raises:
            MissingExtraError: its module needs a package that is not installed.
        """
        if cmd_name not in COMMANDS:
            return None
        module, attribute = COMMANDS[cmd_name][0].split(":")
        try:
            return getattr(importlib.import_module(module), attribute)
        except ModuleNotFoundError as error:
            raise _named(error, cmd_name) from None

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Finds the command that the first argument names; answers an unknown one with the nearest name."""
        name = args[0]
        if name not in COMMANDS and not name.startswith("-"):
            from difflib import get_close_matches

            near = get_close_matches(name, COMMANDS, n=1)
            hint = f"the nearest is {near[0]!r}" if near else f"there are {', '.join(COMMANDS)}"
            raise click.UsageError(f"no command {name!r}; {hint}", ctx)
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Writes the list of commands from `COMMANDS`, importing none."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, line) for name, (_, line) in COMMANDS.items()])

    def invoke(self, ctx: click.Context) -> None:
        """Runs the command and drops what it returns.

        Raises:
            MissingExtraError: the command needs a package that is not installed.
        """
        try:
            super().invoke(ctx)
        except ModuleNotFoundError as error:
            raise _named(error, ctx.invoked_subcommand or "") from None

    def main(
        self,
        args: Sequence[str] | None = None,
        prog_name: str | None = None,
        complete_var: str | None = None,
        standalone_mode: bool = True,
        **extra: Any,
    ) -> Any:
        """Runs the command line; in standalone mode exits with 0, 1 (ours), 2 (the user's input) or 130."""
        if not standalone_mode:
            return super().main(args, prog_name, complete_var, standalone_mode=False, **extra)
        if not _streams():
            sys.exit(_say("standard output is closed; send it to a file, a pipe or /dev/null", 1))
        if not (sys.argv[1:] if args is None else args):
            args = ["--help"]
        code = 0
        try:
            # Non-standalone click returns the code of ctx.exit(); `invoke` above returns nothing else.
            code = super().main(args, prog_name or "tinyasc", complete_var, standalone_mode=False, **extra) or 0
        except _HELP_INSTEAD as error:
            error.show()
            code = error.exit_code
        except click.UsageError as error:
            command = error.ctx.command_path if error.ctx else "tinyasc"
            code = _say(f"{error.format_message().rstrip('.')}; `{command} --help` shows the usage", error.exit_code)
        except click.ClickException as error:
            code = _say(error.format_message(), error.exit_code)
        except click.Abort:
            code = _say("interrupted", INTERRUPTED)
        except TinyascError as error:
            code = _say(str(error), error.exit_code)
        except OSError as error:
            code = _say(_system_line(error), 1)
        sys.exit(code)


@click.group("tinyasc", cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="tinyasc")
def cli() -> None:
    """Acoustic scene classifiers that fit a microcontroller.

    \b
    In an empty folder, as they stand:
      tinyasc train
      tinyasc compress --budget 128KB
      tinyasc infer clip.wav
    """  # noqa: D301 (click reads the backspace)


def main() -> NoReturn:
    """The console script."""
    cli()
    raise AssertionError("unreachable")  # click's standalone mode exits


def _named(error: ModuleNotFoundError, command: str) -> Exception:
    """The line that says how to install a missing package; a missing module of ours stays a bug."""
    package = (error.name or "").partition(".")[0]
    return error if package in ("", *OURS) else MissingExtraError(f"tinyasc {command}".strip(), package)


def _say(line: str, code: int) -> int:
    """Writes one error line and hands back the exit code."""
    with contextlib.suppress(BrokenPipeError):
        click.echo("error: " + printable(" ".join(part.strip() for part in line.splitlines())), err=True)
    return code


def _system_line(error: OSError) -> str:
    """A system error as what, where and, for a full disk, how to mend it."""
    what = error.strerror or str(error) or type(error).__name__
    where = f"{error.filename}: " if error.filename else ""
    mend = "; free some space and run the same command again" if error.errno in FULL else ""
    return f"{where}{what}{mend}"


def _streams() -> bool:
    """Makes the standard streams fit to be written to; returns whether standard output can be.

    Names that the terminal's encoding lacks are printed escaped, in place of a crash. A closed standard error becomes
    the null device, so that no file that is opened later takes its number.
    """
    if sys.stderr is None:
        sys.stderr = open(os.devnull, "w")  # noqa: SIM115 (for as long as the process lives)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    return sys.stdout is not None


if __name__ == "__main__":
    main()
