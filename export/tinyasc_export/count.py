"""Counts of a deployed graph: multiply-accumulates, parameters, bytes.

These are the project's own exact counts. What a year's competition rule or tool counts instead is a matter of
presets.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from tinyasc_export.graph import Graph, Op, Tensor

SCALE_BYTES = 4  # float32
ZERO_POINT_BYTES = 4  # int32; TFLite stores int64, of which no bit beyond the eighth is ever used


@dataclass(frozen=True)
class Counts:
    """What a graph costs.

    Args:
        macs: multiply-accumulates of one inference.
        macs_per_op: the same per operator, in the order of `graph.ops`.
        parameters: values in constant tensors.
        parameter_bytes: those values at their stored width; what `--budget` holds against its limit.
        quantization_bytes: scales and zero points of every quantised tensor.
        file_bytes: the written file, when there is one.
    """

    macs: int
    macs_per_op: tuple[int, ...]
    parameters: int
    parameter_bytes: int
    quantization_bytes: int
    file_bytes: int | None = None


def count(graph: Graph, file_bytes: int | None = None) -> Counts:
    """All counts of a graph at once.

    Args:
        graph: in floating point or quantised.
        file_bytes: length of the file that was written from it, if one was.
    """
    return Counts(
        macs=macs(graph),
        macs_per_op=tuple(macs_per_op(graph)),
        parameters=parameters(graph),
        parameter_bytes=parameter_bytes(graph),
        quantization_bytes=quantization_bytes(graph),
        file_bytes=file_bytes,
    )


def macs(graph: Graph) -> int:
    """Multiply-accumulates of one inference: convolutions and linear layers, as `macs_per_op` counts them."""
    return sum(macs_per_op(graph))


@dataclass(frozen=True)
class OpCost:
    """One operator's line of a profile.

    Args:
        module: the path of the module that it came from.
        kind: of the operator.
        output: its output's name.
        shape: of that output.
        macs: as `macs_per_op` counts them.
        parameters: values of its constants that no operator before it has read.
        parameter_bytes: those at their stored width.
    """

    module: str
    kind: str
    output: str
    shape: tuple[int, ...]
    macs: int
    parameters: int
    parameter_bytes: int


@dataclass(frozen=True)
class ModuleCost:
    """One module's line: the sums over its operators."""

    module: str
    operators: int
    macs: int
    parameters: int
    parameter_bytes: int


def per_op(graph: Graph) -> list[OpCost]:
    """Costs per operator, in the order in which they run; they add up to `count`'s totals."""
    seen: set[str] = set()
    rows = []
    for op, op_macs in zip(graph.ops, macs_per_op(graph), strict=True):
        new = [graph.tensors[n] for n in dict.fromkeys(op.inputs) if graph.tensors[n].constant and n not in seen]
        seen.update(t.name for t in new)
        values = sum(_values(t.shape) for t in new)
        shape = graph.tensors[op.output].shape
        rows.append(OpCost(op.module, op.kind, op.output, shape, op_macs, values, sum(t.nbytes for t in new)))
    return rows


def per_module(graph: Graph, depth: int | None = None) -> list[ModuleCost]:
    """Costs per module, in the order in which the modules first run.

    Args:
        graph: in floating point or quantised.
        depth: joins modules whose paths begin with the same so many names ("blocks.3.pointwise" at 2 is "blocks.3");
            None keeps whole paths.
    """
    sums: dict[str, ModuleCost] = {}
    for row in per_op(graph):
        name = row.module if depth is None else ".".join(row.module.split(".")[:depth])
        old = sums.get(name, ModuleCost(name, 0, 0, 0, 0))
        sums[name] = ModuleCost(
            name,
            old.operators + 1,
            old.macs + row.macs,
            old.parameters + row.parameters,
            old.parameter_bytes + row.parameter_bytes,
        )
    return list(sums.values())


def nonzero_parameters(graph: Graph) -> int:
    """Values in constant tensors that are not zero. A quantised value is zero where it stands for zero."""
    return sum(_nonzero(t) for t in graph.constants())


def nonzero_bytes(graph: Graph) -> int:
    """Bytes of the non-zero parameters at their stored width, as the rules of 2020 and 2021 count them."""
    return sum(_nonzero(t) * np.dtype(t.dtype).itemsize for t in graph.constants())


def _nonzero(t: Tensor) -> int:
    assert t.data is not None
    if t.zero_point is None or not np.any(t.zero_point):
        return int(np.count_nonzero(t.data))
    shape = [1] * t.data.ndim
    if t.axis is not None and t.zero_point.size > 1:
        shape[t.axis] = -1
    return int(np.count_nonzero(t.data != t.zero_point.reshape(shape)))


def macs_per_op(graph: Graph) -> list[int]:
    """Multiply-accumulates of each operator, zero for all but convolutions and linear layers.

    A window counts all its taps for every output, those on padding included (fvcore's convention, so that the
    two can be held against each other). Biases, activations, pooling and element-wise operators count
    nothing.
    """
    return [_op_macs(graph, op) for op in graph.ops]


def parameters(graph: Graph) -> int:
    """Values in constant tensors, each tensor once; scales and zero points are left out."""
    return sum(_values(t.shape) for t in graph.constants())


def parameter_bytes(graph: Graph) -> int:
    """Bytes of every constant tensor at its stored width: int8 weights 1 each, int32 biases 4, float32 4.

    The shapes, axes and paddings that some operators take are attributes here and count nothing, though a
    TFLite file stores them as small tensors; those are part of the file's bytes.
    """
    return sum(t.nbytes for t in graph.constants())


def quantization_bytes(graph: Graph) -> int:
    """Bytes of quantisation metadata, stored plainly: a float32 per scale and an int32 per zero point.

    Every quantised tensor counts, activations and biases too, per channel where it has one scale per channel.
    It is what a file without sharing would hold; the writers share equal vectors, and C derives the biases'
    scales.
    """
    total = 0
    for t in graph.tensors.values():
        if t.scale is not None:
            total += SCALE_BYTES * t.scale.size
        if t.zero_point is not None:
            total += ZERO_POINT_BYTES * t.zero_point.size
    return total


def _op_macs(graph: Graph, op: Op) -> int:
    if op.kind not in ("conv2d", "depthwise_conv2d", "fully_connected"):
        return 0
    outputs = _values(graph.tensors[op.output].shape)
    w = graph.tensors[op.inputs[1]].shape
    if op.kind == "conv2d":
        return outputs * w[1] * w[2] * w[3]
    if op.kind == "depthwise_conv2d":
        return outputs * w[1] * w[2]
    return outputs * w[1]


def _values(shape: tuple[int, ...]) -> int:
    return int(np.prod(shape, dtype=np.int64))
