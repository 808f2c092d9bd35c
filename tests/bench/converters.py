"""From a torch module to an int8 .tflite file: litert-torch with ai-edge-quantizer, and this project, side by side.

The subject is the S4 student at 64 mels x 44 frames: one set of random weights, settled batch norms, 16 feature maps to
calibrate with and 100 others to answer (tests/export/students.py). From the repository, in the environment of
`make test` (`PYTHONPATH=.:export` if the packages are not installed):

    python tests/bench/converters.py install DIR   # fresh environments DIR/theirs, DIR/ours and what they weigh; 5 GB
    python tests/bench/converters.py prepare DIR   # weights, features and torch's answers
    python tests/bench/converters.py measure DIR   # converts in turn, each time in a fresh process; writes the files
    python tests/bench/converters.py table DIR     # the tables of docs/benchmarks.md

torch is installed first and pinned; without a GPU, PIP_EXTRA_INDEX_URL=https://download.pytorch.org/whl/cpu keeps
gigabytes of CUDA away. `measure` runs each side in its own environment; for one core put
`taskset -c 1 env OMP_NUM_THREADS=1` in front.
"""

from __future__ import annotations

import copy
import json
import os
import resource
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

MELS, FRAMES, CLASSES = 64, 44, 10
ROOT = Path(__file__).resolve().parents[2]
TORCH = "torch==2.13.0"
PACKAGES = {
    "theirs": (["litert-torch==0.10.0", "ai-edge-quantizer==0.10.0"], f"{TORCH}\n"),
    "ours": (["flatbuffers", "ai-edge-litert", "onnx"], (ROOT / "constraints.txt").read_text()),
}


def install(folder: Path) -> None:
    """Makes an environment for each side and weighs its site-packages: with torch alone, then with the rest."""
    for side, (packages, constraints) in PACKAGES.items():
        environment = folder / side
        subprocess.run([sys.executable, "-m", "venv", environment], check=True)
        python, pins = environment / "bin" / "python", folder / f"{side}-constraints.txt"
        pins.write_text(constraints)
        pip = [python, "-m", "pip", "install", "--quiet", "--constraint", pins]
        subprocess.run([*pip, TORCH], check=True)
        sizes, before = {"torch alone": _weight(environment)}, _weight(environment)
        start = time.perf_counter()
        for step in [packages] if side == "theirs" else [packages[:2], packages[2:]]:
            subprocess.run([*pip, *step], check=True)
            sizes[" + ".join(step)] = _weight(environment) - before
            before = _weight(environment)
        seconds = time.perf_counter() - start
        frozen = subprocess.run([python, "-m", "pip", "freeze"], check=True, capture_output=True, text=True).stdout
        report = {"bytes": sizes, "seconds": seconds, "packages": frozen.split()}
        (folder / f"{side}-install.json").write_text(json.dumps(report, indent=1))


def _weight(environment: Path) -> int:
    """Bytes of an environment's packages, as `du -sb` counts them: every file and folder once."""
    (packages,) = environment.glob("lib/python3.*/site-packages")
    return sum(path.lstat().st_size for path in [packages, *packages.rglob("*")])


def prepare(folder: Path) -> None:
    """Writes what both sides start from, so that they convert equal weights and see equal features.

    The last bias is moved so that the mean logits are 0: a random net answers every clip with one class otherwise, and
    agreement in top-1 would say nothing.
    """
    import numpy as np
    import torch
    from torch import nn

    sys.path.insert(0, str(ROOT / "tests" / "export"))
    from modules import in_torch
    from students import mel_like, s4_module

    module = s4_module(MELS, FRAMES)
    calibration, clips = mel_like(16, MELS, FRAMES, 1), mel_like(100, MELS, FRAMES, 2)
    last = [part for part in module.modules() if isinstance(part, nn.Linear)][-1]
    with torch.no_grad():
        last.bias -= torch.from_numpy(in_torch(module, calibration).mean(0))
    np.savez(folder / "weights.npz", **{name: value.numpy() for name, value in module.state_dict().items()})
    np.savez(folder / "features.npz", calibration=calibration, clips=clips, logits=in_torch(module, clips))


def _start(folder: Path) -> tuple[Any, Any]:
    """The torch module and the (16, n_mels, frames, 1) calibration features."""
    import numpy as np
    import torch

    from tinyasc.models import build

    module = build("sepconv_ca", n_classes=CLASSES, n_mels=MELS)
    weights = np.load(folder / "weights.npz")
    module.load_state_dict({name: torch.from_numpy(weights[name]) for name in weights.files})
    return module.eval(), np.load(folder / "features.npz")["calibration"]


def convert_theirs(folder: Path, module: Any, calibration: Any) -> None:
    """litert-torch to a float file; ai-edge-quantizer's static recipe, int8 throughout, to theirs.tflite."""
    import litert_torch
    import torch
    from ai_edge_quantizer import quantizer, recipe

    floats = str(folder / "theirs-float.tflite")
    litert_torch.convert(module, (torch.zeros(1, 1, MELS, FRAMES),)).export(floats)
    quantize = quantizer.Quantizer(floats, recipe.static_wi8_ai8())
    clips = [{"args_0": clip.transpose(2, 0, 1)[None]} for clip in calibration]
    ranges = quantize.calibrate({"serving_default": clips})
    quantize.quantize(ranges).export_model(str(folder / "theirs.tflite"), overwrite=True)


def convert_ours(folder: Path, module: Any, calibration: Any, *, least_squares: bool = False) -> None:
    """Captured, lowered, calibrated, quantised and written to ours.tflite, as `tinyasc compress` does it.

    The input's batch norm moves into the front end's per-band normalisation, which is kept beside the file.
    """
    import numpy as np

    from tinyasc_export.calibration import least_squares_ranges
    from tinyasc_export.capture import capture
    from tinyasc_export.lower import cast, lower
    from tinyasc_export.quantize import calibrate, quantize_int8
    from tinyasc_export.tflite import to_tflite

    lowered, scale, offset = lower(capture(module.double(), (1, 1, MELS, FRAMES)))
    graph = cast(lowered, "float32")
    features = (calibration * scale[:, None, None] + offset[:, None, None]).astype(np.float32)
    ranges = calibrate(graph, features)
    if least_squares:
        ranges = least_squares_ranges(graph, features, ranges)
    name = "ours-least-squares" if least_squares else "ours"
    (folder / f"{name}.tflite").write_bytes(to_tflite(quantize_int8(graph, ranges)))
    np.savez(folder / "ours-normalisation.npz", scale=scale, offset=offset)


def convert(folder: Path, side: str) -> None:
    """Converts twice in this process and prints, as JSON, the seconds of imports and of each conversion.

    Each as [wall, processor]: the second does not grow when the machine has other work.
    """
    start = _clocks()
    if side == "theirs":
        import ai_edge_quantizer.quantizer  # noqa: F401
        import litert_torch  # noqa: F401
    else:
        import tinyasc_export.capture
        import tinyasc_export.tflite  # noqa: F401
    module, calibration = _start(folder)
    start_up, seconds = _since(start), []
    for _ in range(2):
        fresh = copy.deepcopy(module)
        start = _clocks()
        if side == "theirs":
            convert_theirs(folder, fresh, calibration)
        else:
            convert_ours(folder, fresh, calibration, least_squares=side == "ours-least-squares")
        seconds.append(_since(start))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    print(json.dumps({"start_up": start_up, "first": seconds[0], "again": seconds[1], "peak_bytes": peak}))


def _clocks() -> tuple[float, float]:
    return time.perf_counter(), time.process_time()


def _since(start: tuple[float, float]) -> list[float]:
    return [now - then for now, then in zip(_clocks(), start, strict=True)]


def measure(folder: Path, repeats: str = "5") -> None:
    """Lets the sides convert in turn; "process" is a whole process from start to end with one conversion in it."""
    times: dict[str, list[dict[str, Any]]] = {"theirs": [], "ours": [], "ours-least-squares": []}
    path = os.pathsep.join([str(ROOT), str(ROOT / "export"), os.environ.get("PYTHONPATH", "")])
    for _ in range(int(repeats)):
        for side, rows in times.items():
            python = folder / side.partition("-")[0] / "bin" / "python"
            start, before = time.perf_counter(), resource.getrusage(resource.RUSAGE_CHILDREN)
            child = subprocess.run(
                [python, __file__, "convert", folder, side],
                env={**os.environ, "PYTHONPATH": path},
                capture_output=True,
                text=True,
            )
            if child.returncode:
                sys.exit(f"{side} failed:\n{child.stderr}")
            wall, after = time.perf_counter() - start, resource.getrusage(resource.RUSAGE_CHILDREN)
            processor = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
            row = json.loads(child.stdout.splitlines()[-1])
            rows.append({"process": [wall - row["again"][0], processor - row["again"][1]], **row})
            print(side, rows[-1], flush=True)
        (folder / "times.json").write_text(json.dumps(times, indent=1))


def table(folder: Path) -> None:
    """Prints Markdown: what is installed, how long it takes, and what the files are."""
    import numpy as np
    from tflite_facts import contents, logits, micro_arena

    for side in PACKAGES:
        report = json.loads((folder / f"{side}-install.json").read_text())
        print(f"{side}: " + ", ".join(f"{what} {size:,} bytes" for what, size in report["bytes"].items()), end="")
        print(f"; {len(report['packages'])} packages with torch's; {report['seconds']:.0f} s after torch")
    times = json.loads((folder / "times.json").read_text())
    given, moved = np.load(folder / "features.npz"), np.load(folder / "ours-normalisation.npz")
    clips, expected = given["clips"][..., 0], given["logits"]
    columns: dict[str, dict[str, str]] = {}
    for side, rows in times.items():
        phases = ("process", "start_up", "first", "again")
        wall, processor = ({p: statistics.median(row[p][i] for row in rows) for p in phases} for i in (0, 1))
        seconds = {p: f"{wall[p]:.2f} ({processor[p]:.2f})" for p in phases}
        peak = statistics.median(row["peak_bytes"] for row in rows)
        data = (folder / f"{side}.tflite").read_bytes()
        ours = side != "theirs"
        x = clips * moved["scale"][:, None] + moved["offset"][:, None] if ours else clips
        y, file, arena = logits(data, x), contents(data), micro_arena(data)
        noise = 10 * np.log10((expected**2).sum() / ((y - expected) ** 2).sum())
        agree, classes = int((y.argmax(1) == expected.argmax(1)).sum()), len(set(expected.argmax(1)))
        floats = ", ".join(sorted(file.float_operators)) or "none"
        columns[side] = {
            f"a fresh process with one conversion, s wall (processor), median of {len(rows)}": seconds["process"],
            "of it imports and weights": seconds["start_up"],
            "of it the conversion": seconds["first"],
            "the conversion again in the same process": seconds["again"],
            "peak memory of the process, MB": f"{peak / 1e6:.0f}",
            "int8 file, bytes": f"{file.file_bytes:,}",
            "of it tensor names": f"{file.name_bytes:,}",
            "of it scales, zero points, ranges": f"{file.quantization_bytes:,}",
            "operators": f"{file.operators.total()}",
            "that touch float32": f"{file.float_operators.total()} ({floats})",
            "TRANSPOSE": f"{file.operators['TRANSPOSE']}",
            "QUANTIZE": f"{file.operators['QUANTIZE']}",
            "TensorFlow Lite Micro's arena, bytes": f"{arena['total']:,}",
            "of it activations": f"{arena['head']:,}",
            f"top-1 as torch in float32, of {len(clips)} ({classes} classes)": f"{agree}",
            "SQNR of the logits, dB": f"{noise:.1f}",
        }
    print("\n| | " + " | ".join(columns) + " |\n" + "|---" * (len(columns) + 1) + "|")
    for row in columns["theirs"] | columns["ours"]:
        print(f"| {row} | " + " | ".join(column[row] for column in columns.values()) + " |")


def main(arguments: list[str]) -> None:
    commands = {"install": install, "prepare": prepare, "convert": convert, "measure": measure, "table": table}
    if len(arguments) < 2 or arguments[0] not in commands:
        sys.exit(__doc__)
    folder = Path(arguments[1]).resolve()
    folder.mkdir(parents=True, exist_ok=True)
    commands[arguments[0]](folder, *arguments[2:])


if __name__ == "__main__":
    main(sys.argv[1:])
