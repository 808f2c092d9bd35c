"""Texts from outside, such as names of files and classes, on a terminal."""

from __future__ import annotations


def printable(text: str) -> str:
    """A text with escapes for all that a terminal would obey, or not show; an end of line is one, too."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape", "backslashreplace").decode() for c in text)
