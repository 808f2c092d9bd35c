"""Do written models hold what was asked for? On real clips, by the command itself, measured without tinyasc's counters.

A tiny teacher is trained on ESC-10 for one epoch, then `tinyasc compress` runs under many limits, one epoch each:
whether a limit holds does not depend on how long was trained. What a file costs is read from its flatbuffer
(flatbuffer_facts.py) and from the disk; limits are written here as numbers. What was measured is printed at the end.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
import yaml
from ai_edge_litert.interpreter import Interpreter, OpResolverType
from flatbuffer_facts import Facts, facts, quantized
from tflite_facts import micro_arena

from tinyasc.audio import read_audio
from tinyasc.data import load_table
from tinyasc.frontend import FrontEnd, features
from tinyasc_export.tflite import read_bundle

pytestmark = pytest.mark.slow

RATE, SECONDS, WINDOW, HOP, MELS = 32000, 5, 2048, 2048, 64
TEACHER = {
    "name": "tiny",
    "front_end": {
        "sample_rate": RATE, "clip_seconds": SECONDS, "n_fft": WINDOW, "hop_length": HOP, "n_mels": MELS,
    },
    "model": {"family": "atrous_cnn", "head": "attention", "base_channels": 8},
    "training": {"epochs": 1, "batch_size": 32},
    "student": "students/cp_mobile",
}  # fmt: skip
# Every family's recipe, cut to one epoch; batches of 32, so that there are some steps in it.
ONE_EPOCH = (
    "epochs=1",
    "batch_size=32",
    "warmup_epochs=0",
    "schedule=cosine",
    "flat_until_epoch=null",
    "decay_epochs=null",
)
# By hand, of docs/decisions/0019: what the front end keeps beside its features (int16 samples of a window and a hop, a
# float32 spectrum of a real transform in place, a float32 mel row), and what is set aside for the stack.
FRONT_END = 2 * (WINDOW + HOP) + 4 * (WINDOW + 2) + 4 * MELS
STACK = 4096
DEFAULT_RAM = 768 * 1024
NANO = {"ram": 256 * 1024, "flash": 0xEFE00}  # the Arduino's RAM, and the flash that its bootloader leaves


@dataclass(frozen=True)
class Case:
    """One compression.

    Args:
        options: of the command.
        limits: the numbers that the file has to hold: "bytes" of parameters, "parameters", "macs" per second, "flash"
            of the file, "ram".
        family: that is expected.
        narrower: True where a limit must have made the student narrower than its recipe.
        precision: of the main file.
        set: values of the recipe, beside those that shorten training.
    """

    options: str
    limits: dict[str, int]
    family: str = "cp_mobile"
    narrower: bool = False
    precision: str = "int8"
    set: tuple[str, ...] = field(default=())


CASES = (
    Case("--budget 128KB", {"bytes": 131072, "ram": DEFAULT_RAM}),
    Case("--budget 64KB", {"bytes": 65536, "ram": DEFAULT_RAM}),
    Case("--budget 16KB", {"bytes": 16384, "ram": DEFAULT_RAM}, narrower=True),
    Case("--rule dcase2022-t1", {"parameters": 128_000, "macs": 30_000_000, "ram": DEFAULT_RAM}),
    Case("--rule dcase2024-t1", {"bytes": 128_000, "macs": 30_000_000, "ram": DEFAULT_RAM}),
    Case("--board arduino-nano-33-ble-sense", NANO),
    Case("--budget 128KB --family sepconv-ca", {"bytes": 131072, "ram": DEFAULT_RAM}, "sepconv_ca"),
    Case("--budget 128KB --family amfm", {"bytes": 131072, "ram": DEFAULT_RAM}, "amfm"),
    Case("--macs 30M --ram 256KB --flash 200KB", {"macs": 30_000_000, "ram": 256 * 1024, "flash": 200 * 1024}),
    # Where a limit other than that of parameters makes the student narrower.
    Case("--board arduino-nano-33-ble-sense --family sepconv-ca", NANO, "sepconv_ca", narrower=True),
    Case(
        "--macs 2M --flash 60KB --ram none --family sepconv-ca",
        {"macs": 2_000_000, "flash": 60 * 1024}, "sepconv_ca", narrower=True,
    ),
    Case(
        "--bits 16 --ram 256KB --family sepconv-ca",
        {"bytes": 131072, "ram": 256 * 1024}, "sepconv_ca",
        narrower=True, precision="int16x8", set=("model.attention_activation=relu",),
    ),
)  # fmt: skip


def tinyasc(*arguments: str | Path, cwd: Path) -> str:
    """Runs the command as a user would; its features are kept in the folder, so that they are computed once."""
    own = {k: v for k, v in os.environ.items() if not k.startswith("TINYASC_")}
    done = subprocess.run(
        [sys.executable, "-m", "tinyasc.cli.main", *map(str, arguments)],
        cwd=cwd,
        env=own | {"TINYASC_CACHE": str(cwd / "cache"), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=280,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def place(esc10_root, tmp_path_factory):
    """A folder with a trained teacher."""
    folder = tmp_path_factory.mktemp("esc10")
    data = {"name": "esc10", "root": str(esc10_root), "test_fold": 1}
    (folder / "teacher.yaml").write_text(yaml.safe_dump(TEACHER | {"data": data}))
    tinyasc("train", "teacher.yaml", "--run", "teacher", cwd=folder)
    return folder


@pytest.fixture(scope="module")
def clip(esc10_root):
    """A real clip."""
    return load_table("esc10", esc10_root).clips[0].path


@pytest.fixture(scope="module")
def table(request):
    """Lines to print when all is done."""
    lines: list[str] = []
    yield lines
    with request.config.pluginmanager.getplugin("capturemanager").global_and_fixture_disabled():
        print(
            "", "measured of limit | RAM: arena (lower bound; TFLM's head + tail) + front end + stack", *lines, sep="\n"
        )


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.options)
def test_written_files_hold_the_limits(case, place, clip, table):
    run = place / f"run{CASES.index(case)}"
    settings = [f"training.{value}" for value in ONE_EPOCH] + list(case.set)
    sets = [word for value in settings for word in ("--set", value)]
    began = time.perf_counter()
    tinyasc("compress", *case.options.split(), "--teacher", "teacher", "--run", run, *sets, cwd=place)
    took = time.perf_counter() - began

    assert not list(run.glob("*over-budget*"))
    (file,) = (f for f in run.glob("model-*.tflite") if f.name != "model-fp32.tflite")
    assert file.name == f"model-{case.precision}.tflite"
    data = file.read_bytes()
    found = facts(data)
    plan = json.loads((run / "plan.json").read_text())["plan"]
    report = json.loads((run / "report.json").read_text())
    (entry,) = (f for f in report["files"] if f["file"] == file.name)
    assert plan["family"] == case.family
    assert (plan["share"] < 1) == case.narrower

    arena = _arena(report, plan, found)
    measured = {
        "bytes": found.parameter_bytes,
        "parameters": found.parameters,
        "macs": -(-found.macs // SECONDS),
        "flash": file.stat().st_size,
        "ram": arena + FRONT_END + found.input_bytes + STACK,
    }
    broken = {name: (measured[name], limit) for name, limit in case.limits.items() if measured[name] > limit}
    assert not broken
    assert found.weight_types == {"INT8"}
    reported = {"bytes": "parameter_bytes", "parameters": "parameters", "flash": "file_bytes"}
    assert {name: entry[key] for name, key in reported.items()} == {name: measured[name] for name in reported}
    assert entry["macs"] == found.macs
    assert all(check["met"] for check in report["checks"])

    _answers(file, clip, found, place)
    table.append(_row(case, plan, measured, arena, found, data, took))


def _arena(report: dict, plan: dict, found: Facts) -> int:
    """The planned arena, out of the reported RAM where that was limited; never less than what lives at once."""
    ram = [check["value"] for check in report["checks"] if check["name"] == "ram"]
    arena = ram[0] - FRONT_END - found.input_bytes - STACK if ram else plan["arena_bytes"]
    assert arena == plan["arena_bytes"] >= found.live_bytes > 0
    assert plan["front_end_bytes"] == FRONT_END + found.input_bytes
    return arena


def _answers(file: Path, clip: Path, found: Facts, place: Path) -> None:
    """The file answers ten classes on a real clip: through the command, and in LiteRT by hand to the same effect."""
    answer = json.loads(tinyasc("infer", clip, "--model", file, "--exact", "--json", cwd=place))
    assert len(answer["probabilities"]) == found.outputs == 10
    assert sum(answer["probabilities"].values()) == pytest.approx(1)

    data = file.read_bytes()
    bundle = read_bundle(data, file.name)
    assert bundle is not None and sorted(answer["probabilities"]) == sorted(bundle.labels)
    front_end = FrontEnd.from_dict(bundle.front_end)
    interpreter = Interpreter(model_content=data, experimental_op_resolver_type=OpResolverType.BUILTIN_REF)
    interpreter.allocate_tensors()
    (given,), (got,) = interpreter.get_input_details(), interpreter.get_output_details()
    x = features(read_audio(clip, RATE)[: RATE * SECONDS], front_end)
    interpreter.set_tensor(given["index"], quantized(x.reshape(given["shape"]), *given["quantization"], given["dtype"]))
    interpreter.invoke()
    scale, zero = got["quantization"]
    logits = scale * (interpreter.get_tensor(got["index"]).reshape(-1).astype(float) - zero)
    odds = np.exp((logits - logits.max()) / bundle.card.get("temperature", 1))
    expected = [answer["probabilities"][label] for label in bundle.labels]
    np.testing.assert_allclose(odds / odds.sum(), expected, atol=1e-6)


def _row(case: Case, plan: dict, measured: dict, arena: int, found: Facts, data: bytes, took: float) -> str:
    limits = ", ".join(f"{name} {measured[name]:,} of {limit:,}" for name, limit in case.limits.items())
    try:
        micro = micro_arena(data)
    except ImportError:
        tflm = "no wheel here"
    else:
        assert micro["head"] >= plan["arena_unshared_bytes"]
        tflm = f"{micro['head']:,} + {micro['tail']:,}"
    student = f"{plan['family']} {plan['width']:g} ({100 * plan['share']:.0f} %), {case.precision}"
    return (
        f"{case.options}: {student}: {limits} | "
        f"{arena:,} ({found.live_bytes:,}; {tflm}) + {FRONT_END + found.input_bytes:,} + {STACK:,} | {took:.0f} s"
    )
