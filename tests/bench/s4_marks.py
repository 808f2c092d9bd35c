"""Holds the int8 S4 student at 64 mels x 44 frames against its marks: bytes of file and arena. Exit code 1 for a miss.

    PYTHONPATH=.:export python tests/bench/s4_marks.py

The student is that of tests/export/students.py: default width, ten classes, random weights. The file is bare: the card
that `tinyasc compress` puts into it (labels, front end, scores) is not counted.
"""

from __future__ import annotations

import sys
from pathlib import Path

from tflite_facts import micro_arena

from tinyasc_export.count import parameter_bytes
from tinyasc_export.memory import plan
from tinyasc_export.tflite import to_tflite

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "export"))
from students import s4

FILE_MARK = 112 * 1000
ARENA_MARK = 190 * 1000


def main() -> None:
    _, graph, _ = s4(64, 44)
    data = to_tflite(graph)
    planned = plan(graph).peak
    print(f"parameters: {parameter_bytes(graph):,} bytes")
    print(f"file: {len(data):,} bytes (mark {FILE_MARK:,})")
    print(f"planned arena, pools over their input: {planned:,} bytes (mark {ARENA_MARK:,})")
    print(f"planned arena, pools beside their input: {plan(graph, pools_in_place=False).peak:,} bytes")
    micro = micro_arena(data)
    print(f"TensorFlow Lite Micro's own arena: {micro['total']:,} bytes, {micro['head']:,} of them activations")
    if len(data) > FILE_MARK or planned > ARENA_MARK:
        sys.exit("a mark is missed")


if __name__ == "__main__":
    main()
