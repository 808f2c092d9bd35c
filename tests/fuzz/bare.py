"""What LiteRT alone makes of damaged .tflite files that nothing checked.

python tests/fuzz/bare.py rules         # every broken rule of tests/export/test_tflite_check.py
python tests/fuzz/bare.py FIRST COUNT   # the .tflite files among these cases, and whether the checks refuse them

Each file is run in a process of its own; printed is how that ended.
"""

import os
import signal
import sys
from collections import Counter

import numpy as np
from cases import model_case
from mutate import unsealed

from tinyasc_export.errors import ModelFileError
from tinyasc_export.tflite_check import check_tflite

SECONDS = 20


def ending(data: bytes) -> str:
    """How a process ended that gave the file to LiteRT."""
    child = os.fork()
    if child == 0:
        signal.alarm(SECONDS)
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, 1)
        os.dup2(nowhere, 2)
        os._exit(_run(data))
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    if code < 0:
        name = signal.Signals(-code).name
        return f"no end in {SECONDS} s" if name == "SIGALRM" else f"crash by {name}"
    return ("an answer", "an exception")[code]


def _run(data: bytes) -> int:
    from ai_edge_litert.interpreter import Interpreter

    try:
        interpreter = Interpreter(model_content=data, num_threads=1)
        interpreter.allocate_tensors()
        for details in interpreter.get_input_details():
            interpreter.set_tensor(details["index"], np.zeros(details["shape"], details["dtype"]))
        interpreter.invoke()
        interpreter.get_tensor(interpreter.get_output_details()[0]["index"])
    except Exception:
        return 1
    return 0


def rules() -> None:
    """How each file ends that breaks one rule, all of which the checks refuse."""
    from test_tflite_check import BROKEN, changed

    for name, (change, _) in BROKEN.items():
        print(f"{name}: {ending(changed(change))}", flush=True)


def main(first: int, count: int) -> None:
    """Counts endings of the .tflite cases among these numbers."""
    endings: Counter[str] = Counter()
    for number in range(first, first + count):
        how, data = model_case(number)
        if ".tflite" not in how:
            continue
        data = unsealed(data)
        try:
            check_tflite(data, "m")
            checked = "passed the checks"
        except ModelFileError:
            checked = "refused"
        endings[f"{checked}: {ending(data)}"] += 1
    for name, times in sorted(endings.items()):
        print(f"{times:6d}  {name}")


if __name__ == "__main__":
    rules() if sys.argv[1] == "rules" else main(int(sys.argv[1]), int(sys.argv[2]))
