"""Exact rewrites of the float graph, done once, before quantisation.

Each rewrite keeps the function and makes the graph smaller: batch norms go into the weights beside them, the input's
norm into the front end, parallel depthwise branches into one, a one-channel 1x1 into the depthwise after it, ReLUs
into the operator before them, the halves of a max feature map into layers of their own (`lower_maximum`), two dense
layers with nothing but linear operators between them into one (`lower_chains`); channels that say nothing are cut
(`lower_dead_channels`). Padding that no deployed kernel knows becomes a pad operator, so that its memory is counted.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable

import numpy as np

from tinyasc_export.errors import GraphError
from tinyasc_export.graph import WEIGHTED, Graph, Op, Tensor, padding_mode, window_size
from tinyasc_export.lower_chains import merge_dense_chain
from tinyasc_export.lower_dead_channels import remove_dead_channels
from tinyasc_export.lower_maximum import fold_affine_back, fold_affine_forward, split_weights
from tinyasc_export.rewriting import absorb, activation_of, constant_of, data_of, fold_into, only, per_channel, replace

Rewrite = Callable[[Graph], bool]

MOST_MERGED_TAPS = 2  # times those of both branches


def lower(graph: Graph) -> tuple[Graph, np.ndarray, np.ndarray]:
    """Applies every rewrite until none finds anything more.

    Args:
        graph: as captured, float; left as it is.

    Returns:
        The lowered graph, and the input's normalisation that was taken out of it: scale and offset per frequency band,
        each (bands,) float64; the graph now wants features * scale + offset.
    """
    graph = copy.deepcopy(graph)
    scale, offset = take_input_normalization(graph)
    passes: tuple[Rewrite, ...] = (
        split_weights,
        fold_affine,
        fold_affine_back,
        fold_affine_forward,
        merge_pointwise,
        merge_parallel_depthwise,
        fuse_relu,
        merge_dense_chain,
        remove_dead_channels,
    )
    while any(rewrite(graph) for rewrite in passes):
        pass
    make_padding_explicit(graph)
    give_biases(graph)
    graph.prune()
    graph.validate()
    return graph, scale, offset


def cast(graph: Graph, dtype: str) -> Graph:
    """A copy of a float graph in another float type."""
    graph = copy.deepcopy(graph)
    for t in graph.tensors.values():
        t.dtype = dtype
        t.data = None if t.data is None else t.data.astype(dtype)
    return graph


def store_float16(graph: Graph) -> Graph:
    """A copy of a float32 graph whose constants are stored as float16; it computes in float32 as before.

    Raises:
        GraphError: a constant that float16 cannot hold.
    """
    graph = copy.deepcopy(graph)
    for t in graph.constants():
        assert t.data is not None
        if not np.all(np.abs(t.data) <= np.finfo(np.float16).max):
            raise GraphError(
                f"tensor {t.name} holds {np.abs(t.data).max():.3g}, float16 ends at 65504; store it as fp32"
            )
        t.dtype, t.data = "float16", t.data.astype(np.float16)
    return graph


def take_input_normalization(graph: Graph) -> tuple[np.ndarray, np.ndarray]:
    """Removes multiplications and additions per frequency band at the input; returns them as scale and offset."""
    bands = graph.tensors[graph.input].shape[1]
    scale, offset = np.ones(bands), np.zeros(bands)
    while len(readers := graph.consumers(graph.input)) == 1 and readers[0].kind in ("mul", "add"):
        op = readers[0]
        constant = constant_of(graph, op)
        if constant is None or op.attrs["activation"] != "none" or constant.size != constant.shape[1]:
            break
        values = np.broadcast_to(constant.reshape(-1), (bands,)).astype(np.float64)
        if op.kind == "mul":
            scale, offset = scale * values, offset * values
        else:
            offset = offset + values
        replace(graph, op.output, graph.input)
        graph.ops.remove(op)
    return scale, offset


def fold_affine(graph: Graph) -> bool:
    """Folds a multiplication or addition per output channel into the weights and bias of the operator before it."""
    for op in graph.ops:
        values = per_channel(graph, op)
        before = None if values is None else graph.producer(activation_of(graph, op))
        if values is None or before is None or before.kind not in WEIGHTED or not only(graph, before, op):
            continue
        if before.attrs["activation"] != "none":
            continue
        fold_into(graph, before, op.kind, values)
        before.attrs["activation"] = op.attrs["activation"]
        absorb(graph, before, op)
        return True
    return False


def merge_pointwise(graph: Graph) -> bool:
    """Merges a one-channel 1x1 convolution into every depthwise after it: one convolution from one channel."""
    for op in graph.ops:
        if (
            op.kind != "conv2d"
            or data_of(graph, op.inputs[1]).shape[1:] != (1, 1, 1)
            or op.attrs["activation"] != "none"
        ):
            continue
        readers = graph.consumers(op.output)
        plain = op.attrs["stride"] == (1, 1) and op.attrs["padding"] == (0, 0, 0, 0) and len(op.inputs) == 2
        # A bias would be cut off at the depthwise's zero padding, so only bias-free ones are merged.
        if not plain or not readers or any(r.kind != "depthwise_conv2d" for r in readers) or op.output == graph.output:
            continue
        pointwise = data_of(graph, op.inputs[1]).reshape(-1)
        for reader in readers:
            depthwise = data_of(graph, reader.inputs[1])
            weight = (depthwise * pointwise).transpose(3, 1, 2, 0)
            reader.kind = "conv2d"
            reader.inputs = [
                op.inputs[0],
                graph.add_constant("w", np.ascontiguousarray(weight)),
                *reader.inputs[2:],
            ]
        graph.ops.remove(op)
        return True
    return False


def merge_parallel_depthwise(graph: Graph) -> bool:
    """Merges the sum of two convolutions of one input (both depthwise, or both dense) into one with all their taps.

    Only where that takes few taps more: S4's dilated 3x1 and 1x3 become one 3x3, a 9x1 and a 1x9 stay two.
    """
    for op in graph.ops:
        if op.kind != "add":
            continue
        a, b = (graph.producer(name) for name in op.inputs)
        if a is None or b is None or a is b or a.kind != b.kind or a.kind not in ("conv2d", "depthwise_conv2d"):
            continue
        same = a.inputs[0] == b.inputs[0] and a.attrs["stride"] == b.attrs["stride"]
        linear = a.attrs["activation"] == "none" == b.attrs["activation"]
        # A sum that broadcasts one branch over the other is no convolution.
        same = same and graph.tensors[a.output].shape == graph.tensors[b.output].shape
        if not (same and linear and only(graph, a, op) and only(graph, b, op)):
            continue
        rows, cols = (_lattice(_positions(graph, a, axis) + _positions(graph, b, axis)) for axis in (0, 1))
        taps = sum(math.prod(data_of(graph, conv.inputs[1]).shape[1:3]) for conv in (a, b))
        # A long cross would become a square of mostly zeros.
        if len(rows) * len(cols) > MOST_MERGED_TAPS * taps:
            continue
        weight = _spread(graph, a, rows, cols) + _spread(graph, b, rows, cols)
        biases = [data_of(graph, conv.inputs[2]) for conv in (a, b) if len(conv.inputs) == 3]
        x, out = graph.tensors[a.inputs[0]].shape, graph.tensors[a.output].shape
        bottom = _trailing(out[1], a.attrs["stride"][0], rows, x[1])
        right = _trailing(out[2], a.attrs["stride"][1], cols, x[2])
        # Only where both kernels' windows start at or before the map's edge does one padding serve both.
        if rows[0] > 0 or cols[0] > 0 or bottom < 0 or right < 0:
            continue
        a.attrs = {
            "stride": a.attrs["stride"],
            "padding": (-rows[0], bottom, -cols[0], right),
            "dilation": (_step(rows), _step(cols)),
            "activation": op.attrs["activation"],
        }
        a.inputs = [a.inputs[0], graph.add_constant("w", weight)]
        if biases:
            a.inputs.append(graph.add_constant("b", np.sum(biases, axis=0)))
        # The merged operator stands where the sum stood.
        graph.ops.remove(b)
        absorb(graph, a, op)
        return True
    return False


def fuse_relu(graph: Graph) -> bool:
    """Lets the operator before a ReLU apply it."""
    for op in graph.ops:
        if op.kind != "relu":
            continue
        before = graph.producer(op.inputs[0])
        if before is not None and before.attrs.get("activation") in ("none", "relu") and only(graph, before, op):
            before.attrs["activation"] = "relu"
            absorb(graph, before, op)
            return True
    return False


def make_padding_explicit(graph: Graph) -> None:
    """Puts a pad operator before every window whose padding is neither VALID nor SAME in TFLite's sense."""
    for op in list(graph.ops):
        if op.kind not in ("conv2d", "depthwise_conv2d"):
            continue
        x, kernel = graph.tensors[op.inputs[0]], graph.tensors[op.inputs[1]].shape[1:3]
        attrs = op.attrs
        if padding_mode(x.shape[1:3], kernel, attrs["stride"], attrs["padding"], attrs["dilation"]) is not None:
            continue
        top, bottom, left, right = op.attrs["padding"]
        name = graph.fresh("t")
        padded = (x.shape[0], x.shape[1] + top + bottom, x.shape[2] + left + right, x.shape[3])
        graph.tensors[name] = Tensor(name, padded, x.dtype)
        pad = Op("pad", [x.name], name, {"padding": op.attrs["padding"]}, op.module)
        graph.ops.insert(graph.ops.index(op), pad)
        op.inputs[0] = name
        op.attrs["padding"] = (0, 0, 0, 0)


def give_biases(graph: Graph) -> None:
    """Gives every weighted operator a bias, which LiteRT wants, so that zeros that are stored are counted."""
    for op in graph.ops:
        if op.kind in WEIGHTED and len(op.inputs) == 2:
            channels = graph.tensors[op.output].shape[-1]
            op.inputs.append(graph.add_constant("b", np.zeros(channels, data_of(graph, op.inputs[1]).dtype)))


def _positions(graph: Graph, conv: Op, axis: int) -> list[int]:
    """Where a kernel's taps lie, relative to its output position times stride."""
    n = data_of(graph, conv.inputs[1]).shape[1 + axis]
    return [i * conv.attrs["dilation"][axis] - conv.attrs["padding"][2 * axis] for i in range(n)]


def _lattice(positions: list[int]) -> list[int]:
    """The coarsest evenly spaced positions that hold all of `positions`."""
    low, high = min(positions), max(positions)
    step = math.gcd(*(p - low for p in positions)) or 1
    return list(range(low, high + 1, step))


def _step(positions: list[int]) -> int:
    return positions[1] - positions[0] if len(positions) > 1 else 1


def _spread(graph: Graph, conv: Op, rows: list[int], cols: list[int]) -> np.ndarray:
    """The kernel of `conv` on the taps `rows` x `cols`, zero elsewhere."""
    weight = data_of(graph, conv.inputs[1])
    out = np.zeros((weight.shape[0], len(rows), len(cols), weight.shape[3]), weight.dtype)
    at_rows = [rows.index(p) for p in _positions(graph, conv, 0)]
    at_cols = [cols.index(p) for p in _positions(graph, conv, 1)]
    out[:, np.array(at_rows)[:, None], np.array(at_cols)[None, :]] = weight
    return out


def _trailing(out: int, stride: int, taps: list[int], size: int) -> int:
    """Padding behind the map with which the merged kernel gives exactly `out` positions; negative if there is none."""
    pad = max(0, (out - 1) * stride + taps[-1] + 1 - size)
    return pad if window_size(size - taps[0] + pad, len(taps), stride, _step(taps)) == out else -1
