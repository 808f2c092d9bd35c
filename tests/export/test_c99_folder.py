"""A written folder, front end included, as others build it: compilers, warnings, C++, and wrong options."""

from __future__ import annotations

import platform
import re
import shutil
import subprocess
from graphlib import TopologicalSorter
from pathlib import Path

import numpy as np
import pytest
from c_program import SANITIZERS, STRICT, compilers, run
from test_c99_stream import expected, net, plan_of, sound, source_of

from tinyasc.frontend_device import board_features

EMPTY = {"PATH": "/usr/bin:/bin"}
BY_THE_COMPILER = {"memcpy", "memset", "memmove"}
# Feeds pieces that are none before, between and behind those that are.
MAIN = """#include "net_frontend.h"
#include "net_stream.h"

#include <stdio.h>

#define NONE(samples, n) if (net_push(samples, n) != 0 || net_ready() != ready) return 7

int main(void)
{
    static net_value scores[NET_OUTPUT_SIZE];
    static int16_t samples[600];
    size_t got;
    if (!net_frontend_is_exact()) return 6;
    net_init();
    while ((got = fread(samples, sizeof *samples, 600, stdin)) > 0) {
        const int16_t *from = samples;
        int32_t n = (int32_t)got;
        while (n > 0) {
            int ready = net_ready();
            int32_t taken;
            NONE(0, 0);
            NONE(0, -1);
            NONE(from, -600);
            NONE(from, -2147483647 - 1);
            taken = net_push(from, n);
            from += taken;
            n -= taken;
            ready = net_ready();
            NONE(0, 0);
            NONE(from, -5);
            if (ready) {
                net_scores(scores);
                if (fwrite(scores, sizeof scores, 1, stdout) != 1) return 1;
            }
        }
    }
    return 0;
}
"""
# The frames of samples on standard input, and whether the front end takes its own arithmetic for exact.
FRAMES = """#include "net_frontend.h"

#include <stdio.h>

int main(void)
{
    static int16_t samples[4000];
    const int16_t *from = samples;
    int32_t n = 4000;
    int8_t frame[NET_BANDS];
    if (fread(samples, sizeof samples, 1, stdin) != 1) return 9;
    putchar(net_frontend_is_exact());
    net_frontend_init();
    while (net_frontend_push(&from, &n, frame)) fwrite(frame, sizeof frame, 1, stdout);
    return 0;
}
"""


def write(folder: Path, dtype: str = "int8", arithmetic: str = "device", **more: str):
    """The folder's graph; `more` are files beside it, with _ for the last dot."""
    graph = net(dtype)
    for name, text in source_of(graph, arithmetic).files.items():
        (folder / name).write_text(text)
    for name, text in more.items():
        (folder / name.replace("_", ".")).write_text(text)
    return graph


def make(folder: Path, *words: str) -> None:
    if not all(shutil.which(program, path=EMPTY["PATH"]) for program in ("make", "ar")):
        pytest.skip("make or ar is not in /usr/bin")
    done = subprocess.run(["make", *words], cwd=folder, env=EMPTY, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[:4000]


def need(name: str) -> str:
    if not shutil.which(name, path=EMPTY["PATH"]):
        pytest.skip(f"{name} is not in /usr/bin")
    return name


def sanitizers_of(compiler: str) -> list[str]:
    """Their flags, where this compiler has their library."""
    command = [compiler, *SANITIZERS, "-x", "c", "-", "-o", "/dev/null"]
    done = subprocess.run(command, input=b"int main(void) { return 0; }", capture_output=True)
    return SANITIZERS if done.returncode == 0 else []


@pytest.mark.parametrize("compiler", ["gcc", "clang"])
@pytest.mark.parametrize(("dtype", "arithmetic"), [("int8", "device"), ("int16", "fixed")])
def test_make_with_warnings_as_errors_and_sanitizers_and_pieces_that_are_none(compiler, dtype, arithmetic, tmp_path):
    need(compiler)
    flags = [*STRICT[1:], "-O1", *sanitizers_of(compiler)]
    graph = write(tmp_path, dtype, arithmetic, main_c=MAIN)
    make(tmp_path, f"CC={compiler}", f"CFLAGS={' '.join(flags)}")
    command = [compiler, "-std=c99", *flags, "main.c", "libnet.a", "-o", "main"]
    done = subprocess.run(command, cwd=tmp_path, env=EMPTY, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[:4000]
    samples = sound(7000, np.random.default_rng(3))
    assert run(tmp_path / "main", samples.tobytes()) == expected(graph, arithmetic, samples) != b""


@pytest.mark.parametrize("compiler", ["g++", "clang++"])
def test_a_program_in_cpp_takes_the_headers_and_the_library(compiler, tmp_path):
    need(compiler)
    main = re.sub(r"NONE\((.*?)\);\n", "", MAIN).replace("int ready = net_ready();", "int ready = 0;")
    graph = write(tmp_path, main_cpp=main)
    make(tmp_path)
    strict = ["-std=c++11", "-pedantic", "-Wall", "-Wextra", "-Wconversion", "-Werror"]
    command = [compiler, *strict, "main.cpp", "libnet.a", "-o", "main"]
    done = subprocess.run(command, cwd=tmp_path, env=EMPTY, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[:4000]
    samples = sound(7000, np.random.default_rng(4))
    assert run(tmp_path / "main", samples.tobytes()) == expected(graph, "device", samples)


@pytest.mark.parametrize("arithmetic", ["device", "fixed"])
def test_no_libm_no_heap_and_no_recursion(arithmetic, tmp_path):
    """Symbols of the built library, and the call graph as GCC sees it."""
    need("gcc"), need("nm")
    write(tmp_path, "int16", arithmetic)
    make(tmp_path, "CC=gcc", "CFLAGS=-O0 -fcallgraph-info")
    listed = subprocess.run(["nm", "libnet.a"], cwd=tmp_path, capture_output=True, text=True, check=True).stdout
    symbols = re.findall(r"([A-Za-z]) (\w+)$", listed, re.MULTILINE)
    defined = {name for kind, name in symbols if kind in "TRDBtrdb"}
    assert {name for kind, name in symbols if kind == "U"} - {"_GLOBAL_OFFSET_TABLE_"} <= defined | BY_THE_COMPILER
    calls: dict[str, set[str]] = {}
    for file in tmp_path.glob("*.ci"):
        for source, target in re.findall(r'edge: \{ sourcename: "(.*?)" targetname: "(.*?)"', file.read_text()):
            calls.setdefault(source, set()).add(target)
    assert "net_scores" in calls and "net_run_operator" in calls["net_scores"]
    order = list(TopologicalSorter(calls).static_order())  # raises where a function can come back to itself
    assert "__indirect_call" not in order


def test_a_second_make_leaves_no_member_that_the_folder_no_longer_has(tmp_path):
    """As after an export of another net into the same folder."""
    need("cc")
    write(tmp_path)
    (tmp_path / "old.c").write_text("int net_old(void);\nint net_old(void) { return 1; }\n")
    text = (tmp_path / "Makefile").read_text()
    (tmp_path / "Makefile").write_text(text.replace("OBJECTS = \\\n", "OBJECTS = \\\n    old.o \\\n"))
    make(tmp_path)
    (tmp_path / "Makefile").write_text(text)
    (tmp_path / "net.c").touch()
    make(tmp_path)
    members = subprocess.run(["ar", "t", "libnet.a"], cwd=tmp_path, capture_output=True, text=True).stdout.split()
    assert "net.o" in members and "old.o" not in members


WRONG = [
    ("gcc", "-ffast-math"),
    ("clang", "-ffast-math"),
    ("gcc", "-Ofast"),
    ("clang", "-Ofast"),
    ("gcc", "-fassociative-math -fno-signed-zeros -fno-trapping-math"),
    ("gcc", "-funsafe-math-optimizations"),
]


@pytest.mark.parametrize(("compiler", "options"), WRONG)
def test_options_that_change_float_do_not_compile(compiler, options, tmp_path):
    if compiler not in compilers():
        pytest.skip(f"{compiler} is not here")
    write(tmp_path)
    command = [compiler, "-std=c99", "-O2", *options.split(), "-c", "tinyasc_frontend_device_s8.c"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode and "error" in done.stderr and "in the order written: build without" in done.stderr


def test_precision_that_is_more_than_float_s_does_not_compile(tmp_path):
    need("gcc")
    if platform.machine() not in ("x86_64", "AMD64"):
        pytest.skip("x87 is of x86 alone")
    write(tmp_path)
    command = ["gcc", "-std=c99", "-mfpmath=387", "-c", "tinyasc_frontend_device_s8.c"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode and "float has to be computed as float" in done.stderr


def fused() -> list[str]:
    """Options under which products are fused into sums on this machine, where it can."""
    if platform.machine() in ("x86_64", "AMD64"):
        cpu = Path("/proc/cpuinfo")
        return ["-mfma", "-ffp-contract=fast"] if cpu.is_file() and " fma " in cpu.read_text() else []
    return ["-ffp-contract=fast"] if platform.machine() in ("arm64", "aarch64") else []


@pytest.mark.parametrize("compiler", ["gcc", "clang", "zig"])
@pytest.mark.parametrize("wrong", ["", "fused", "sorted"])
def test_a_front_end_knows_whether_it_was_built_exactly(compiler, wrong, tmp_path):
    """What no macro tells: fused products. Clang is told in the code to leave sums as they are."""
    if compiler not in compilers():
        pytest.skip(f"{compiler} is not here")
    options = {
        "": ["-ffp-contract=off"],
        "fused": fused(),
        "sorted": ["-ffp-contract=off", "-fassociative-math", "-fno-signed-zeros", "-fno-trapping-math"],
    }[wrong]
    if not options:
        pytest.skip("this processor fuses nothing, or does not say so")
    if (compiler, wrong) == ("gcc", "sorted"):
        pytest.skip("GCC says that it sorts, and the code does not compile")
    graph = write(tmp_path, main_c=FRAMES)
    sources = ["main.c", "net_frontend.c", "tinyasc_frontend_device_s8.c", "tinyasc_frontend_samples.c"]
    command = [*compilers()[compiler], "-std=gnu99", "-O2", *options, *sources, "-o", "main"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    samples = sound(4000, np.random.default_rng(5))
    exact, *frames = run(tmp_path / "main", samples.tobytes())
    assert exact == (wrong != "fused")
    if exact:
        assert bytes(frames) == board_features(samples, plan_of(graph), "device").T.tobytes()
