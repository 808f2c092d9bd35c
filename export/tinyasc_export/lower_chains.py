"""Exact rewrite: two dense layers with nothing but linear operators between them become one, where that costs less.

A mean and an average pool take the same share of every channel, so a product over channels may go before them.
"""

from __future__ import annotations

import math

import numpy as np

from tinyasc_export.graph import Graph, Op
from tinyasc_export.rewriting import data_of, only, replace

DENSE = ("conv2d", "fully_connected")


def merge_dense_chain(graph: Graph) -> bool:
    """Multiplies a layer into the one before it: fewer parameters, and not more multiply-accumulates."""
    for first in graph.ops:
        if first.kind not in DENSE or first.attrs["activation"] != "none":
            continue
        between, second = _chain(graph, first)
        if second is None:
            continue
        averaged = any(op.kind != "reshape" for op in between)
        if _is_pointwise(graph, second) and not (averaged and second.attrs["activation"] != "none"):
            merged = _after(graph, first, second)
            if _cheaper(graph, first, second, merged[0], at=first):
                _put_first(graph, first, between, second, merged)
                return True
        elif second.kind == "conv2d" and not between and _is_pointwise(graph, first):
            merged = _before(graph, first, second)
            if merged is not None and _cheaper(graph, first, second, merged[0], at=second):
                second.inputs = [
                    first.inputs[0],
                    *(graph.add_constant(n, v) for n, v in zip("wb", merged, strict=True)),
                ]
                graph.ops.remove(first)
                return True
    return False


def _chain(graph: Graph, first: Op) -> tuple[list[Op], Op | None]:
    """The dense layer that alone reads what `first` writes, and the linear operators on the way to it."""
    between: list[Op] = []
    at = first
    while True:
        readers = graph.consumers(at.output)
        if len(readers) != 1 or not only(graph, at, readers[0]) or readers[0].inputs.count(at.output) != 1:
            return between, None
        at = readers[0]
        if at.kind in DENSE:
            return between, at
        shape = graph.tensors[at.inputs[0]].shape
        keeps_channels = (
            at.kind == "average_pool"
            or (at.kind == "mean" and len(shape) - 1 not in at.attrs["axes"])
            or (at.kind == "reshape" and at.attrs["shape"][-1] == shape[-1])
        )
        if not keeps_channels:
            return between, None
        between.append(at)


def _is_pointwise(graph: Graph, op: Op) -> bool:
    """Whether a layer computes every position from that position alone."""
    if op.kind == "fully_connected":
        return True
    plain = op.attrs["stride"] == (1, 1) and not any(op.attrs["padding"])
    return plain and data_of(graph, op.inputs[1]).shape[1:3] == (1, 1)


def _bias(graph: Graph, op: Op) -> np.ndarray:
    weight = data_of(graph, op.inputs[1])
    return data_of(graph, op.inputs[2]) if len(op.inputs) == 3 else np.zeros(len(weight), weight.dtype)


def _after(graph: Graph, first: Op, second: Op) -> tuple[np.ndarray, np.ndarray]:
    """Weight and bias of `first` followed by a product over its channels."""
    weight = data_of(graph, first.inputs[1])
    product = data_of(graph, second.inputs[1]).reshape(-1, len(weight))
    merged = (product @ weight.reshape(len(weight), -1)).reshape(-1, *weight.shape[1:])
    return merged, product @ _bias(graph, first) + _bias(graph, second)


def _before(graph: Graph, first: Op, second: Op) -> tuple[np.ndarray, np.ndarray] | None:
    """Weight and bias of a convolution whose input is a product over channels; None where padding hides its bias."""
    weight, bias = data_of(graph, second.inputs[1]), _bias(graph, first)
    if any(second.attrs["padding"]) and bias.any():
        return None
    merged = weight @ data_of(graph, first.inputs[1]).reshape(len(bias), -1)
    return merged, weight.sum(axis=(1, 2)) @ bias + _bias(graph, second)


def _cheaper(graph: Graph, first: Op, second: Op, merged: np.ndarray, at: Op) -> bool:
    """Whether one layer of weight `merged`, computed where `at` is, costs less than both."""
    weights = {id(op): data_of(graph, op.inputs[1]) for op in (first, second)}

    def macs(op: Op, weight: np.ndarray) -> int:
        return math.prod(graph.tensors[op.output].shape[:-1]) * weight.size

    # Lowering gives every layer a bias in the end.
    before = sum(w.size + len(w) for w in weights.values())
    return merged.size + len(merged) < before and macs(at, merged) <= sum(
        macs(op, weights[id(op)]) for op in (first, second)
    )


def _put_first(graph: Graph, first: Op, between: list[Op], second: Op, merged: tuple[np.ndarray, np.ndarray]) -> None:
    channels = len(merged[0])
    first.inputs = [first.inputs[0], *(graph.add_constant(n, v) for n, v in zip("wb", merged, strict=True))]
    first.attrs = first.attrs | {"activation": second.attrs["activation"]}
    for op in (first, *between):
        t = graph.tensors[op.output]
        t.shape = (*t.shape[:-1], channels)
        if op.kind == "reshape":
            op.attrs = {"shape": t.shape}
    graph.ops.remove(second)
    replace(graph, second.output, (first, *between)[-1].output)
