import errno
import subprocess
import sys

import click
import pytest
from click.testing import CliRunner

from tinyasc import __version__
from tinyasc.cli import main
from tinyasc.cli.main import COMMANDS, cli
from tinyasc.errors import InputError, TinyascError


@pytest.fixture
def run(monkeypatch):
    """Runs `tinyasc infer` with a body of the test's own."""

    def run(body, args=("infer",)):
        command = click.Command("infer", callback=body)
        monkeypatch.setattr(main.importlib, "import_module", lambda name: type("module", (), {"command": command}))
        result = CliRunner().invoke(cli, list(args))
        print(result.output)
        return result

    return run


def one_error_line(result, code):
    assert result.exit_code == code
    (line,) = result.stderr.splitlines()
    assert line.startswith("error: ")
    return line.removeprefix("error: ")


def raising(error):
    def body():
        raise error

    return body


def test_help_shows_the_three_main_commands_first():
    for args in (["--help"], ["-h"], []):
        result = CliRunner().invoke(cli, args)
        print(result.output)
        assert result.exit_code == 0
        listed = [line.split()[0] for line in result.output.partition("Commands:")[2].splitlines() if line.strip()]
        assert listed == list(COMMANDS) and listed[:3] == ["train", "compress", "infer"]
        assert "\n    tinyasc compress --budget 128KB\n" in result.output


def test_help_imports_no_command():
    code = (
        "import sys\nfrom tinyasc.cli.main import cli\ncli(['--help'], standalone_mode=False)\n"
        "ours = [m for m in sys.modules if m.startswith('tinyasc.cli.') and m != 'tinyasc.cli.main']\n"
        "print([m for m in ('torch', 'numpy', 'click.testing') if m in sys.modules] + ours)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]", done.stdout


def test_version():
    result = CliRunner().invoke(cli, ["--version"])
    assert result.output == f"tinyasc, version {__version__}\n" and result.exit_code == 0


def test_an_unknown_command_is_answered_with_the_nearest():
    assert "'infer'" in one_error_line(CliRunner().invoke(cli, ["infre"]), 2)
    assert "train, compress, infer" in one_error_line(CliRunner().invoke(cli, ["xyz"]), 2)


def test_usage_errors_are_one_line():
    for args in (["--nope"], ["infer"], ["infer", "--nope"], ["infer", "x", "--tta"]):
        line = one_error_line(CliRunner().invoke(cli, args), 2)
        assert "--help` shows the usage" in line, line


@pytest.mark.parametrize(
    ("error", "code", "text"),
    [
        (InputError("clip.wav: bad\n  very bad"), 2, "clip.wav: bad very bad"),
        (TinyascError("ours"), 1, "ours"),
        (KeyboardInterrupt(), 130, "interrupted"),
        (
            OSError(errno.ENOSPC, "No space left on device", "runs/x"),
            1,
            "runs/x: No space left on device; free",
        ),
        (PermissionError(errno.EACCES, "Permission denied", "runs"), 1, "runs: Permission denied"),
        (OSError("odd"), 1, "odd"),
        (click.ClickException("click's own"), 1, "click's own"),
        (ModuleNotFoundError(name="torch.nn"), 1, "`tinyasc infer` needs torch"),
        (ModuleNotFoundError(name="pydantic"), 1, "pip install 'tinyasc[train]'"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, BaseException) else None,
)
def test_errors_are_one_line_with_their_exit_code(run, error, code, text):
    result = run(raising(error))
    # click closes the line in which the terminal echoed ^C
    stderr = result.stderr.lstrip("\n")
    assert result.exit_code == code and stderr.count("\n") == 1
    assert text in stderr and stderr.startswith("error: ")


def test_bugs_keep_their_traceback(run):
    assert isinstance(run(raising(ZeroDivisionError())).exception, ZeroDivisionError)
    assert isinstance(run(raising(ModuleNotFoundError(name="tinyasc.gone"))).exception, ModuleNotFoundError)


def test_a_missing_package_at_import_is_named(monkeypatch):
    def missing(name):
        raise ModuleNotFoundError(name="lightning.pytorch")

    monkeypatch.setattr(main.importlib, "import_module", missing)
    line = one_error_line(CliRunner().invoke(cli, ["train"]), 1)
    assert line.startswith("`tinyasc train` needs lightning") and "tinyasc[train]" in line


def test_what_a_command_returns_is_no_exit_code(run):
    assert run(lambda: 7).exit_code == 0
    assert run(lambda: click.get_current_context().exit(3)).exit_code == 3
