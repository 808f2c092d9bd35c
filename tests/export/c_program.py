"""Builds C nets into one program with a compiler of this machine, and runs them."""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from pathlib import Path

import numpy as np

from tinyasc_export import reference
from tinyasc_export.c99 import CSource, to_c
from tinyasc_export.graph import Graph

STRICT = ["-std=c99", "-pedantic", "-Wall", "-Wextra", "-Wconversion", "-Werror"]
SANITIZERS = ["-g", "-fsanitize=address,undefined", "-fno-sanitize-recover=all"]


def compilers() -> dict[str, list[str]]:
    """The compilers that are there: gcc, clang, and clang as the wheel `ziglang`."""
    found = {name: [name] for name in ("gcc", "clang") if shutil.which(name)}
    return found | ({"zig": [sys.executable, "-m", "ziglang", "cc"]} if find_spec("ziglang") else {})


@cache
def sanitizers() -> tuple[str, ...]:
    """The compiler with its sanitisers' flags; empty where none can link them."""
    for name in ("gcc", "clang"):
        if name in compilers():
            with tempfile.TemporaryDirectory() as folder:
                main = Path(folder) / "main.c"
                main.write_text("int main(void) { return 0; }\n")
                command = [name, *SANITIZERS, str(main), "-o", str(main.with_suffix(""))]
                if subprocess.run(command, capture_output=True).returncode == 0:
                    return (name, *SANITIZERS)
    return ()


def build(files: dict[str, str], folder: Path, compiler: list[str], *flags: str) -> Path:
    """Compiles all C files of `files` strictly into one program in `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        (folder / name).write_text(text, encoding="utf-8")
    sources = sorted(name for name in files if name.endswith(".c"))
    command = [*compiler, *STRICT, *flags, *sources, "-o", "program"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, f"{' '.join(command)}\n{done.stderr[:4000]}"
    return folder / "program"


def run(program: Path, data: bytes) -> bytes:
    """What a program answers to `data` on its standard input."""
    done = subprocess.run([program], input=data, capture_output=True)
    assert done.returncode == 0, done.stderr.decode(errors="replace")[:4000]
    return done.stdout


class Nets:
    """Several nets in one program.

    Args:
        sources: with different names; kernels that they share are compiled once.
        folder: for the program.
        compiler: how it is called.
        flags: beside the strict ones.
    """

    def __init__(self, sources: list[CSource], folder: Path, compiler: list[str], *flags: str) -> None:
        files: dict[str, str] = {}
        for source in sources:
            for name, text in source.files.items():
                assert files.setdefault(name, text) == text or name in ("Makefile", "README.md"), f"two texts of {name}"
        # Constants in one file: it is the count of files that costs time.
        weights = [name for name in files if name.endswith("_weights.c")]
        files["weights.c"] = "".join(files.pop(name) + "\n" for name in weights)
        files["main.c"] = _main([source.name for source in sources])
        self.program = build(files, folder, compiler, *flags)

    def answers(self, inputs: list[tuple[int, np.ndarray]]) -> bytes:
        """The nets' outputs, one after the other, to pairs of a net's index and its input."""
        return run(self.program, b"".join(np.int32(net).tobytes() + x.tobytes() for net, x in inputs))


def _main(names: list[str]) -> str:
    includes = "".join(f'#include "{name}.h"\n' for name in names)
    cases = "".join(
        f"        case {i}: READ({n}_input); {n}_invoke({n}_input, {n}_output); WRITE({n}_output); break;\n"
        for i, n in enumerate(names)
    )
    return f"""#include <stdio.h>
{includes}
#define READ(x) if (fread(x, sizeof x, 1, stdin) != 1) return 1
#define WRITE(x) if (fwrite(x, sizeof x, 1, stdout) != 1) return 1

int main(void)
{{
    int32_t net;
{_buffers(names)}
    while (fread(&net, sizeof net, 1, stdin) == 1) {{
        switch (net) {{
{cases}        default: return 1;
        }}
    }}
    return 0;
}}
"""


def _buffers(names: list[str]) -> str:
    return "".join(
        f"    static {n}_value {n}_input[{n.upper()}_INPUT_SIZE], {n}_output[{n.upper()}_OUTPUT_SIZE];\n" for n in names
    )


@dataclass
class Trial:
    """A graph, a rounding, and clips to feed it."""

    graph: Graph
    rounding: str
    clips: np.ndarray


def check(trials: list[Trial], folder: Path, compiler: list[str], *flags: str) -> None:
    """Builds all trials into one program and compares every answer with the reference's."""
    sources = [to_c(t.graph, name=f"net{i}", rounding=t.rounding) for i, t in enumerate(trials)]
    fed = [(i, clip) for i, t in enumerate(trials) for clip in t.clips]
    answers = Nets(sources, folder, compiler, *flags).answers(fed)
    at = 0
    for t in trials:
        expected = reference.run(t.graph, t.clips, t.rounding)
        actual = np.frombuffer(answers[at : at + expected.nbytes], expected.dtype).reshape(expected.shape)
        np.testing.assert_array_equal(actual, expected, err_msg=f"{t.rounding}\n{t.graph}")
        at += expected.nbytes
    assert at == len(answers)
