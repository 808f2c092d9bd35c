"""One clip's answer for people."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

from tinyasc.infer.runner import Prediction
from tinyasc.printable import printable

LONGEST_BAR = 40
EIGHTHS = " ▏▎▍▌▋▊▉█"


def as_text(path: Path, prediction: Prediction, top: int, milliseconds: float) -> str:
    """One clip's answer for people: a line per class with its share and a bar that is full at 100 %."""
    best = [(printable(label), share) for label, share in prediction.top(top)]
    name_width = max(len(label) for label, _ in best)
    columns = shutil.get_terminal_size().columns
    width = max(1, min(LONGEST_BAR, columns - name_width - 13))
    lines = [printable(str(path))]
    if prediction.windows > 1 or prediction.planned > 1:
        lines[0] += f"  ({_cost(prediction, milliseconds)})"
    for label, share in best:
        lines.append(f"  {label:<{name_width}}  {100 * share:5.1f} %  {bar(share, width)}".rstrip())
    return "\n".join(lines)


def _cost(prediction: Prediction, milliseconds: float) -> str:
    """How many copies and windows an answer took, and what they cost: the network alone, and the whole time."""
    few = prediction.copies < prediction.planned
    copies = f"{prediction.copies} of {prediction.planned} copies, " if few else f"{prediction.copies} copies, "
    parts = copies if prediction.planned > 1 else ""
    parts += f"{prediction.aggregate} of {prediction.windows} windows, "
    if prediction.macs is not None:
        parts += f"{_counted(prediction.macs)}, "
    return f"{parts}{milliseconds:.0f} ms"


def _counted(macs: int) -> str:
    """Multiply-accumulates for people: whole, in millions or in thousands of millions."""
    if macs < 100_000:
        return f"{macs:,} MAC"
    return f"{macs / 1e6:,.1f} MMAC" if macs < 10**9 else f"{macs / 1e9:,.1f} GMAC"


def bar(share: float, width: int) -> str:
    """A bar of `share` of `width` columns in eighths of a block; in '#' where the terminal has no blocks."""
    try:
        EIGHTHS.encode(sys.stdout.encoding or "ascii")
    except UnicodeEncodeError:
        return "#" * round(share * width)
    whole, rest = divmod(round(8 * share * width), 8)
    return EIGHTHS[8] * whole + EIGHTHS[rest].strip()
