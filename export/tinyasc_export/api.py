"""What a user's own script needs of this package, in one place, loaded when it is first asked for.

`from tinyasc_export.api import count, plan` needs numpy alone; `capture` and `to_module` load torch, `to_tflite` and
`to_onnx` their file format. docs/how-to/your-own-network.md uses every step in order.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tinyasc_export.bundle import Bundle
    from tinyasc_export.c99 import to_c
    from tinyasc_export.calibration import activation_ranges
    from tinyasc_export.capture import capture
    from tinyasc_export.count import count, per_op
    from tinyasc_export.drift import drift, quantize_input
    from tinyasc_export.errors import CaptureError
    from tinyasc_export.graph import Graph
    from tinyasc_export.graphfile import load_graph, save_graph
    from tinyasc_export.lower import cast, lower
    from tinyasc_export.memory import plan
    from tinyasc_export.onnx import to_onnx
    from tinyasc_export.qat import to_module
    from tinyasc_export.quantize import calibrate, quantize_int8, quantize_int16x8
    from tinyasc_export.reference import run
    from tinyasc_export.tflite import to_tflite

# The package itself cannot offer these names: `capture`, `count` and `lower` are modules there.
_MODULES = {
    "bundle": ("Bundle",),
    "c99": ("to_c",),
    "calibration": ("activation_ranges",),
    "capture": ("capture",),
    "count": ("count", "per_op"),
    "drift": ("drift", "quantize_input"),
    "errors": ("CaptureError",),
    "graph": ("Graph",),
    "graphfile": ("load_graph", "save_graph"),
    "lower": ("cast", "lower"),
    "memory": ("plan",),
    "onnx": ("to_onnx",),
    "qat": ("to_module",),
    "quantize": ("calibrate", "quantize_int8", "quantize_int16x8"),
    "reference": ("run",),
    "tflite": ("to_tflite",),
}
_MODULE_OF = {name: module for module, names in _MODULES.items() for name in names}

__all__ = [
    "Bundle",
    "CaptureError",
    "Graph",
    "activation_ranges",
    "calibrate",
    "capture",
    "cast",
    "count",
    "drift",
    "load_graph",
    "lower",
    "per_op",
    "plan",
    "quantize_input",
    "quantize_int8",
    "quantize_int16x8",
    "run",
    "save_graph",
    "to_c",
    "to_module",
    "to_onnx",
    "to_tflite",
]


def __getattr__(name: str) -> Any:
    if name not in _MODULE_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"tinyasc_export.{_MODULE_OF[name]}"), name)
