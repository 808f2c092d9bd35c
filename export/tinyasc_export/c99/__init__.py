"""Portable C99 from an integer graph, bit for bit the numpy reference (`writer.to_c`)."""

from tinyasc_export.c99.writer import CSource, Step, to_c

__all__ = ["CSource", "Step", "to_c"]
