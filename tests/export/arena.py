"""Runs a graph inside one byte buffer, every activation where a plan puts it: the proof of the plan."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from tinyasc_export import reference_float, reference_int8, rounding
from tinyasc_export.graph import Graph, Op
from tinyasc_export.memory import Plan


def run_in_arena(graph: Graph, plan: Plan, x: np.ndarray) -> np.ndarray:
    """The graph's output, read out of the arena at the end. Operators that a plan calls views are not run."""
    arena = np.full(plan.peak, 0xA5, np.uint8)

    def at(name: str) -> np.ndarray:
        t = graph.tensors[name]
        raw = arena[plan.offsets[name] : plan.offsets[name] + plan.sizes[name]]
        assert raw.nbytes == t.nbytes
        return raw.view(t.dtype).reshape(t.shape)

    at(graph.input)[:] = x
    for op in graph.ops:
        if op.output in plan.views:
            continue
        inputs = [at(n) if graph.tensors[n].data is None else graph.tensors[n].data for n in op.inputs]
        if op.output in plan.raster:
            _pool_in_order(graph, op, inputs[0], at(op.output))
        elif op.output in plan.in_place:
            _rows_in_order(graph, op, inputs, at(op.output))
        else:
            at(op.output)[:] = _compute(graph, op, inputs)
    return at(graph.output).copy()


def _compute(graph: Graph, op: Op, inputs: list[np.ndarray]) -> np.ndarray:
    if graph.tensors[graph.input].dtype != "int8":
        y = reference_float.KERNELS[op.kind](op, inputs)
        return np.maximum(y, 0) if op.attrs.get("activation") == "relu" else y
    tensors = [graph.tensors[name] for name in [*op.inputs, op.output]]
    y = reference_int8.KERNELS[op.kind](op, tensors, [np.asarray(i, np.int64) for i in inputs], rounding.scale)
    low = reference_int8.zero(tensors[-1]) if op.attrs.get("activation") == "relu" else -128
    return np.clip(y, low, 127).astype(np.int8)


def _rows_in_order(graph: Graph, op: Op, inputs: list[np.ndarray], y: np.ndarray) -> None:
    """An element-wise operator row by row, each written before the next is read."""
    for i in range(y.shape[1]):
        rows = [a[:, i : i + 1] if a.ndim == y.ndim and a.shape[1] == y.shape[1] else a for a in inputs]
        y[:, i : i + 1] = _compute(graph, op, rows)


def _pool_in_order(graph: Graph, op: Op, x: np.ndarray, y: np.ndarray) -> None:
    """A pool element by element, each written before the next is read."""
    (kh, kw), (sh, sw) = op.attrs["kernel"], op.attrs["stride"]
    alone = replace(op, attrs=op.attrs | {"stride": (1, 1)})
    step = 1 if y.size < 4096 else y.shape[3]  # large maps a position at a time, so that the test ends today
    for i in range(y.shape[1]):
        for j in range(y.shape[2]):
            for c in range(0, y.shape[3], step):
                window = x[:, i * sh : i * sh + kh, j * sw : j * sw + kw, c : c + step]
                y[:, i : i + 1, j : j + 1, c : c + step] = _compute(graph, alone, [window])
