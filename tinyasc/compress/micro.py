"""TensorFlow Lite Micro's interpreter on integer .tflite files, in a process of its own.

The wheel is native code that ends the whole process where a check of its own fails, and it prints its arena to standard
error, so it runs beside the command: `python -m tinyasc.compress.micro` reads a model and its inputs from standard
input and writes the answers to standard output. Nothing but numpy and the wheel is loaded there.
"""

from __future__ import annotations

import importlib.util
import io
import platform
import re
import subprocess
import sys
from dataclasses import dataclass

import numpy as np

from tinyasc_export.errors import TinyascError

NAME = "TensorFlow Lite Micro"
DISTRIBUTION = "tflite-micro"
# Far more than any student needs: what it used is measured.
_ARENA_BYTES = 1 << 26
_SECONDS = 1800
_TOTAL = re.compile(r"Arena allocation total (\d+) bytes")
_PARTS = re.compile(r"Arena allocation (head|tail) (\d+) bytes")


@dataclass(frozen=True)
class MicroRun:
    """What the interpreter gave.

    Args:
        outputs: (clips, K) integers.
        arena: bytes of its arena: "total" of "head", which holds activations, and "tail", its own records.
    """

    outputs: np.ndarray
    arena: dict[str, int]


def absent() -> str | None:
    """Why the interpreter cannot run here; None where it can."""
    if importlib.util.find_spec("tflite_micro") is not None:
        return None
    if platform.system() == "Linux" and platform.machine() == "x86_64":
        return "not installed"
    return "not available on this platform"


def run_micro(model: bytes, inputs: np.ndarray) -> MicroRun:
    """Runs a model on a batch of inputs, one after another.

    Args:
        model: a .tflite file of integer input and output.
        inputs: (clips, H, W, C) in the integers of the model's input.

    Raises:
        TinyascError: the interpreter refuses the model, crashes, or does not end.
    """
    buffer = io.BytesIO()
    np.savez(buffer, model=np.frombuffer(model, np.uint8), inputs=inputs)
    # -P keeps the user's folder off the module path.
    command = [sys.executable, "-P", "-m", "tinyasc.compress.micro"]
    try:
        done = subprocess.run(command, input=buffer.getvalue(), capture_output=True, timeout=_SECONDS)
    except subprocess.TimeoutExpired:
        raise TinyascError(f"{NAME} did not end within {_SECONDS} s") from None
    said = done.stderr.decode(errors="replace")
    if done.returncode:
        lines = [line for line in said.splitlines() if line.strip()]
        raise TinyascError(f"{NAME} ended with code {done.returncode}: {lines[-1].strip() if lines else 'no message'}")
    total = _TOTAL.search(said)
    if total is None:
        raise TinyascError(f"{NAME} does not say how large its arena is; its version is another than was tested")
    parts = {name: int(size) for name, size in _PARTS.findall(said)}
    return MicroRun(np.load(io.BytesIO(done.stdout), allow_pickle=False), {"total": int(total.group(1)), **parts})


def main() -> None:
    """The process beside the command."""
    from tflite_micro import runtime

    sent = np.load(io.BytesIO(sys.stdin.buffer.read()), allow_pickle=False)
    interpreter = runtime.Interpreter.from_bytes(sent["model"].tobytes(), arena_size=_ARENA_BYTES)
    outputs = []
    for one in sent["inputs"]:
        interpreter.set_input(one[None], 0)
        interpreter.invoke()
        outputs.append(interpreter.get_output(0)[0].copy())
    interpreter.print_allocations()
    buffer = io.BytesIO()
    np.save(buffer, np.stack(outputs), allow_pickle=False)
    sys.stdout.buffer.write(buffer.getvalue())


if __name__ == "__main__":
    main()
