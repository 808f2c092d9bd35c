import importlib
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from tinyasc.cli.main import COMMANDS, cli

ROOT = Path(__file__).parents[2]


def paths():
    """Every command and subcommand as the words that are typed."""
    found = []
    for name in COMMANDS:
        command = cli.get_command(click.Context(cli), name)
        found.append((name,))
        if isinstance(command, click.Group):
            found += [(name, sub) for sub in command.commands]
    return found


@pytest.mark.parametrize("path", paths(), ids=" ".join)
def test_every_command_has_help_with_an_example(path):
    result = CliRunner().invoke(cli, [*path, "--help"])
    print(result.output)
    assert result.exit_code == 0
    assert f"Usage: tinyasc {' '.join(path)}" in result.output
    head, mark, examples = result.output.partition("Example")
    assert mark and len(head.split()) > 8
    # Unwrapped: each example is a line of its own.
    assert any(line.strip().startswith(f"tinyasc {' '.join(path)}") for line in examples.splitlines())
    assert CliRunner().invoke(cli, [*path, "-h"]).output == result.output


@pytest.mark.parametrize("path", paths(), ids=" ".join)
def test_every_option_is_explained(path):
    command = cli.get_command(click.Context(cli), path[0])
    for name in path[1:]:
        assert isinstance(command, click.Group)
        command = command.commands[name]
    assert command is not None
    silent = [p.name for p in command.params if isinstance(p, click.Option) and not p.help]
    assert not silent


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_is_where_the_table_says(name):
    module, attribute = COMMANDS[name][0].split(":")
    command = getattr(importlib.import_module(module), attribute)
    assert isinstance(command, click.Command) and command.name == name


def test_every_command_file_is_in_the_table():
    helpers = {"__init__", "main", "table", "candidates", "measuring", "fusing", "narrowing", "planning", "searching"}
    helpers |= {"chart", "data_show", "device_list", "answer_text", "progress", "show_text", "named_model", "options"}
    files = {path.stem for path in (ROOT / "tinyasc/cli").glob("*.py")} - helpers
    assert files == {place.split(":")[0].rsplit(".", 1)[1] for place, _ in COMMANDS.values()}


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_is_in_the_readme(name):
    assert f"tinyasc {name}" in (ROOT / "README.md").read_text(encoding="utf-8")
