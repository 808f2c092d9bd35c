"""What rewrites of a float graph have in common: reading constants, folding into weights, taking operators out."""

from __future__ import annotations

import numpy as np

from tinyasc_export.graph import Graph, Op


def data_of(graph: Graph, name: str) -> np.ndarray:
    """The values of a constant."""
    data = graph.tensors[name].data
    assert data is not None, f"{name} is no constant"
    return data


def constant_of(graph: Graph, op: Op) -> np.ndarray | None:
    """The constant operand of a two-input operator whose other operand is an activation of the output's shape."""
    for name, other in (op.inputs, op.inputs[::-1]):
        if graph.tensors[name].constant and graph.tensors[other].shape == graph.tensors[op.output].shape:
            return data_of(graph, name)
    return None


def per_channel(graph: Graph, op: Op) -> np.ndarray | None:
    """The constant of a multiplication or addition as one value per channel; None if it varies over anything else."""
    if op.kind not in ("mul", "add"):
        return None
    constant, channels = constant_of(graph, op), graph.tensors[op.output].shape[-1]
    if constant is None or constant.size not in (1, constant.shape[-1] if constant.ndim else 1):
        return None
    return np.broadcast_to(constant.reshape(-1), (channels,))


def activation_of(graph: Graph, op: Op) -> str:
    """The name of the operand that is no constant."""
    return next(name for name in op.inputs if not graph.tensors[name].constant)


def only(graph: Graph, op: Op, reader: Op) -> bool:
    """Whether nothing but `reader` reads what `op` writes."""
    return op.output != graph.output and all(r is reader for r in graph.consumers(op.output))


def fold_into(graph: Graph, conv: Op, kind: str, values: np.ndarray) -> None:
    """Folds a multiplication or addition of one value per output channel into a layer that has no activation."""
    weight = data_of(graph, conv.inputs[1])
    bias = data_of(graph, conv.inputs[2]) if len(conv.inputs) == 3 else np.zeros(len(values), weight.dtype)
    if kind == "mul":
        along = values if conv.kind == "depthwise_conv2d" else values.reshape(-1, *[1] * (weight.ndim - 1))
        weight, bias = weight * along, bias * values
    else:
        bias = bias + values
    conv.inputs = [conv.inputs[0], graph.add_constant("w", weight), graph.add_constant("b", bias)]


def replace(graph: Graph, old: str, new: str) -> None:
    """Lets everything that read tensor `old` read `new`."""
    for op in graph.ops:
        op.inputs = [new if name == old else name for name in op.inputs]
    if graph.output == old:
        graph.output = new


def absorb(graph: Graph, op: Op, into_place_of: Op) -> None:
    """Lets `op` write the output of `into_place_of`, stand in its place, and removes the latter."""
    graph.ops.remove(op)
    graph.ops[graph.ops.index(into_place_of)] = op
    op.output = into_place_of.output
