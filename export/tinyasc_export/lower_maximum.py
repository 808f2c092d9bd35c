"""Exact rewrites around max feature maps: halves become convolutions, batch norms beside them go into the weights.

An offset commutes with a maximum, and so does a factor that is not negative; a negative factor is split into its size,
which goes back through the maximum, and its sign, which goes forward into the weights of the next layer.
"""

from __future__ import annotations

import numpy as np

from tinyasc_export.graph import WEIGHTED, Graph, Op
from tinyasc_export.rewriting import activation_of, data_of, fold_into, only, per_channel, replace


def split_weights(graph: Graph) -> bool:
    """Cuts a dense layer that only slices over channels read into one layer per slice, and drops the slices."""
    for op in graph.ops:
        readers = graph.consumers(op.output)
        if op.kind not in ("conv2d", "fully_connected") or not readers or op.output == graph.output:
            continue
        shape = graph.tensors[op.output].shape
        parts = [(r.attrs["begin"][-1], r.attrs["size"][-1]) for r in readers if r.kind == "slice"]
        along_channels = all(r.kind == "slice" and r.attrs["size"][:-1] == shape[:-1] for r in readers)
        # Channels that two slices share would be computed twice.
        if not along_channels or sum(size for _, size in parts) > shape[-1]:
            continue
        constants = [data_of(graph, name) for name in op.inputs[1:]]
        for reader, (begin, size) in zip(readers, parts, strict=True):
            names = [
                graph.add_constant(stem, np.ascontiguousarray(values[begin : begin + size]))
                for stem, values in zip("wb", constants, strict=False)
            ]
            reader.kind, reader.inputs, reader.attrs = op.kind, [op.inputs[0], *names], dict(op.attrs)
            reader.module = op.module
        graph.ops.remove(op)
        return True
    return False


def fold_affine_back(graph: Graph) -> bool:
    """Folds a multiplication or addition per channel behind a maximum into both layers before it."""
    for op in graph.ops:
        values = per_channel(graph, op)
        if values is None:
            continue
        largest = graph.producer(activation_of(graph, op))
        if largest is None or largest.kind != "maximum" or not only(graph, largest, op):
            continue
        layers = [graph.producer(name) for name in largest.inputs]
        if not all(_foldable(graph, layer, largest) for layer in layers):
            continue
        if op.kind == "mul" and np.any(values < 0):
            if not _send_signs_forward(graph, op, values):
                continue
            values = np.abs(values)
        for layer in layers:
            assert layer is not None
            fold_into(graph, layer, op.kind, values)
            layer.attrs["activation"] = op.attrs["activation"]
        replace(graph, op.output, largest.output)
        graph.ops.remove(op)
        return True
    return False


def _foldable(graph: Graph, layer: Op | None, reader: Op) -> bool:
    return (
        layer is not None
        and layer.kind in WEIGHTED
        and layer.attrs["activation"] == "none"
        and only(graph, layer, reader)
        # One that broadcasts has fewer channels than the constant.
        and graph.tensors[layer.output].shape == graph.tensors[reader.output].shape
    )


def _send_signs_forward(graph: Graph, mul: Op, values: np.ndarray) -> bool:
    """Takes the signs of a factor past the addition after it into the layers behind, if nothing else reads it."""
    if mul.attrs["activation"] != "none":
        return False
    add: Op | None = None
    following = graph.consumers(mul.output)
    if len(following) == 1 and following[0].kind == "add" and following[0].attrs["activation"] == "none":
        add = following[0]
    layers = _layers_after(graph, (add or mul).output)
    offset = None if add is None else per_channel(graph, add)
    if layers is None or (add is not None and offset is None):
        return False
    signs = np.where(values < 0, -1.0, 1.0).astype(values.dtype)
    for layer in layers:
        _scale_input(graph, layer, signs)
    if add is not None and offset is not None:
        shape = [1] * (len(graph.tensors[add.output].shape) - 1)
        add.inputs = [mul.output, graph.add_constant("c", (offset * signs).reshape(*shape, -1))]
    return True


def fold_affine_forward(graph: Graph) -> bool:
    """Folds a multiplication per channel into the layers that read it, and an addition where they have no padding."""
    for op in graph.ops:
        values = per_channel(graph, op)
        if values is None or op.attrs["activation"] != "none":
            continue
        layers = _layers_after(graph, op.output)
        if layers is None:
            continue
        if op.kind == "mul":
            for layer in layers:
                _scale_input(graph, layer, values)
        elif all(not any(layer.attrs.get("padding", ())) for layer in layers):
            for layer in layers:
                weight = data_of(graph, layer.inputs[1])
                depthwise = layer.kind == "depthwise_conv2d"
                added = (weight * values).sum(axis=(0, 1, 2) if depthwise else tuple(range(1, weight.ndim)))
                before = data_of(graph, layer.inputs[2]) if len(layer.inputs) == 3 else 0
                layer.inputs = [*layer.inputs[:2], graph.add_constant("b", before + added)]
        else:
            continue
        replace(graph, op.output, activation_of(graph, op))
        graph.ops.remove(op)
        return True
    return False


def _scale_input(graph: Graph, layer: Op, values: np.ndarray) -> None:
    """Multiplies a layer's weights by one value per input channel, which is the last axis of every kind of weights."""
    weight = data_of(graph, layer.inputs[1]) * values
    layer.inputs = [layer.inputs[0], graph.add_constant("w", weight), *layer.inputs[2:]]


def _layers_after(graph: Graph, name: str) -> list[Op] | None:
    """The weighted operators that read a tensor, reshapes that keep its channels left out; None if others read it."""
    if name == graph.output:
        return None
    layers: list[Op] = []
    for reader in graph.consumers(name):
        if reader.kind in WEIGHTED and reader.inputs.count(name) == 1 and reader.inputs[0] == name:
            layers.append(reader)
        elif reader.kind == "reshape" and reader.attrs["shape"][-1] == graph.tensors[name].shape[-1]:
            further = _layers_after(graph, reader.output)
            if further is None:
                return None
            layers += further
        else:
            return None
    return layers or None
