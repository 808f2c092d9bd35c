"""The example program of a folder of C against `tinyasc infer --backend reference`, from samples to scores."""

import json
import os
import shutil
import subprocess
import sys
from importlib.util import find_spec

import c_folders
import numpy as np
import pytest
import soundfile
import tiny_models as tiny
from click.testing import CliRunner

from tinyasc.cli.main import cli
from tinyasc.frontend_device import BOARD_ARITHMETICS
from tinyasc.infer.runner import load, softmax
from tinyasc_export.graphfile import save_graph

HOP_FRAMES = 5
HOP = HOP_FRAMES * tiny.FRONT_END.hop_length
CLIP = tiny.FRONT_END.clip_samples
ZIG = [f"CC={sys.executable} -m ziglang cc", f"AR={sys.executable} -m ziglang ar"]


def toolchains():
    """Words for make: none for cc as it is, or zig's programs; each skipped, with the reason, where it is not there."""
    here = bool(shutil.which("cc", path="/usr/bin:/bin") and shutil.which("ar", path="/usr/bin:/bin"))
    yield pytest.param([], id="cc", marks=pytest.mark.skipif(not here, reason="cc or ar is not in /usr/bin"))
    no_zig = find_spec("ziglang") is None
    yield pytest.param(ZIG, id="zig", marks=pytest.mark.skipif(no_zig, reason="the wheel ziglang is not here"))


def sound(n: int) -> np.ndarray:
    """A tone of each class by turns, louder and softer: (n,) int16."""
    whole = np.concatenate([0.9 * gain * tiny.tone(x, 3000) for gain in (1, 0.03, 0.3) for x in tiny.LABELS])
    return np.round(32767 * np.resize(whole, n)).astype(np.int16)


def built(folder, words) -> None:
    """As a user does, in an empty environment."""
    if shutil.which("make", path="/usr/bin:/bin") is None:
        pytest.skip("make is not in /usr/bin")
    empty = {"PATH": "/usr/bin:/bin"}
    if words:  # zig keeps what it made of the C library
        empty |= {"ZIG_GLOBAL_CACHE_DIR": os.path.expanduser("~/.cache/zig")}
    for target in ([], ["example"]):
        done = subprocess.run(["make", *words, *target], cwd=folder, env=empty, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr


def answers(folder, samples: np.ndarray) -> list[tuple[str, list[int]]]:
    """(class, scores) of every window, as the program prints them."""
    done = subprocess.run(["./example"], cwd=folder, input=samples.astype("<i2").tobytes(), capture_output=True)
    assert done.returncode == 0, done.stderr
    rows = [line.split("\t") for line in done.stdout.decode().splitlines()]
    assert [int(row[0]) for row in rows] == list(range(len(rows)))
    return [(row[1], list(map(int, row[2].split()))) for row in rows]


def named(folder, samples: np.ndarray, arithmetic: str) -> dict:
    """What `tinyasc infer` says of the same samples."""
    soundfile.write(folder / "clip.wav", samples, tiny.RATE, "PCM_16")
    how = ["--backend", "reference", "--arithmetic", arithmetic, "--window-hop", str(HOP / tiny.RATE), "--json"]
    result = CliRunner().invoke(cli, ["infer", *how, "--model", str(folder / "g.npz"), str(folder / "clip.wav")])
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


@pytest.mark.parametrize("words", toolchains())
def test_the_example_has_the_bits_of_infer(tmp_path, words):
    graph = tiny.int8_graph()
    (tmp_path / "g.npz").write_bytes(save_graph(graph, tiny.bundle()))
    output = graph.tensors[graph.output]
    for arithmetic in BOARD_ARITHMETICS[:1] if words else BOARD_ARITHMETICS:
        folder = c_folders.write(tmp_path / arithmetic, arithmetic=arithmetic, window_hop=HOP_FRAMES)
        built(folder, words)
        model = load(tmp_path / "g.npz", backend="reference", arithmetic=arithmetic)
        seen = set()
        # A clip that is padded, one window, and windows that end where the clip does.
        for n in (700, CLIP, CLIP + 6 * HOP):
            samples = sound(n)
            rows = answers(folder, samples)
            assert len(rows) == 1 + max(0, n - CLIP) // HOP
            logits = []
            for i, (label, scores) in enumerate(rows):
                part = samples[i * HOP : i * HOP + CLIP].astype(np.float64) / 32768
                expected = model.logits(model.features(np.pad(part, (0, CLIP - len(part)))), "")
                logits.append((np.array(scores) - output.zero_point[0]) * output.scale[0])
                assert np.array_equal(np.float32(logits[-1]), expected)
                assert label == tiny.LABELS[int(np.argmax(scores))]
                seen.add(tuple(scores))
            told = named(tmp_path, samples, arithmetic)
            mean = np.mean([softmax(np.float32(row)) for row in logits], axis=0)
            assert told["windows"] == len(rows) and told["label"] == tiny.LABELS[int(np.argmax(mean))]
            assert list(told["probabilities"].values()) == pytest.approx(mean.tolist(), abs=1e-15 * len(rows))
        assert len(seen) > 5


def test_the_example_is_strict_c99_and_says_when_it_hears_nothing(tmp_path):
    folder = c_folders.write(tmp_path / "example", name="example")  # the program's own name may be the net's
    compiler = next((c for c in ("gcc", "clang") if shutil.which(c)), None)
    if compiler is None:
        pytest.skip("neither gcc nor clang is here")
    strict = ["-std=c99", "-pedantic", "-Wall", "-Wextra", "-Wconversion", "-Werror", "-ffp-contract=off"]
    sources = sorted(file.name for file in folder.glob("*.c"))
    assert {"example.c", "example_example.c"} <= set(sources)
    subprocess.run([compiler, *strict, *sources, "-o", "program"], cwd=folder, check=True)
    done = subprocess.run(["./program"], cwd=folder, input=b"\1", capture_output=True, text=False)
    assert (done.returncode, done.stdout, done.stderr) == (1, b"", b"no samples on standard input\n")


def test_a_net_alone_has_no_example(tmp_path):
    folder = c_folders.write(tmp_path / "net", arithmetic="none")
    assert not list(folder.glob("*example*")) and "example:" not in (folder / "Makefile").read_text()
