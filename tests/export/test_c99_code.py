"""What the written C is: self-contained, built by plain make, and refused where a proof is lacking."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
from c_program import build, compilers, run
from graphs import BUNDLE, Net, quantize_by_hand, small_student

from tinyasc_export import reference
from tinyasc_export.bundle import Bundle
from tinyasc_export.c99 import to_c
from tinyasc_export.c99.kernels import Kernel
from tinyasc_export.errors import InputError
from tinyasc_export.graph import Graph
from tinyasc_export.memory import plan
from tinyasc_export.quantize import calibrate, quantize_int8, quantize_int16x8

KERNELS = Path(__file__).parents[2] / "export/tinyasc_export/c99/kernels"
# What a compiler may call for a loop or a struct, and every C library has.
BY_THE_COMPILER = {"memcpy", "memset", "memmove"}
MAIN = """#include <stdio.h>
#include "scenes.h"

int main(void)
{
    scenes_value in[SCENES_INPUT_SIZE], out[SCENES_OUTPUT_SIZE];
    int i;
    if (fread(in, sizeof in, 1, stdin) != 1) return 1;
    scenes_invoke(in, out);
    if (fwrite(out, sizeof out, 1, stdout) != 1) return 1;
    for (i = 0; i < 3; i++) printf("%s\\n", scenes_labels[i]);
    return 0;
}
"""


def a_compiler() -> tuple[str, list[str]]:
    if not compilers():
        pytest.skip("no C compiler is here: neither gcc nor clang nor the wheel ziglang")
    return next(iter(compilers().items()))


@pytest.fixture(scope="module")
def student() -> Graph:
    net = small_student()
    return quantize_int8(net.graph, calibrate(net.graph, net.features(8)))


def test_plain_make_in_an_empty_environment(student, tmp_path):
    """As a user does: make, then a program of one's own against the library. Labels keep their bytes."""
    make = shutil.which("make")
    name, command = a_compiler()
    if not make or name == "zig":
        pytest.skip("make or a compiler of one word is not here")
    bundle = Bundle(('a "b"?\\', "métro", "1\n2"), {}, {})
    for file, text in to_c(student, bundle, name="scenes").files.items():
        (tmp_path / file).write_text(text)
    empty = {"PATH": os.path.dirname(shutil.which(name) or "")}
    done = subprocess.run([make, f"CC={name}"], cwd=tmp_path, env=empty, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    (tmp_path / "main.c").write_text(MAIN)
    subprocess.run([*command, "main.c", "-L.", "-lscenes", "-o", "main"], cwd=tmp_path, check=True)
    x = np.random.default_rng(0).integers(-128, 128, (1, 32, 20, 1)).astype(np.int8)
    logits = reference.run(student, x).tobytes()
    assert run(tmp_path / "main", x.tobytes()) == logits + "".join(f"{label}\n" for label in bundle.labels).encode()


def test_operators_one_by_one_leave_their_outputs_where_the_steps_say(student, tmp_path):
    _, command = a_compiler()
    source = to_c(student, name="net")
    writes = "".join(
        f"    net_run_operator({s.index});\n    fwrite(net_arena() + {s.offset}, {s.nbytes}, 1, stdout);\n"
        for s in source.steps
    )
    main = (
        '#include <stdio.h>\n#include "net.h"\nint main(void)\n{\n    net_value in[NET_INPUT_SIZE];\n'
        f"    if (fread(in, sizeof in, 1, stdin) != 1) return 1;\n    net_load(in);\n{writes}    return 0;\n}}\n"
    )
    x = np.random.default_rng(1).integers(-128, 128, (1, 32, 20, 1)).astype(np.int8)
    values = reference.run_all(student, x)
    expected = b"".join(values[s.output].tobytes() for s in source.steps)
    assert run(build(source.files | {"main.c": main}, tmp_path, command, "-O1"), x.tobytes()) == expected
    views = {s.output for s in source.steps if not s.kernels}
    assert views == plan(student).views and views


def test_nothing_from_outside_is_included_or_called(student, tmp_path):
    """No header but stdint.h, no symbol that another file of the folder does not define."""
    net = small_student(gate="relu")
    wide = quantize_int16x8(net.graph, calibrate(net.graph, net.features(4)))
    files = to_c(student, name="narrow").files | to_c(wide, name="wide", rounding="single").files
    for name, text in files.items():
        if name.endswith((".c", ".h")):
            assert set(re.findall(r"#include <(.*?)>", text)) <= {"stdint.h"}, name
            assert all(include in files for include in re.findall(r'#include "(.*?)"', text)), name
    if "gcc" not in compilers() or not shutil.which("nm"):
        pytest.skip("gcc or nm is not here")
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    sources = sorted(name for name in files if name.endswith(".c"))
    subprocess.run(["gcc", "-std=c99", "-O2", "-ffreestanding", "-c", *sources], cwd=tmp_path, check=True)
    listed = subprocess.run(["nm", *(f"{s[:-2]}.o" for s in sources)], cwd=tmp_path, capture_output=True, text=True)
    symbols = re.findall(r"([A-Za-z]) (\w+)$", listed.stdout, re.MULTILINE)
    undefined = {name for kind, name in symbols if kind == "U"}
    assert undefined <= {name for kind, name in symbols if kind in "TRDB"} | BY_THE_COMPILER


def test_only_kernels_that_are_called_are_written(student):
    source = to_c(student)
    sources = {name[:-2] for name in source.sources if name.startswith("tinyasc_")}
    called = {kernel for step in source.steps for kernel in step.kernels}
    # A convolution calls that of one by one.
    assert sources == called | {name.replace("conv_2d", "conv_1x1") for name in called}


def test_every_template_is_used_and_has_no_word_left():
    templates = {path.stem for path in KERNELS.glob("*.c")}
    assert templates == {
        *("add", "average_pool", "conv_1x1", "conv_2d", "copy", "depthwise", "fill", "lookup", "max_pool", "maximum"),
        *("mean", "mul", "relu", "sigmoid"),
    }
    for template in sorted(templates):
        for kernel in (Kernel(template, "s8", "single", taps=3), Kernel(template, "s16", "tflite", wide=True)):
            for name, text in kernel.files().items():
                code = re.sub(r"/\*.*?\*/", "", text, flags=re.DOTALL)
                words = r"VALUE_T\b|ACC_T|VALUE_M|TYPE|RANGE|REQUANTIZE\b(?!_)|SPARE_BITS|TAPS|EACH"
                assert not re.search(rf"(?<!TINYASC_)({words})", code), name


def test_taps_of_zeros_are_left_out():
    """Both kinds of convolution; one whose weights are all zero keeps one tap."""
    net = Net((1, 9, 9, 4), 2)
    x = net.conv("x", 4, (3, 3), padding=(1, 1, 1, 1))
    x = net.depthwise(x, (5, 5), padding=(2, 2, 2, 2))
    net.depthwise(x, (3, 3))
    for op, keep in zip(net.graph.ops, ([0, 4, 8], [2, 10, 12, 14, 22], []), strict=True):
        w = net.graph.tensors[op.inputs[1]].data
        taps = w.reshape(w.shape[0], -1, w.shape[3])
        taps[:, [i for i in range(taps.shape[1]) if i not in keep]] = 0
    graph = quantize_int8(net.graph, calibrate(net.graph, net.features(4)))
    steps = to_c(graph).steps
    assert [re.findall(r"depthwise_(\d+)", step.kernels[0]) for step in steps] == [[], ["5"], ["1"]]
    full = sum(graph.tensors[op.inputs[1]].nbytes for op in graph.ops)
    assert to_c(graph).constant_bytes < full + 3 * 4 * (4 + 4 + 1) + 9 * 4


def test_sums_that_may_overflow_are_refused():
    """To the unit, with the zero point in the bias, which is one step more than a graph's own rule looks at."""
    net = Net((1, 2, 2, 3), 0)
    net.conv("x", 2, (1, 1))
    graph = quantize_by_hand(net.graph, net.features(2))
    (op,) = graph.ops
    weights, bias = graph.tensors[op.inputs[1]], graph.tensors[op.inputs[2]]
    weights.data = np.abs(weights.data)
    graph.tensors["x"].zero_point = np.array([-128])
    # The output's scale is widened, so that the sum itself is what binds.
    graph.tensors[op.output].scale = graph.tensors[op.output].scale * 2.0**24
    room = 2**31 - 1 - 256 * int(weights.data[1].astype(np.int64).sum())
    bias.data = np.array([0, room], np.int32)
    to_c(graph)
    bias.data = np.array([0, room + 1], np.int32)
    with pytest.raises(
        InputError, match=r"operator 0 \(conv2d, from net.conv2d0\): sums of up to 2,147,483,648 do not"
    ):
        to_c(graph)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"name": "2d"}, "cannot begin C names"),
        ({"name": "a-b"}, "cannot begin C names"),
        ({"name": "tinyasc_x"}, "cannot begin C names"),
        ({"rounding": "up"}, "tflite, single"),
    ],
)
def test_options_that_are_refused(student, options, message):
    with pytest.raises(InputError, match=message):
        to_c(student, **options)


def test_graphs_that_are_refused():
    net = small_student()
    with pytest.raises(InputError, match="int8 or int16x8"):
        to_c(net.graph)
    pairs = Net((2, 4, 4, 1))
    pairs.op("max_pool", ["x"], kernel=(2, 2), stride=(1, 1), padding=(0, 0, 0, 0))
    with pytest.raises(InputError, match="one clip at a time"):
        to_c(quantize_by_hand(pairs.graph, pairs.features(2)))


def test_equal_graphs_give_equal_text(student):
    assert to_c(student, BUNDLE).files == to_c(student, BUNDLE).files
