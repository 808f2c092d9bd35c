"""One clip's answer for people."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

from tinyasc.infer.runner import Prediction

LONGEST_BAR = 40
EIGHTHS = " ▏▎▍▌▋▊▉█"


def as_text(path: Path, prediction: Prediction, top: int, milliseconds: float) -> str:
    """One clip's answer for people: a line per class with its share and a bar that is full at 100 %."""
    best = [(printable(label), share) for label, share in prediction.top(top)]
    name_width = max(len(label) for label, _ in best)
    columns = shutil.get_terminal_size().columns
    width = max(1, min(LONGEST_BAR, columns - name_width - 13))
    lines = [str(path)]
    if prediction.windows > 1:
        copies = f"{prediction.copies} copies, " if prediction.copies > 1 else ""
        lines[0] += f"  ({copies}mean of {prediction.windows} windows, {milliseconds:.0f} ms)"
    for label, share in best:
        lines.append(f"  {label:<{name_width}}  {100 * share:5.1f} %  {bar(share, width)}".rstrip())
    return "\n".join(lines)


def printable(text: str) -> str:
    """A text from a file with escapes for all that a terminal would obey, or not show."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape", "backslashreplace").decode() for c in text)


def bar(share: float, width: int) -> str:
    """A bar of `share` of `width` columns in eighths of a block; in '#' where the terminal has no blocks."""
    try:
        EIGHTHS.encode(sys.stdout.encoding or "ascii")
    except UnicodeEncodeError:
        return "#" * round(share * width)
    whole, rest = divmod(round(8 * share * width), 8)
    return EIGHTHS[8] * whole + EIGHTHS[rest].strip()
