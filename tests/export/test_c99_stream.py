"""A front end and a net in C, samples in and scores out: the bits of the numpy specification and reference."""

from __future__ import annotations

import shutil
import subprocess

import numpy as np
import pytest
from c_program import build, compilers, run, sanitizers
from front_ends import FLAGS
from graphs import Net
from hypothesis import given, settings
from hypothesis import strategies as st
from integer_graphs import QUANTIZERS

from tinyasc.frontend import FrontEnd, features
from tinyasc.frontend_device import BOARD_ARITHMETICS, board_features, plan
from tinyasc_export import reference
from tinyasc_export.c99 import to_c, with_front_end
from tinyasc_export.errors import InputError
from tinyasc_export.graph import Graph
from tinyasc_export.quantize import calibrate

FRONT_END = FrontEnd(
    sample_rate=16000, clip_samples=2000, n_fft=256, win_length=256, hop_length=150, n_mels=12
).with_normalization(np.full(12, 0.03), np.full(12, 1.2))
FRAMES = FRONT_END.n_frames()
HOP = 5
MAIN = """#include "net_stream.h"

#include <stdio.h>

int main(void)
{
    static net_value scores[NET_OUTPUT_SIZE];
    static int16_t samples[100000];
    int32_t size;
    net_init();
    while (fread(&size, sizeof size, 1, stdin) == 1) {
        const int16_t *from = samples;
        if (size < 0 || size > 100000) return 1;
        if (fread(samples, sizeof *samples, (size_t)size, stdin) != (size_t)size) return 2;
        while (size > 0) {
            const int32_t taken = net_push(from, size);
            from += taken;
            size -= taken;
            if (net_ready()) {
                if (!net_scores(scores) || net_ready()) return 3;
                if (fwrite(scores, sizeof scores, 1, stdout) != 1) return 4;
            }
            if (net_scores(scores)) return 5; /* none is ready */
        }
    }
    return 0;
}
"""


def net(dtype: str) -> Graph:
    """A small net on the front end's features of noise, quantised on them."""
    n = Net((1, FRONT_END.n_mels, FRAMES, 1), 3)
    x = n.conv("x", 6, (3, 3), stride=(2, 2), activation="relu")
    n.linear(n.flatten(n.op("mean", [n.depthwise(x, (3, 3))], axes=(2,))), 4)
    rng = np.random.default_rng(0)
    clips = [features(sound(2000, rng) / 32768, FRONT_END)[0] for _ in range(8)]
    return QUANTIZERS[dtype](n.graph, calibrate(n.graph, np.stack(clips)[..., None]))


def sound(n: int, rng: np.random.Generator) -> np.ndarray:
    loudness = np.repeat(10 ** rng.uniform(0, 4, n // 300 + 1), 300)[:n]
    return np.clip(loudness * rng.standard_normal(n), -32768, 32767).astype(np.int16)


def plan_of(graph: Graph):
    t = graph.tensors[graph.input]
    assert t.scale is not None and t.zero_point is not None
    return plan(FRONT_END, step=float(t.scale[0]), zero_point=int(t.zero_point[0]), dtype=t.dtype)


def source_of(graph: Graph, arithmetic: str, window_hop: int | None = HOP):
    written = to_c(graph, name="net")
    return with_front_end(written, graph, plan_of(graph), arithmetic=arithmetic, window_hop=window_hop)


def expected(graph: Graph, arithmetic: str, samples: np.ndarray) -> bytes:
    """Every window on its own, as a clip: front end, then net."""
    length, hop = FRONT_END.n_fft + (FRAMES - 1) * FRONT_END.hop_length, HOP * FRONT_END.hop_length
    starts = range(0, len(samples) - length + 1, hop)
    clips = [board_features(samples[s : s + length], plan_of(graph), arithmetic)[None, :, :, None] for s in starts]
    return b"".join(reference.run(graph, clip, "tflite").tobytes() for clip in clips)


def fed(samples: np.ndarray, sizes: list[int]) -> bytes:
    parts = np.split(samples, np.cumsum(sizes)[:-1])
    return b"".join(np.int32(len(p)).tobytes() + p.tobytes() for p in parts)


@pytest.fixture(scope="module")
def programs(tmp_path_factory):
    """A program, its graph and its arithmetic for each type and arithmetic, sanitised where that is possible."""
    if not compilers():
        pytest.skip("no C compiler is here")
    compiler = list(sanitizers()) or next(iter(compilers().values()))
    made = []
    for dtype in QUANTIZERS:
        graph = net(dtype)
        for arithmetic in BOARD_ARITHMETICS:
            files = source_of(graph, arithmetic).files | {"main.c": MAIN}
            folder = tmp_path_factory.mktemp(f"{dtype}-{arithmetic}")
            made.append((build(files, folder, compiler, *FLAGS, "-O1"), graph, arithmetic))
    return made


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 3), st.lists(st.integers(0, 2500), min_size=1, max_size=8), st.integers(0, 2**32 - 1))
def test_any_chunking_scores_every_window_as_a_clip_of_its_own(programs, which, sizes, seed):
    program, graph, arithmetic = programs[which]
    samples = sound(sum(sizes), np.random.default_rng(seed))
    assert run(program, fed(samples, sizes)) == expected(graph, arithmetic, samples)


def test_scores_differ_between_windows(programs):
    """What the comparison above would miss: a net that answers everything alike."""
    program = programs[0][0]
    answers = np.frombuffer(run(program, fed(sound(20000, np.random.default_rng(1)), [20000])), np.int8).reshape(-1, 4)
    assert len(np.unique(answers, axis=0)) > len(answers) // 2 and len(answers) == 1 + (20000 - 1906) // 750


def test_a_window_that_nobody_scores_is_given_up_for_the_next(tmp_path):
    if not compilers():
        pytest.skip("no C compiler is here")
    main = """#include "net_stream.h"

#include <stdio.h>

static int16_t samples[20000];

int main(void)
{
    static net_value scores[NET_OUTPUT_SIZE];
    int32_t at = 0;
    if (fread(samples, sizeof samples, 1, stdin) != 1) return 1;
    net_init();
    at += net_push(samples, 20000);
    if (!net_ready()) return 2;
    at += net_push(samples + at, NET_WINDOW_HOP * 150 - 1);
    if (net_ready()) return 3; /* frames of the next window have come */
    at += net_push(samples + at, 20000 - at);
    if (!net_ready() || !net_scores(scores)) return 4;
    return fwrite(scores, sizeof scores, 1, stdout) != 1;
}
"""
    graph, samples = net("int8"), sound(20000, np.random.default_rng(4))
    compiler = next(iter(compilers().values()))
    program = build(source_of(graph, "device").files | {"main.c": main}, tmp_path, compiler, *FLAGS)
    assert run(program, samples.tobytes()) == expected(graph, "device", samples)[4:8]


def test_plain_make_builds_the_folder(tmp_path):
    if not (shutil.which("make") and shutil.which("cc") and shutil.which("ar")):
        pytest.skip("make, cc or ar is not here")
    graph = net("int8")
    source = source_of(graph, "device")
    for name, text in source.files.items():
        (tmp_path / name).write_text(text)
    bare = {"PATH": "/usr/bin:/bin"}
    for command in (["make"], ["cc", "-o", "program", "main.c", "libnet.a"]):
        (tmp_path / "main.c").write_text(MAIN)
        done = subprocess.run(command, cwd=tmp_path, env=bare, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
    samples = sound(9000, np.random.default_rng(6))
    assert run(tmp_path / "program", fed(samples, [9000])) == expected(graph, "device", samples)
    assert "-ffp-contract=off" in source.files["Makefile"]


def test_the_sizes_are_stated():
    graph = net("int16")
    source = source_of(graph, "fixed", window_hop=None)
    assert source.state_bytes == 6 * 256 + 12 + 2 * 12 * FRAMES + 12
    header = source.files["net_stream.h"]
    assert f"NET_WINDOW_HOP = {FRAMES // 2}," in header and f"NET_STREAM_STATE_BYTES = {source.state_bytes} " in header
    tables = source.constant_bytes - to_c(graph, name="net").constant_bytes
    assert tables > 2 * (129 + 65) and f"its tables {tables} bytes of constants" in source.files["README.md"]


def test_what_does_not_fit_is_refused():
    graph = net("int8")
    written, wanted = to_c(graph, name="net"), plan_of(graph)
    with pytest.raises(InputError, match="at least one frame, got 0"):
        with_front_end(written, graph, wanted, arithmetic="device", window_hop=0)
    most = with_front_end(written, graph, wanted, arithmetic="device", window_hop=2**31 - 1)
    assert "NET_WINDOW_HOP = 2147483647," in most.files["net_stream.h"]
    with pytest.raises(InputError, match="at most 2147483647 frames"):
        with_front_end(written, graph, wanted, arithmetic="device", window_hop=2**31)
    other = plan(FRONT_END, step=1.0, zero_point=0, dtype="int16")
    with pytest.raises(InputError, match="gives int16 of 12 bands x 12 frames, the net takes int8 of 12 x 12 x 1"):
        with_front_end(written, graph, other, arithmetic="device")
