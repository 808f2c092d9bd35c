"""The nodes of an ONNX file, one function per operator of the deployed graph.

ONNX is channels first: feature maps (N, H, W, C) of the graph are (N, C, H, W) in the file, vectors stay as
they are. Constants are transposed when the file is written, so a Transpose is only left around a reshape that
depends on the order of the axes. `onnx_quantized` derives the writer of integer graphs from the one here.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from onnx import TensorProto, helper, numpy_helper

from tinyasc_export.errors import GraphError
from tinyasc_export.graph import Graph, Op

INPUT_NAME = "features"
OUTPUT_NAME = "logits"
# The newest pair that onnxruntime 1.18 runs, and the oldest whose QuantizeLinear knows 16 bits.
OPSET = 21
IR_VERSION = 10

_TO_NCHW = (0, 3, 1, 2)
_TO_NHWC = (0, 2, 3, 1)


class Writer:
    """Collects the nodes and initializers of one file in floating point.

    Args:
        graph: float32 throughout.
        half: store the constants in float16, each with a Cast to float32 behind it.
    """

    doc_string = ""

    def __init__(self, graph: Graph, *, half: bool = False) -> None:
        self.graph = graph
        self.half = half
        self.nodes: list[Any] = []
        self.initializers: dict[str, Any] = {}
        self._constants: dict[tuple[str, str], str] = {}
        self._node_names: set[str] = set()

    def model(self) -> Any:
        """The file's message."""
        for op in self.graph.ops:
            self._operator(op)
        model = helper.make_model(
            helper.make_graph(
                self.nodes,
                "tinyasc",
                [self._value_info(self.graph.input)],
                [self._value_info(self.graph.output)],
                list(self.initializers.values()),
            ),
            opset_imports=[helper.make_opsetid("", OPSET)],
            ir_version=IR_VERSION,
            producer_name="tinyasc",
        )
        if self.doc_string:
            model.doc_string = self.doc_string
        return model

    def rank(self, name: str) -> int:
        """Number of axes of a graph tensor."""
        return len(self.graph.tensors[name].shape)

    def value(self, name: str) -> str:
        """The name of an activation's real values in the file."""
        return {self.graph.output: OUTPUT_NAME, self.graph.input: INPUT_NAME}.get(name, name)

    def node(self, kind: str, inputs: Sequence[str], output: str, name: str, **attrs: Any) -> str:
        """Appends a node whose name no other has, and returns its output."""
        unique, i = name, 2
        while unique in self._node_names:
            unique, i = f"{name}_{i}", i + 1
        self._node_names.add(unique)
        self.nodes.append(helper.make_node(kind, list(inputs), [output], name=unique, **attrs))
        return output

    def constant(self, tensor: str, name: str, arrange: str) -> str:
        """The real values of a graph constant, its axes in ONNX's order.

        Args:
            tensor: the graph's name for it.
            name: the name wanted in the file, numbered if taken.
            arrange: "as is", "map" (NHWC to NCHW), "conv" (to out, in, kh, kw) or "depthwise" (to C, 1, kh,
                kw).
        """
        key = (tensor, arrange)
        if key not in self._constants:
            self._constants[key] = self.stored(tensor, name, arrange)
        return self._constants[key]

    def stored(self, tensor: str, name: str, arrange: str) -> str:
        """Writes a constant, and returns the name of its real values."""
        data = self.arranged(tensor, arrange)
        if not self.half:
            return self.initializer(data, name)
        with np.errstate(over="ignore"):
            halves = data.astype(np.float16)
        if not np.isfinite(halves).all():
            raise GraphError(f"{name}: {np.abs(data).max():.4g} does not fit float16; write the file in float32")
        kept = self.initializer(halves, name)
        return self.node("Cast", [kept], f"{kept}_real", f"{kept}.cast", to=TensorProto.FLOAT)

    def arranged(self, tensor: str, arrange: str) -> np.ndarray:
        """A constant's values with their axes in ONNX's order; see `constant`."""
        data = self.graph.tensors[tensor].data
        assert data is not None
        if arrange == "map":
            return data.reshape((1,) * (4 - data.ndim) + data.shape).transpose(_TO_NCHW)
        if arrange == "conv":
            return data.transpose(_TO_NCHW)
        return data.transpose(3, 0, 1, 2) if arrange == "depthwise" else data

    def initializer(self, data: np.ndarray, name: str) -> str:
        """Adds an initializer under `name`, numbered if taken, and returns its name."""
        unique, i = name, 2
        while unique in self.initializers:
            unique, i = f"{name}_{i}", i + 1
        self.initializers[unique] = numpy_helper.from_array(np.asarray(data, order="C"), unique)
        return unique

    def _value_info(self, name: str) -> Any:
        shape = self.graph.tensors[name].shape
        return helper.make_tensor_value_info(self.value(name), TensorProto.FLOAT, _nchw(shape))

    def _operator(self, op: Op) -> None:
        self.emit(op, op.module or op.kind, self.value(op.output))

    def emit(self, op: Op, name: str, output: str) -> None:
        """Appends an operator's nodes, its ReLU included, from real values to real values."""
        if op.attrs.get("activation") == "relu":
            self.node("Relu", [_EMIT[op.kind](self, op, name, f"{output}_linear")], output, f"{name}.relu")
        else:
            _EMIT[op.kind](self, op, name, output)


def _nchw(values: Sequence[int]) -> tuple[int, ...]:
    """A shape, or one number per axis, in ONNX's order of axes."""
    return tuple(values[i] for i in _TO_NCHW) if len(values) == 4 else tuple(values)


def axis_in_file(axis: int, rank: int) -> int:
    """The place of a graph axis in ONNX's order."""
    return _TO_NCHW.index(axis % rank) if rank == 4 else axis % rank


def _int64(values: Sequence[int]) -> np.ndarray:
    return np.asarray(values, np.int64)


# Each function below appends one operator's nodes and returns the name of their result, which is `output`.


def _conv(writer: Writer, op: Op, name: str, output: str) -> str:
    top, bottom, left, right = op.attrs["padding"]
    w = writer.graph.tensors[op.inputs[1]].shape
    depthwise = op.kind == "depthwise_conv2d"
    inputs = [
        writer.value(op.inputs[0]),
        writer.constant(op.inputs[1], f"{name}.weight", "depthwise" if depthwise else "conv"),
    ]
    inputs += [writer.constant(bias, f"{name}.bias", "as is") for bias in op.inputs[2:]]
    return writer.node(
        "Conv",
        inputs,
        output,
        name,
        kernel_shape=list(w[1:3]),
        strides=list(op.attrs["stride"]),
        dilations=list(op.attrs["dilation"]),
        pads=[top, left, bottom, right],
        group=w[3] if depthwise else 1,
    )


def _linear(writer: Writer, op: Op, name: str, output: str) -> str:
    inputs = [writer.value(op.inputs[0]), writer.constant(op.inputs[1], f"{name}.weight", "as is")]
    inputs += [writer.constant(bias, f"{name}.bias", "as is") for bias in op.inputs[2:]]
    return writer.node("Gemm", inputs, output, name, transB=1)


def _binary(writer: Writer, op: Op, name: str, output: str) -> str:
    kind = {"add": "Add", "mul": "Mul", "maximum": "Max"}[op.kind]
    return writer.node(kind, _joined(writer, op, name), output, name)


def _concat(writer: Writer, op: Op, name: str, output: str) -> str:
    axis = axis_in_file(op.attrs["axis"], writer.rank(op.output))
    return writer.node("Concat", _joined(writer, op, name), output, name, axis=axis)


def _joined(writer: Writer, op: Op, name: str) -> list[str]:
    """The inputs of an operator that joins tensors, all in the layout of its result."""
    rank = writer.rank(op.output)
    names = []
    for tensor in op.inputs:
        if writer.graph.tensors[tensor].constant:
            names.append(writer.constant(tensor, f"{name}.constant", "map" if rank == 4 else "as is"))
        elif writer.rank(tensor) == rank:
            names.append(writer.value(tensor))
        else:
            raise GraphError(
                f"{op.kind} (from {op.module or 'the graph'}): {writer.graph.tensors[tensor].shape} has not"
                f" the {rank} axes of the result; put a reshape before it"
            )
    return names


def _mean(writer: Writer, op: Op, name: str, output: str) -> str:
    rank = writer.rank(op.inputs[0])
    axes = writer.initializer(_int64(sorted(axis_in_file(a, rank) for a in op.attrs["axes"])), f"{name}.axes")
    return writer.node("ReduceMean", [writer.value(op.inputs[0]), axes], output, name, keepdims=1)


def _pool(writer: Writer, op: Op, name: str, output: str) -> str:
    top, bottom, left, right = op.attrs["padding"]
    kind, attrs = "MaxPool", {}
    if op.kind == "average_pool":
        kind, attrs = "AveragePool", {"count_include_pad": 0}
    return writer.node(
        kind,
        [writer.value(op.inputs[0])],
        output,
        name,
        kernel_shape=list(op.attrs["kernel"]),
        strides=list(op.attrs["stride"]),
        pads=[top, left, bottom, right],
        **attrs,
    )


def _pad(writer: Writer, op: Op, name: str, output: str) -> str:
    top, bottom, left, right = op.attrs["padding"]
    x = writer.value(op.inputs[0])
    if any(consumer.kind in ("max_pool", "average_pool") for consumer in writer.graph.consumers(op.output)):
        # onnxruntime moves a Pad into the pool behind it, where it no longer counts as zeros: MaxPool answers
        # wrongly then, or is refused (PadFusion, microsoft/onnxruntime#18136). It leaves joined zeros alone.
        x = _with_zeros(writer, op, x, 2, (top, bottom), f"{op.output}_rows", f"{name}.rows")
        return _with_zeros(writer, op, x, 3, (left, right), output, name)
    pads = writer.initializer(_int64([0, 0, top, left, 0, 0, bottom, right]), f"{name}.pads")
    return writer.node("Pad", [x, pads], output, name)


def _with_zeros(writer: Writer, op: Op, x: str, axis: int, amounts: tuple[int, int], output: str, name: str) -> str:
    """Joins zeros before and after `x` along axis 2 (rows) or 3 (columns), of which rows come first."""
    shape = list(_nchw(writer.graph.tensors[op.inputs[0]].shape))
    if axis == 3:
        shape[2] = _nchw(writer.graph.tensors[op.output].shape)[2]
    parts = []
    for amount in amounts:
        zeros = np.zeros((*shape[:axis], amount, *shape[axis + 1 :]), np.float32)
        parts.append(writer.initializer(zeros, f"{name}.zeros") if amount else None)
    joined = [part for part in (parts[0], x, parts[1]) if part is not None]
    return writer.node("Concat", joined, output, name, axis=axis)


def _slice(writer: Writer, op: Op, name: str, output: str) -> str:
    begin, size = _nchw(op.attrs["begin"]), _nchw(op.attrs["size"])
    starts = writer.initializer(_int64(begin), f"{name}.starts")
    ends = writer.initializer(_int64([b + n for b, n in zip(begin, size, strict=True)]), f"{name}.ends")
    return writer.node("Slice", [writer.value(op.inputs[0]), starts, ends], output, name)


def _reshape(writer: Writer, op: Op, name: str, output: str) -> str:
    before, after = writer.graph.tensors[op.inputs[0]].shape, writer.graph.tensors[op.output].shape
    x = writer.value(op.inputs[0])
    # In the graph a reshape keeps the order of the values. Where their order in the file is kept too, as when
    # only axes of length one move, a Reshape says it all; else the values go through the graph's layout.
    order = np.arange(np.prod(before, dtype=np.int64))
    direct = np.array_equal(_to_onnx_order(order.reshape(before)), _to_onnx_order(order.reshape(after)))
    if not direct and len(before) == 4:
        x = writer.node("Transpose", [x], f"{op.output}_nhwc", f"{name}.to_nhwc", perm=list(_TO_NHWC))
    back = not direct and len(after) == 4
    shape = writer.initializer(_int64(after if back else _nchw(after)), f"{name}.shape")
    if not back:
        return writer.node("Reshape", [x, shape], output, name)
    x = writer.node("Reshape", [x, shape], f"{op.output}_reshaped", name)
    return writer.node("Transpose", [x], output, f"{name}.to_nchw", perm=list(_TO_NCHW))


def _to_onnx_order(values: np.ndarray) -> np.ndarray:
    return (values.transpose(_TO_NCHW) if values.ndim == 4 else values).ravel()


def _unary(writer: Writer, op: Op, name: str, output: str) -> str:
    kind = {"relu": "Relu", "sigmoid": "Sigmoid", "hardswish": "HardSwish"}[op.kind]
    return writer.node(kind, [writer.value(op.inputs[0])], output, name)


def _rsqrt(writer: Writer, op: Op, name: str, output: str) -> str:
    root = writer.node("Sqrt", [writer.value(op.inputs[0])], f"{output}_root", f"{name}.sqrt")
    return writer.node("Reciprocal", [root], output, name)


_EMIT: dict[str, Callable[[Writer, Op, str, str], str]] = {
    "conv2d": _conv,
    "depthwise_conv2d": _conv,
    "fully_connected": _linear,
    "add": _binary,
    "mul": _binary,
    "maximum": _binary,
    "mean": _mean,
    "max_pool": _pool,
    "average_pool": _pool,
    "pad": _pad,
    "concat": _concat,
    "slice": _slice,
    "reshape": _reshape,
    "relu": _unary,
    "sigmoid": _unary,
    "hardswish": _unary,
    "rsqrt": _rsqrt,
}
