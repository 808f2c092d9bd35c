"""The how-to pages run as they stand: their Python in order in one namespace, their commands, their output."""

from __future__ import annotations

import contextlib
import copy
import io
import json
import re
import shlex
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import numpy as np
import pytest
from click.testing import CliRunner

HOW_TO = Path(__file__).parents[2] / "docs/how-to"
OWN_NETWORK, READ_A_GRAPH, RUN_A_MODEL = "your-own-network.md", "read-a-graph.md", "run-a-model.md"
SIMULATE = "simulate.md"
COMMANDS_ALONE = (
    "data.md",
    "explain.md",
    "hold-a-budget.md",
    "listen.md",
    "name-clips.md",
    "read-a-report.md",
    SIMULATE,
    "train-on-many-machines.md",
)
RECIPES_ALONE = "training-recipes.md"  # read by tests/training/test_recipe.py
FENCE = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
# Probabilities and their bars depend on the machine a little, as training does.
PROBABILITY = re.compile(r"\s+\d+\.\d %.*")


@dataclass(frozen=True)
class Shown:
    """A block of a page: its language, its text, its first line's number."""

    language: str
    text: str
    line: int


def blocks(page: Path) -> list[Shown]:
    text = page.read_text(encoding="utf-8")
    return [Shown(m[1], m[2], text[: m.start()].count("\n") + 2) for m in FENCE.finditer(text)]


def run_page(page: Path) -> dict[str, Any]:
    """Runs a page in the current folder; returns its namespace."""
    from tinyasc.cli.main import cli

    namespace: dict[str, Any] = {"__name__": "how_to"}
    printed, at = "", 0
    for block in blocks(page):
        where = f"{page.name}, line {block.line}"
        if block.language == "text":
            assert printed == block.text, f"{where}: the code above prints otherwise"
            printed = ""
        elif block.language == "python":
            assert not printed, f"{page.name}, line {at}: prints what the page does not show:\n{printed}"
            out = io.StringIO()
            # Newlines in front, so that a traceback names the page's own line.
            code = compile("\n" * (block.line - 1) + block.text, str(page), "exec")
            with contextlib.redirect_stdout(out):
                exec(code, namespace)
            printed, at = out.getvalue(), block.line
        elif block.language == "console":
            command, _, shown = block.text.partition("\n")
            dollar, name, *words = shlex.split(command)
            assert (dollar, name) == ("$", "tinyasc"), f"{where}: not a tinyasc command"
            result = CliRunner().invoke(cli, words, catch_exceptions=False)
            assert result.exit_code == 0, f"{where}: {result.output}"
            if shown:
                assert PROBABILITY.sub("", result.stdout) == PROBABILITY.sub("", shown), where
        else:
            raise AssertionError(f"{where}: a block of language {block.language!r} is not run by this test")
    assert not printed, f"{page.name}, line {at}: prints what the page does not show:\n{printed}"
    return namespace


@pytest.fixture(scope="module")
def own_network(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], Path]:
    folder = tmp_path_factory.mktemp("own-network")
    with contextlib.chdir(folder):
        return run_page(HOW_TO / OWN_NETWORK), folder


def test_every_page_is_run():
    run = {OWN_NETWORK, READ_A_GRAPH, RUN_A_MODEL}
    assert {page.name for page in HOW_TO.glob("*.md")} == {*run, *COMMANDS_ALONE, RECIPES_ALONE}


@pytest.mark.parametrize("name", COMMANDS_ALONE)
def test_the_commands_of_the_other_pages_are_there(name):
    """Those pages need data or machines that no test has: each `tinyasc` line must name a command and its options."""
    from tinyasc.cli.main import cli

    page = HOW_TO / name
    assert name == SIMULATE or not blocks(page), "such blocks are to be run"
    text = page.read_text(encoding="utf-8").replace("\\\n", "")
    lines = [line for line in text.splitlines() if line.startswith("    ")]
    words = [shlex.split(line[line.rindex("tinyasc") :].rstrip("'"))[1:] for line in lines if "tinyasc" in line]
    assert words
    for first, *rest in words:
        command = cli.get_command(click.Context(cli), first)
        if isinstance(command, click.Group):
            first, *rest = rest
            command = command.get_command(click.Context(command), first)
        assert command is not None, first
        known = {option for parameter in command.params for option in parameter.opts}
        assert {word for word in rest if word.startswith("--")} <= known, (first, rest)


def test_your_own_network_runs_as_shown(own_network):
    _, folder = own_network
    assert {"model-fp32.tflite", "model-fp32.onnx", "model-int8.tflite"} <= {file.name for file in folder.iterdir()}


def test_read_a_graph_runs_as_shown(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run_page(HOW_TO / READ_A_GRAPH)


def test_run_a_model_runs_as_shown(tmp_path, monkeypatch):
    import soundfile
    import tiny_models as tiny

    from tinyasc_export.tflite import to_tflite

    monkeypatch.chdir(tmp_path)
    Path("recordings").mkdir()
    for i, tone in enumerate(tiny.LABELS):
        soundfile.write(f"recordings/{i}.wav", tiny.tone(tone), tiny.RATE, "FLOAT")
    Path("model-fp32.tflite").write_bytes(to_tflite(tiny.graph(), tiny.bundle(("airport", "bus", "park"))))
    Path("other.tflite").write_bytes(to_tflite(tiny.graph()))
    Path("front-end.json").write_text(json.dumps(tiny.FRONT_END.to_dict()))
    run_page(HOW_TO / RUN_A_MODEL)


def test_simulate_runs_as_shown(tmp_path, monkeypatch):
    pytest.importorskip("unicorn", reason="the firmware extra is not installed")
    monkeypatch.chdir(tmp_path)
    Path("main.c").write_text("int main(void) { return 3; }\n")
    run_page(HOW_TO / SIMULATE)


def test_a_page_that_prints_otherwise_is_found(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    page = tmp_path / "page.md"
    for shown, fault in (
        ("```python\nprint(1)\n```\n\n```text\n2\n```\n", "prints otherwise"),
        ("```python\nprint(1)\n```\n", "does not show"),
        ("```text\n2\n```\n", "prints otherwise"),
        ("```sh\nls\n```\n", "is not run"),
    ):
        page.write_text(shown)
        with pytest.raises(AssertionError, match=fault):
            run_page(page)


def test_the_int8_file_answers_bit_for_bit_as_the_reference(own_network):
    """Clips and noise: TensorFlow Lite Micro equals numpy; LiteRT may round its one linear layer by a unit."""
    pytest.importorskip("tflite_micro", reason="the tflite-micro wheel exists for x86-64 Linux only")
    from runtimes import run_litert, run_tflm

    from tinyasc_export.api import quantize_input, run

    namespace, folder = own_network
    graph, data = namespace["int8"], (folder / "model-int8.tflite").read_bytes()
    clips = quantize_input(graph, namespace["graph_features"](namespace["test_x"]))
    np.testing.assert_array_equal(run(graph, clips), namespace["integers"])
    noise = np.random.default_rng(0).integers(-128, 128, (4, *clips.shape[1:])).astype(np.int8)
    x = np.concatenate([clips, noise])
    expected = run(graph, x)
    for i in range(len(x)):
        np.testing.assert_array_equal(run_tflm(data, x[i : i + 1]), expected[i : i + 1])
        litert = run_litert(data, x[i : i + 1], reference_kernels=True)
        assert np.abs(litert.astype(int) - expected[i : i + 1]).max() <= 1
        if i < len(clips):
            assert litert.argmax() == expected[i].argmax() == namespace["test_y"][i]


def test_the_lowered_graph_equals_torch(own_network):
    from modules import in_torch

    from tinyasc_export.api import run

    namespace, _ = own_network
    x = namespace["test_x"].astype(np.float64)
    scaled = x * namespace["scale"][:, None] + namespace["offset"][:, None]
    answers = run(namespace["exact"], np.moveaxis(scaled, 1, -1))
    expected = in_torch(copy.deepcopy(namespace["net"]).double(), np.moveaxis(x, 1, -1))
    np.testing.assert_allclose(answers, expected, rtol=1e-9, atol=1e-9 * np.abs(expected).max())


def test_the_files_take_a_real_clip(own_network, shared_audio):
    from tinyasc.cli.main import cli

    _, folder = own_network
    clip = min(path for path in shared_audio.rglob("*") if path.suffix in (".wav", ".ogg", ".flac"))
    answers = []
    for name in ("fp32.tflite", "fp32.onnx", "int8.tflite"):
        result = CliRunner().invoke(cli, ["infer", "--json", "--model", str(folder / f"model-{name}"), str(clip)])
        assert result.exit_code == 0, result.output
        answers.append(json.loads(result.stdout))
    assert {answer["label"] for answer in answers} <= {"hum", "hiss", "clicks"}
    tflite, onnx, _ = (answer["probabilities"] for answer in answers)
    assert tflite == pytest.approx(onnx, abs=1e-4)


def test_counting_and_running_need_numpy_alone():
    code = """
import sys
from tinyasc_export.api import count, plan, run, lower, calibrate, quantize_int8, activation_ranges, Bundle, Graph
heavy = {"torch", "flatbuffers", "onnx", "scipy"} & set(sys.modules)
assert not heavy, heavy
import tinyasc_export.api as api
try:
    api.nothing
except AttributeError as error:
    print(error)
"""
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    assert result.stdout == "module 'tinyasc_export.api' has no attribute 'nothing'\n"


def test_the_public_names_are_what_they_say():
    import tinyasc_export.api as api

    assert set(api.__all__) == set(api._MODULE_OF)
    for name in api.__all__:
        assert getattr(api, name).__name__ == name
