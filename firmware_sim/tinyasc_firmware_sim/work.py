"""What the C kernels have to do for a graph, counted without building it: the units that a table of costs prices.

Units follow the loops of the kernels (`tinyasc_export/c99/kernels`): what runs once per multiply-add, once per output,
once per row. The work follows from shapes and from taps that are not zero, so a float graph has the same as the integer
one that is made of it.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from tinyasc_export.c99.axes import broadcast, contiguous, kept_and_reduced, loops
from tinyasc_export.graph import Graph, Op
from tinyasc_export.memory import plan


@dataclass(frozen=True)
class Work:
    """The work of one call of a kernel.

    Args:
        kernel: the template's name in `tinyasc_export.c99.kernels`.
        units: how often each piece of its loops runs.
    """

    kernel: str
    units: Mapping[str, int]


def work(graph: Graph) -> tuple[tuple[Work, ...], ...]:
    """The kernel calls of every operator, in order; none for one that the memory plan makes a view.

    Args:
        graph: one clip at a time, float or quantised.

    Raises:
        InputError: a shape that no kernel walks.
    """
    views = plan(graph).views
    return tuple(() if op.output in views else tuple(_BUILDERS[op.kind](graph, op)) for op in graph.ops)


def total(works: tuple[tuple[Work, ...], ...]) -> Counter[tuple[str, str]]:
    """The sum over a graph: by kernel and unit."""
    found: Counter[tuple[str, str]] = Counter()
    for part in works:
        for call in part:
            found.update({(call.kernel, unit): n for unit, n in call.units.items()})
    return found


def _shapes(graph: Graph, op: Op) -> tuple[tuple[int, ...], tuple[int, ...]]:
    return graph.tensors[op.inputs[0]].shape, graph.tensors[op.output].shape


def _product(inputs: int, outputs: int, positions: int) -> dict[str, int]:
    """Two outputs at two positions at once, four inputs per turn of the loop; what is left over goes one by one."""
    blocks = -(-outputs // 2) * -(-positions // 2)
    return {
        "macs_by_four": 4 * blocks * (inputs & ~3),
        "macs_one_by_one": 4 * blocks * (inputs & 3),
        "outputs": outputs * positions,
    }


def _taps(weights: np.ndarray) -> int:
    """Taps of a window (kernel_h, kernel_w, ...) whose weights are not all zero; at least one."""
    return max(1, int(weights.reshape(*weights.shape[:2], -1).any(axis=2).sum()))


def _conv2d(graph: Graph, op: Op) -> list[Work]:
    w = graph.tensors[op.inputs[1]]
    _, y = _shapes(graph, op)
    assert w.data is not None
    positions = math.prod(y[:-1])
    if w.shape[1:3] == (1, 1) and op.attrs["stride"] == (1, 1) and not any(op.attrs["padding"]):
        return [Work("conv_1x1", _product(w.shape[3], w.shape[0], positions))]
    taps = _taps(w.data.transpose(1, 2, 0, 3))
    inputs = taps * w.shape[3]
    gathered = {"windows": positions * taps, "gathered": positions * inputs}
    return [Work("conv_2d", _product(inputs, w.shape[0], positions) | gathered)]


def _fully_connected(graph: Graph, op: Op) -> list[Work]:
    outputs, inputs = graph.tensors[op.inputs[1]].shape
    return [Work("conv_1x1", _product(inputs, outputs, math.prod(_shapes(graph, op)[1][:-1])))]


def _depthwise(graph: Graph, op: Op) -> list[Work]:
    w = graph.tensors[op.inputs[1]].data
    _, y = _shapes(graph, op)
    assert w is not None
    taps, positions = _taps(w[0]), math.prod(y[:-1])
    outputs = positions * y[-1]
    return [Work("depthwise", {"macs": outputs * taps, "outputs": outputs, "windows": positions * taps})]


def _pool(graph: Graph, op: Op) -> list[Work]:
    _, y = _shapes(graph, op)
    size, positions, channels = math.prod(op.attrs["kernel"]), math.prod(y[:-1]), y[-1]
    four = channels & ~3
    units = {
        "read_by_four": positions * size * four,
        "read_one_by_one": positions * size * (channels - four),
        "outputs": positions * channels,
        "windows": positions,
    }
    return [Work(op.kind, units)]


def _mean(graph: Graph, op: Op) -> list[Work]:
    x, _ = _shapes(graph, op)
    axes = tuple(i % len(x) for i in op.attrs["axes"])
    outer, rows, inner, columns = kept_and_reduced(x, axes, op.kind)
    four = inner & ~3 if columns == 1 else 0
    values = outer * rows * columns
    units = {"read_by_four": values * four, "read_one_by_one": values * (inner - four), "outputs": outer * inner}
    return [Work("mean", units)]


def _elementwise(graph: Graph, op: Op) -> list[Work]:
    _, y = _shapes(graph, op)
    strides = [broadcast(graph.tensors[name].shape, y) for name in op.inputs]
    walk = loops(y, strides, op.kind)
    return [Work(op.kind, {"outputs": math.prod(y), "rows": math.prod(walk.sizes)})]


def _copied(shape: tuple[int, ...], strides: list[tuple[int, ...]]) -> Work:
    return Work("copy", {"values": math.prod(shape), "rows": math.prod(loops(shape, strides, "copy").sizes)})


def _concat(graph: Graph, op: Op) -> list[Work]:
    _, y = _shapes(graph, op)
    parts = [graph.tensors[name].shape for name in op.inputs]
    return [_copied(part, [contiguous(part), contiguous(y)]) for part in parts]


def _slice(graph: Graph, op: Op) -> list[Work]:
    x, y = _shapes(graph, op)
    return [_copied(y, [contiguous(x), contiguous(y)])]


def _reshape(graph: Graph, op: Op) -> list[Work]:
    _, y = _shapes(graph, op)
    return [_copied(y, [contiguous(y)] * 2)]


def _pad(graph: Graph, op: Op) -> list[Work]:
    x, y = _shapes(graph, op)
    return [Work("fill", {"values": math.prod(y)}), _copied(x, [contiguous(x), contiguous(y)])]


def _lookup(graph: Graph, op: Op) -> list[Work]:
    """At int8 a table of its own; at int16x8 a kernel of its own: `latency.kernel_name` knows which."""
    return [Work(op.kind, {"values": math.prod(_shapes(graph, op)[1])})]


_BUILDERS: dict[str, Callable[[Graph, Op], list[Work]]] = {
    "conv2d": _conv2d,
    "depthwise_conv2d": _depthwise,
    "fully_connected": _fully_connected,
    "add": _elementwise,
    "mul": _elementwise,
    "maximum": _elementwise,
    "mean": _mean,
    "max_pool": _pool,
    "average_pool": _pool,
    "pad": _pad,
    "concat": _concat,
    "slice": _slice,
    "reshape": _reshape,
    "relu": _lookup,
    "sigmoid": _lookup,
    "hardswish": _lookup,
    "rsqrt": _lookup,
}
