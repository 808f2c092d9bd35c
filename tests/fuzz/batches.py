"""Runs cases in child processes, so that one that dies is seen, named, and does not end the rest."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
SECONDS = 20.0  # for one case; a machine under load is slow
MEGABYTES = 1000


def run_cases(
    what: str, first: int, count: int, folder: Path, *, size: int = 1000, seconds: float = SECONDS, mb: int = MEGABYTES
) -> tuple[list[Any], Counter[str]]:
    """Problems and exit codes of `count` cases from number `first` on.

    Args:
        what: "sound" or "model"; "harm" for the tests of this.
        first: number of the first case.
        count: of cases.
        folder: to work in.
        size: cases of one process.
        seconds: that a case may take.
        mb: that a case may add to the process.
    """
    problems: list[Any] = []
    codes: Counter[str] = Counter()
    paths = [str(ROOT), str(ROOT / "export"), str(ROOT / "firmware_sim")]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(paths)}
    number, end = first, first + count
    while number < end:
        many = min(size, end - number)
        limits = [str(number), str(many), str(folder), str(seconds), str(mb)]
        child = [sys.executable, str(Path(__file__).parent / "child.py"), what, *limits]
        done = subprocess.run(child, capture_output=True, env=environment, timeout=SECONDS * (many + 3))
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


def main(what: str, first: int, count: int) -> None:
    """Runs cases and prints what they break: `python tests/fuzz/batches.py model 0 5000`."""
    total: Counter[str] = Counter()
    broken = 0
    for start in range(first, first + count, 500):
        with tempfile.TemporaryDirectory() as place:
            found, codes = run_cases(what, start, min(500, first + count - start), Path(place))
        total.update(codes)
        broken += len(found)
        for problem in found:
            print(problem["case"], problem.get("how"), problem["problem"], sep="\n  ")
        print(f"{start} on: {sum(total.values())} cases ended, {broken} problems", flush=True)
    print(json.dumps(dict(sorted(total.items())), indent=1))


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))
