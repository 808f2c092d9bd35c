"""No pointer of the written C leaves its array, not even unread: what sanitisers do not see.

The same text is compiled as C++ with every pointer replaced by one that checks each step (`checked_pointers.hpp`).
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
from c_program import run
from graphs import Net, quantize_features
from integer_graphs import QUANTIZERS
from test_c99 import odd_net
from test_c99_stream import FRONT_END, plan_of, sound
from test_c99_stream import net as heard

from tinyasc.frontend_device import BOARD_ARITHMETICS, board_features
from tinyasc_export import reference
from tinyasc_export.c99 import CSource, to_c, with_front_end
from tinyasc_export.graph import Graph, Op
from tinyasc_export.memory import plan
from tinyasc_export.quantize import calibrate

TYPES = r"((?:const )?(?:u?int(?:8|16|32|64)_t|float)) \*"
MAIN = """#include "net.h"

#include <stdio.h>

int main()
{{
    static net_value input[NET_INPUT_SIZE], output[NET_OUTPUT_SIZE];
    while (fread(input, sizeof input, 1, stdin) == 1) {{
        net_invoke(input, output);
        if (fwrite(output, sizeof output, 1, stdout) != 1) return 1;
    }}
    return 0;
}}
"""
FRAMES_MAIN = """#include "net_frontend.h"

#include <stdio.h>

int main()
{{
    static int16_t samples[{samples}];
    {value} frame[NET_BANDS];
    if (fread(samples, sizeof samples, 1, stdin) != 1) return 1;
    net_frontend_init();
    for (int at = 0; at < {samples}; at += 333) {{
        int32_t n = {samples} - at < 333 ? {samples} - at : 333;
        Pointer<const int16_t> from(samples + at, n);
        while (net_frontend_push(&from, &n, frame)) {{
            if (fwrite(frame, sizeof frame, 1, stdout) != 1) return 2;
        }}
    }}
    return 0;
}}
"""


def compiler() -> list[str]:
    """Clang's C++ alone takes fields of a struct by name in any order, as C does."""
    if shutil.which("clang++"):
        return ["clang++"]
    if find_spec("ziglang"):
        return [sys.executable, "-m", "ziglang", "c++"]
    pytest.skip("neither clang++ nor the wheel ziglang is here")


def checked(source: CSource, graph: Graph) -> dict[str, str]:
    """The same files as C++: pointers that check, activations that end where their tensor does."""
    files = {}
    for name, text in source.files.items():
        if name.endswith((".c", ".h")):
            text = re.sub(TYPES, r"Pointer<\1> ", text)
            if name == f"{source.name}.c":
                text = _with_bounds(text, source, graph)
            if name == f"{source.name}_frontend.c":
                text = text.replace("work, frame)", f"work, {{frame, {source.name.upper()}_BANDS}})")
            files[name.replace(".c", ".cpp")] = f'#include "checked_pointers.hpp"\n{text}'
    return files


def _with_bounds(text: str, source: CSource, graph: Graph) -> str:
    """Each operand of a call as its own array: the tensor that it is, or the scratch memory up to the arena's end."""
    lines, step = [], -1
    for line in text.splitlines():
        if found := re.match(r"    case (\d+):", line):
            step = int(found[1])
        if call := re.match(r"( +)(tinyasc_\w+)\((&operator_.*)\);", line):
            operands = _bounded(call[3].split(", "), call[2], source, graph, graph.ops[step])
            line = f"{call[1]}{call[2]}({', '.join(operands)});"
        lines.append(line)
    return "\n".join(lines) + "\n"


def _bounded(arguments: list[str], kernel: str, source: CSource, graph: Graph, op: Op) -> list[str]:
    memory, itemsize = plan(graph), np.dtype(graph.tensors[graph.input].dtype).itemsize
    # In the order of the kernels' parameters: what is read, what is written, scratch memory.
    pointers = [i for i, argument in enumerate(arguments) if i and not argument.isdigit()]
    written = pointers[-2] if re.search("conv_2d|depthwise", kernel) else pointers[-1]
    operands = list(arguments)
    for i in pointers:
        if found := re.fullmatch(r"arena\.values \+ (\d+)", arguments[i]):
            place = int(found[1])
            first, size = place, source.arena_bytes // itemsize - place
            if i <= written:
                names = [op.output] if i == written else op.inputs
                tensors = [
                    (memory.offsets[n] // itemsize, memory.sizes[n] // itemsize) for n in names if n in memory.sizes
                ]
                first, size = next((f, s) for f, s in tensors if f <= place < f + s)
            operands[i] = f"Pointer<{source.name}_value>(arena.values + {first}, {size}, {place - first})"
    return operands


def built(files: dict[str, str], folder: Path) -> Path:
    for name, text in files.items():
        (folder / name).write_text(text)
    flags = ["-std=c++20", "-O1", "-w", "-ffp-contract=off", f"-I{Path(__file__).parent}"]
    command = [*compiler(), *flags, *sorted(name for name in files if name.endswith(".cpp")), "-o", "program"]
    done = subprocess.run(command, cwd=folder, capture_output=True)
    assert done.returncode == 0, done.stderr.decode()[:4000]
    return folder / "program"


def odd_sizes(seed: int) -> Net:
    """Odd positions and outputs, windows and means that end at the map's last row, away from its first column."""
    net = Net((1, 7, 5, 3), seed)
    x = net.conv("x", 5, (1, 1))
    x = net.op("max_pool", [x], kernel=(3, 2), stride=(2, 3), padding=(0, 0, 0, 0))
    x = net.conv(x, 7, (3, 3), padding=(1, 1, 1, 1))
    x = net.op("average_pool", [x], kernel=(2, 1), stride=(1, 1), padding=(0, 0, 0, 0))
    x = net.op("mean", [x], axes=(1,))
    net.linear(net.flatten(x), 3)
    return net


@pytest.mark.parametrize("dtype", QUANTIZERS)
@pytest.mark.parametrize("make", [odd_sizes, odd_net])
def test_no_pointer_of_a_net_leaves_its_array(make, dtype, tmp_path):
    net = make(1)
    x = np.abs(net.features(4))
    graph = QUANTIZERS[dtype](net.graph, calibrate(net.graph, x))
    q = quantize_features(graph, x)
    program = built(checked(to_c(graph, name="net"), graph) | {"main.cpp": MAIN.format()}, tmp_path)
    assert run(program, q.tobytes()) == reference.run(graph, q).tobytes()


@pytest.mark.parametrize("arithmetic", BOARD_ARITHMETICS)
def test_no_pointer_of_a_front_end_leaves_its_array(arithmetic, tmp_path):
    graph = heard("int8")
    source = with_front_end(to_c(graph, name="net"), graph, plan_of(graph), arithmetic=arithmetic)
    samples = sound(FRONT_END.clip_samples, np.random.default_rng(2))
    files = {n: t for n, t in checked(source, graph).items() if "frontend" in n}
    files["main.cpp"] = FRAMES_MAIN.format(samples=len(samples), value="int8_t")
    expected = board_features(samples, plan_of(graph), arithmetic)
    assert run(built(files, tmp_path), samples.tobytes()) == expected.T.tobytes()


def test_what_leaves_an_array_is_seen(tmp_path):
    """The checks themselves: one past the end is an address, and holds nothing."""
    steps = {
        "p + 2": True,
        "p + 3": False,
        "p - 1": False,
        "p[1]": True,
        "p[2]": False,
        "p[-1]": False,
        "*(p + 2)": False,
    }
    cases = "".join(f"    case {i}: (void)({step}); break;\n" for i, step in enumerate(steps))
    body = f"    int8_t a[2] = {{}};\n    Pointer<int8_t> p(a);\n    switch (argc - 1) {{\n{cases}    }}\n"
    main = f"int main(int argc, char **)\n{{\n{body}}}\n"
    program = built({"main.cpp": f'#include "checked_pointers.hpp"\n{main}'}, tmp_path)
    ended = [subprocess.run([program, *("x" * i)], capture_output=True).returncode == 0 for i in range(len(steps))]
    assert ended == list(steps.values())
