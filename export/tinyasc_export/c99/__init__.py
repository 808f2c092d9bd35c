"""Portable C99 from an integer graph, bit for bit the numpy reference (`writer.to_c`)."""

from tinyasc_export.c99.folder import complete
from tinyasc_export.c99.frontend import CFrontEnd, front_end_to_c
from tinyasc_export.c99.stream import with_front_end
from tinyasc_export.c99.writer import CSource, Step, to_c

__all__ = ["CFrontEnd", "CSource", "Step", "complete", "front_end_to_c", "to_c", "with_front_end"]
