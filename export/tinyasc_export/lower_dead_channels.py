"""Exact rewrite: channels whose values say nothing are cut out of the graph.

A channel says nothing where every convolution or linear layer that reads it could do without: it holds one known value
at every position (its weights are all zero, so it is its bias through its activation), which goes into the reader's
bias; or the reader's weights for it are all zero. A value other than zero cannot pass zero padding, where the reader
would see two values. Channels that operators tie together (both operands of a sum, a gate and its map, the parts of a
concatenation) go together or stay together. Where an operator mixes channels by itself (a mean over channels, the
graph's output) they stay.
"""

from __future__ import annotations

import numpy as np

from tinyasc_export.graph import Graph, Op
from tinyasc_export.reference_float import KERNELS
from tinyasc_export.rewriting import data_of

DENSE = ("conv2d", "fully_connected")
POINTWISE = ("relu", "sigmoid", "hardswish", "rsqrt")
BINARY = ("add", "mul", "maximum")
SAME_CHANNELS = (*POINTWISE, "depthwise_conv2d", "max_pool", "average_pool", "pad")

Values = dict[str, np.ndarray]
# An input's name, and which of its channels is which of the output's; None and None where they are mixed.
Tie = tuple[str, np.ndarray | None, np.ndarray | None]


def remove_dead_channels(graph: Graph) -> bool:
    """Cuts every channel that no layer needs; each tensor keeps at least one."""
    values = constant_channels(graph)
    spare = {id(op): _spare_inputs(graph, op, values) for op in graph.ops if op.kind in DENSE}
    if not any(np.any(channels) for channels in spare.values()):
        return False
    dead = _dead(graph, spare)
    if not any(np.any(channels) for channels in dead.values()):
        return False
    keep = {name: ~channels for name, channels in dead.items()}
    for op in graph.ops:
        _cut(graph, op, keep, values)
    for name, channels in keep.items():
        t = graph.tensors[name]
        t.shape = (*t.shape[:-1], int(channels.sum()))
    return True


def constant_channels(graph: Graph) -> Values:
    """For every activation its channels' values where they are one value at every position and for every input.

    Returns:
        (channels,) float64 by tensor name; NaN where a channel varies, or may.
    """
    values: Values = {graph.input: np.full(_channels(graph, graph.input), np.nan)}
    for op in graph.ops:
        with np.errstate(all="ignore"):
            result = _constant(graph, op, values)
        if op.attrs.get("activation") == "relu":
            result = np.maximum(result, 0)
        values[op.output] = np.where(np.isfinite(result), result, np.nan)
    return values


def _constant(graph: Graph, op: Op, values: Values) -> np.ndarray:
    n = _channels(graph, op.output)
    unknown = np.full(n, np.nan)
    if op.kind in DENSE:
        weight = data_of(graph, op.inputs[1])
        return np.where(weight.reshape(n, -1).any(axis=1), np.nan, _bias(graph, op, n))
    operands = [_operand(graph, name, values) for name in op.inputs]
    x = operands[0]
    if op.kind == "depthwise_conv2d":
        weight = data_of(graph, op.inputs[1]).astype(np.float64).reshape(-1, n)
        through = np.where(x == 0, 0.0, np.nan) if any(op.attrs["padding"]) else x * weight.sum(axis=0)
        return np.where(weight.any(axis=0), through, 0.0) + _bias(graph, op, n)
    if op.kind in POINTWISE:
        return KERNELS[op.kind](op, [x])
    if op.kind in ("max_pool", "average_pool"):  # their padding is left out, not read as zeros
        return x
    if op.kind == "pad":
        return np.where(x == 0, 0.0, np.nan) if any(op.attrs["padding"]) else x
    if op.kind == "mean":
        return unknown if _last_axis(graph, op) in op.attrs["axes"] else x
    if op.kind == "mul":
        return np.where((operands[0] == 0) | (operands[1] == 0), 0.0, operands[0] * operands[1])
    if op.kind in BINARY:
        return KERNELS[op.kind](op, operands)
    if op.kind == "concat":
        if op.attrs["axis"] == _last_axis(graph, op):
            return np.concatenate(operands)
        return np.where(np.all([part == x for part in operands], axis=0), x, np.nan)
    if op.kind == "slice":
        return x[op.attrs["begin"][-1] :][:n]
    if op.kind == "reshape":
        return np.tile(x, n // len(x)) if n % len(x) == 0 else unknown
    return unknown


def _operand(graph: Graph, name: str, values: Values) -> np.ndarray:
    if name in values:
        return values[name]
    data = np.atleast_1d(data_of(graph, name)).astype(np.float64)
    rows = data.reshape(-1, data.shape[-1])
    return np.where(np.all(rows == rows[:1], axis=0), rows[0], np.nan)


def _bias(graph: Graph, op: Op, n: int) -> np.ndarray:
    return data_of(graph, op.inputs[2]).astype(np.float64) if len(op.inputs) == 3 else np.zeros(n)


def _channels(graph: Graph, name: str) -> int:
    return graph.tensors[name].shape[-1]


def _last_axis(graph: Graph, op: Op) -> int:
    return len(graph.tensors[op.inputs[0]].shape) - 1


def _spare_inputs(graph: Graph, op: Op, values: Values) -> np.ndarray:
    """Which input channels a dense layer could do without."""
    weight, x = data_of(graph, op.inputs[1]), values[op.inputs[0]]
    foldable = x == 0 if any(op.attrs.get("padding", ())) else ~np.isnan(x)
    return foldable | ~weight.reshape(-1, weight.shape[-1]).any(axis=0)


def _dead(graph: Graph, spare: dict[int, np.ndarray]) -> dict[str, np.ndarray]:
    """For every activation, which channels go."""
    first: dict[str, int] = {}
    total = 0
    for name in (graph.input, *(op.output for op in graph.ops)):
        first[name] = total
        total += _channels(graph, name)
    parent = np.arange(total)

    def root(i: int) -> int:
        while parent[i] != i:
            parent[i] = parent[parent[i]]
            i = int(parent[i])
        return i

    kept = np.zeros(total, bool)

    def keep(name: str, channels: np.ndarray | bool = True) -> None:
        kept[first[name] : first[name] + _channels(graph, name)] |= channels

    keep(graph.input)
    keep(graph.output)
    for op in graph.ops:
        if op.kind in DENSE:
            keep(op.inputs[0], ~spare[id(op)])
            continue
        for name, inside, outside in _ties(graph, op):
            if name not in first:
                continue
            if inside is None or outside is None:
                keep(name)
                keep(op.output)
                continue
            for i, o in zip(inside + first[name], outside + first[op.output], strict=True):
                parent[root(int(i))] = root(int(o))
    roots = np.array([root(i) for i in range(total)])
    while True:
        needed = np.zeros(total, bool)
        needed[roots[kept]] = True
        dead = {name: ~needed[roots[start : start + _channels(graph, name)]] for name, start in first.items()}
        # A tensor without channels is none: where all could go, the first stays with all that is tied to it.
        empty = next((name for name, channels in dead.items() if channels.all()), None)
        if empty is None:
            return dead
        kept[first[empty]] = True


def _ties(graph: Graph, op: Op) -> list[Tie]:
    """Which channels of an operator's inputs are which of its output; None for an operator that mixes them."""
    n = _channels(graph, op.output)
    every = np.arange(n)
    mixed: list[Tie] = [(name, None, None) for name in op.inputs]
    if op.kind in SAME_CHANNELS:
        return [(op.inputs[0], every, every)]
    if op.kind == "mean":
        return mixed if _last_axis(graph, op) in op.attrs["axes"] else [(op.inputs[0], every, every)]
    if op.kind in BINARY:
        # One channel that meets all of the other operand's has nothing to lose.
        return [(name, every, every) for name in op.inputs if _channels(graph, name) == n]
    if op.kind == "concat" and not any(graph.tensors[name].constant for name in op.inputs):
        if op.attrs["axis"] != _last_axis(graph, op):
            return [(name, every, every) for name in op.inputs]
        ends = np.cumsum([_channels(graph, name) for name in op.inputs])
        parts = np.split(every, ends[:-1])
        return [(name, np.arange(len(part)), part) for name, part in zip(op.inputs, parts, strict=True)]
    if op.kind == "slice":
        return [(op.inputs[0], op.attrs["begin"][-1] + every, every)]
    if op.kind == "reshape" and n % (channels := _channels(graph, op.inputs[0])) == 0:
        return [(op.inputs[0], every % channels, every)]
    return mixed


def _cut(graph: Graph, op: Op, keep: dict[str, np.ndarray], values: Values) -> None:
    """Leaves an operator the channels that are kept."""
    out = keep[op.output]
    if op.kind in DENSE:
        _cut_dense(graph, op, keep[op.inputs[0]], out, values[op.inputs[0]])
    elif op.kind == "depthwise_conv2d" and not out.all():
        op.inputs = [op.inputs[0], *(_picked(graph, name, out) for name in op.inputs[1:])]
    elif op.kind in BINARY and not out.all():
        whole = [graph.tensors[n].constant and graph.tensors[n].shape[-1:] == (len(out),) for n in op.inputs]
        op.inputs = [_picked(graph, n, out) if cut else n for n, cut in zip(op.inputs, whole, strict=True)]
    elif op.kind == "slice":
        begin, size = op.attrs["begin"], op.attrs["size"]
        before = int(keep[op.inputs[0]][: begin[-1]].sum())
        op.attrs = {"begin": (*begin[:-1], before), "size": (*size[:-1], int(out.sum()))}
    elif op.kind == "reshape":
        op.attrs = {"shape": (*op.attrs["shape"][:-1], int(out.sum()))}


def _cut_dense(graph: Graph, op: Op, inside: np.ndarray, out: np.ndarray, x: np.ndarray) -> None:
    if inside.all() and out.all():
        return
    weight = data_of(graph, op.inputs[1])
    bias = data_of(graph, op.inputs[2]) if len(op.inputs) == 3 else None
    gone = np.where(inside | np.isnan(x), 0.0, x)
    if gone.any():
        added = (weight.reshape(len(out), -1, len(inside)).sum(axis=1) @ gone).astype(weight.dtype)
        bias = added if bias is None else bias + added
    op.inputs = [op.inputs[0], graph.add_constant("w", np.ascontiguousarray(weight[out][..., inside]))]
    if bias is not None:
        op.inputs.append(graph.add_constant("b", bias[out]))


def _picked(graph: Graph, name: str, channels: np.ndarray) -> str:
    return graph.add_constant(name[0], np.ascontiguousarray(data_of(graph, name)[..., channels]))
