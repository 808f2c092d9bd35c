"""Runs cases in child processes, so that one that dies is seen, named, and does not end the rest."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
SECONDS = 20.0  # for one case; a machine under load is slow
MEGABYTES = 1000


def run_cases(what: str, first: int, count: int, folder: Path, *, size: int = 1000) -> tuple[list[Any], Counter[str]]:
    """Problems and exit codes of `count` cases from number `first` on.

    Args:
        what: "sound" or "model".
        first: number of the first case.
        count: of cases.
        folder: to work in.
        size: cases of one process.
    """
    problems: list[Any] = []
    codes: Counter[str] = Counter()
    paths = [str(ROOT), str(ROOT / "export"), str(ROOT / "firmware_sim")]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(paths)}
    number, end = first, first + count
    while number < end:
        many = min(size, end - number)
        limits = [str(number), str(many), str(folder), str(SECONDS), str(MEGABYTES)]
        child = [sys.executable, str(Path(__file__).parent / "child.py"), what, *limits]
        done = subprocess.run(child, capture_output=True, env=environment, timeout=SECONDS * many)
        for line in done.stdout.splitlines():
            record = json.loads(line)
            codes.update(record.get("codes", {}))
            if "problem" in record:
                problems.append(record)
        if done.returncode == 0:
            number += many
            continue
        died = int((folder / "case").read_text()) if (folder / "case").exists() else number
        tail = done.stderr[-1500:].decode("utf-8", "replace")
        problems.append({"case": died, "problem": f"the process ended with {done.returncode}: {tail}"})
        number = died + 1
    return problems, codes


if __name__ == "__main__":
    import tempfile

    with tempfile.TemporaryDirectory() as place:
        found, counted = run_cases(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), Path(place))
    for problem in found:
        print(problem.get("case"), problem.get("how"), problem["problem"], sep="\n  ")
    print(json.dumps(dict(counted), indent=1))
    print(len(found), "problems")
