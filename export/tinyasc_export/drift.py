"""Drift of a quantised graph, tensor by tensor: signal-to-noise ratio and cosine against the float graph.

Both graphs run on the same clips, each on its own answers, so that a tensor's noise holds all that the operators before
it added. The first tensor whose ratio falls is where to look.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from tinyasc_export import reference
from tinyasc_export.errors import GraphError
from tinyasc_export.graph import Graph

SILENT = 1e-30


@dataclass(frozen=True)
class Drift:
    """One activation's line.

    Args:
        tensor: its name.
        kind: of the operator that writes it; "input" for the graph's input.
        module: that the operator came from.
        sqnr_db: 10 log10 of signal power over noise power, over all clips; infinite where nothing changed.
        cosine: of the two tensors, over all clips; 1 where both are zero.
    """

    tensor: str
    kind: str
    module: str
    sqnr_db: float
    cosine: float


def drift(float_graph: Graph, quantized: Graph, features: np.ndarray, *, batch_size: int = 8) -> list[Drift]:
    """The activations of a quantised graph against the float graph's, the worst ratio first.

    Args:
        float_graph: the graph that was quantised.
        quantized: with the same operators and tensor names.
        features: (clips, H, W, C) float32; each is rounded to the quantised input's steps.
        batch_size: clips at a time.

    Raises:
        GraphError: no clips, or graphs that do not belong together.
    """
    if len(features) == 0:
        raise GraphError("a drift report needs at least one clip")
    pairs = [(o.kind, o.output) for o in float_graph.ops], [(o.kind, o.output) for o in quantized.ops]
    if pairs[0] != pairs[1] or float_graph.input != quantized.input:
        raise GraphError("the float and the quantised graph are not of the same student")
    sums: dict[str, np.ndarray] = {}
    for start in range(0, len(features), batch_size):
        x = features[start : start + batch_size]
        exact = reference.run_all(float_graph, x)
        rounded = reference.run_all(quantized, quantize_input(quantized, x))
        for name, values in exact.items():
            a, b = values.astype(np.float64).ravel(), _real(quantized, name, rounded[name]).ravel()
            parts = np.array([a @ a, (a - b) @ (a - b), a @ b, b @ b])
            sums[name] = sums.get(name, np.zeros(4)) + parts
    about = {op.output: (op.kind, op.module) for op in quantized.ops} | {quantized.input: ("input", "")}
    rows = [Drift(name, *about[name], *_ratios(*sums[name])) for name in sums]
    return sorted(rows, key=lambda row: row.sqnr_db)


def quantize_input(graph: Graph, features: np.ndarray) -> np.ndarray:
    """Features in the integers of a quantised graph's input."""
    t = graph.tensors[graph.input]
    if t.scale is None or t.zero_point is None:
        raise GraphError(f"the graph's input is {t.dtype} without a scale")
    limits = np.iinfo(t.dtype)
    integers = np.rint(features.astype(np.float64) / t.scale.flat[0]) + t.zero_point.flat[0]
    return np.clip(integers, limits.min, limits.max).astype(t.dtype)


def _real(graph: Graph, name: str, values: np.ndarray) -> np.ndarray:
    t = graph.tensors[name]
    if t.scale is None or t.zero_point is None:
        raise GraphError(f"tensor {name} is {t.dtype} without a scale")
    return (values.astype(np.float64) - t.zero_point.flat[0]) * t.scale.flat[0]


def _ratios(signal: float, noise: float, product: float, power: float) -> tuple[float, float]:
    if noise <= SILENT:
        return float("inf"), 1.0
    if signal <= SILENT or power <= SILENT:
        return (-float("inf") if signal <= SILENT else 10 * float(np.log10(signal / noise))), 0.0
    return 10 * float(np.log10(signal / noise)), float(product / np.sqrt(signal * power))
