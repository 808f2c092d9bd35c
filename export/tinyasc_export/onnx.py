"""Writes a deployed graph as an ONNX file in float32.

ONNX is channels first: feature maps (N, H, W, C) of the graph are (N, C, H, W) in the file, vectors stay as
they are. Constants are transposed when the file is written, so a Transpose is only left around a reshape that
depends on the order of the axes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import onnx
from google.protobuf.message import DecodeError
from onnx import TensorProto, helper, numpy_helper

from tinyasc_export.bundle import METADATA_KEY, Bundle
from tinyasc_export.errors import GraphError, ModelFileError
from tinyasc_export.graph import Graph, Op

INPUT_NAME = "features"
OUTPUT_NAME = "logits"
# The newest pair that onnxruntime 1.18 runs, and the oldest whose QuantizeLinear knows 16 bits.
OPSET = 21
IR_VERSION = 10

_TO_NCHW = (0, 3, 1, 2)
_TO_NHWC = (0, 2, 3, 1)


def to_onnx(graph: Graph, bundle: Bundle | None = None) -> bytes:
    """The graph as an ONNX file.

    Args:
        graph: float32 throughout. Its input (1, H, W, C) becomes "features" (1, C, H, W), its output
            "logits".
        bundle: what travels with the graph, written into `metadata_props` under `tinyasc`; None for none.

    Returns:
        The file's bytes, equal for equal graphs; the ONNX checker has passed them.

    Raises:
        GraphError: the graph breaks its own rules, is not float32 throughout, or joins tensors of unequal
            rank.
    """
    graph.validate()
    for t in graph.tensors.values():
        if t.dtype != "float32" or t.quantized:
            raise GraphError(f"tensor {t.name} is {t.dtype}; a float ONNX file wants float32 throughout")
    model = _Writer(graph).model()
    if bundle is not None:
        helper.set_model_props(model, {METADATA_KEY: bundle.to_json()})
    onnx.checker.check_model(model, full_check=True)
    return model.SerializeToString(deterministic=True)


def read_onnx_bundle(data: bytes, where: str) -> Bundle | None:
    """The bundle inside an ONNX file.

    Args:
        data: the whole file.
        where: the file's name, for the error line.

    Returns:
        The bundle, or None when the file is an ONNX model that carries none.

    Raises:
        ModelFileError: the file is not an ONNX model, is damaged, or its bundle cannot be read.
    """
    try:
        model = onnx.load_model_from_string(data)
    except DecodeError:
        raise ModelFileError(f"{where}: not an ONNX model, or a damaged one; export it again") from None
    # Protocol buffers have no signature: an empty file, for one, is a valid message without any field.
    if not model.ir_version or not model.graph.node:
        raise ModelFileError(f"{where}: not an ONNX model (it holds no graph)")
    text = next((entry.value for entry in model.metadata_props if entry.key == METADATA_KEY), None)
    return None if text is None else Bundle.from_json(text, where)


class _Writer:
    """Collects the nodes and initializers of one file."""

    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self.nodes: list[Any] = []
        self.initializers: dict[str, Any] = {}
        self._constants: dict[tuple[str, str], str] = {}
        self._node_names: set[str] = set()

    def model(self) -> Any:
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
        return model

    def rank(self, name: str) -> int:
        """Number of axes of a graph tensor."""
        return len(self.graph.tensors[name].shape)

    def value(self, name: str) -> str:
        """An activation's name in the file."""
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
        """An initializer with a graph constant, its axes in ONNX's order.

        Args:
            tensor: the graph's name for it.
            name: the name wanted in the file, numbered if taken.
            arrange: "as is", "map" (NHWC to NCHW), "conv" (to out, in, kh, kw) or "depthwise" (to C, 1, kh,
                kw).
        """
        key = (tensor, arrange)
        if key not in self._constants:
            data = self.graph.tensors[tensor].data
            assert data is not None
            if arrange == "map":
                data = data.reshape((1,) * (4 - data.ndim) + data.shape).transpose(_TO_NCHW)
            elif arrange == "conv":
                data = data.transpose(_TO_NCHW)
            elif arrange == "depthwise":
                data = data.transpose(3, 0, 1, 2)
            self._constants[key] = self.initializer(data, name)
        return self._constants[key]

    def initializer(self, data: np.ndarray, name: str) -> str:
        """Adds an initializer under `name`, numbered if taken, and returns its name."""
        unique, i = name, 2
        while unique in self.initializers:
            unique, i = f"{name}_{i}", i + 1
        self.initializers[unique] = numpy_helper.from_array(np.ascontiguousarray(data), unique)
        return unique

    def _value_info(self, name: str) -> Any:
        shape = self.graph.tensors[name].shape
        return helper.make_tensor_value_info(self.value(name), TensorProto.FLOAT, _nchw(shape))

    def _operator(self, op: Op) -> None:
        name = op.module or op.kind
        output = self.value(op.output)
        if op.attrs.get("activation") == "relu":
            linear = _EMIT[op.kind](self, op, name, f"{op.output}_linear")
            self.node("Relu", [linear], output, f"{name}.relu")
        else:
            _EMIT[op.kind](self, op, name, output)


def _nchw(values: Sequence[int]) -> tuple[int, ...]:
    """A shape, or one number per axis, in ONNX's order of axes."""
    return tuple(values[i] for i in _TO_NCHW) if len(values) == 4 else tuple(values)


def _axis(axis: int, rank: int) -> int:
    """The place of a graph axis in ONNX's order."""
    return _TO_NCHW.index(axis % rank) if rank == 4 else axis % rank


def _int64(values: Sequence[int]) -> np.ndarray:
    return np.asarray(values, np.int64)


# Each function below appends one operator's nodes and returns the name of their result, which is `output`.


def _conv(writer: _Writer, op: Op, name: str, output: str) -> str:
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


def _linear(writer: _Writer, op: Op, name: str, output: str) -> str:
    inputs = [writer.value(op.inputs[0]), writer.constant(op.inputs[1], f"{name}.weight", "as is")]
    inputs += [writer.constant(bias, f"{name}.bias", "as is") for bias in op.inputs[2:]]
    return writer.node("Gemm", inputs, output, name, transB=1)


def _binary(writer: _Writer, op: Op, name: str, output: str) -> str:
    kind = {"add": "Add", "mul": "Mul", "maximum": "Max"}[op.kind]
    return writer.node(kind, _joined(writer, op, name), output, name)


def _concat(writer: _Writer, op: Op, name: str, output: str) -> str:
    axis = _axis(op.attrs["axis"], writer.rank(op.output))
    return writer.node("Concat", _joined(writer, op, name), output, name, axis=axis)


def _joined(writer: _Writer, op: Op, name: str) -> list[str]:
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


def _mean(writer: _Writer, op: Op, name: str, output: str) -> str:
    rank = writer.rank(op.inputs[0])
    axes = writer.initializer(_int64(sorted(_axis(a, rank) for a in op.attrs["axes"])), f"{name}.axes")
    return writer.node("ReduceMean", [writer.value(op.inputs[0]), axes], output, name, keepdims=1)


def _pool(writer: _Writer, op: Op, name: str, output: str) -> str:
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


def _pad(writer: _Writer, op: Op, name: str, output: str) -> str:
    top, bottom, left, right = op.attrs["padding"]
    x = writer.value(op.inputs[0])
    if any(consumer.kind in ("max_pool", "average_pool") for consumer in writer.graph.consumers(op.output)):
        # onnxruntime moves a Pad into the pool behind it, where it no longer counts as zeros: MaxPool answers
        # wrongly then, or is refused (PadFusion, microsoft/onnxruntime#18136). It leaves joined zeros alone.
        x = _with_zeros(writer, op, x, 2, (top, bottom), f"{op.output}_rows", f"{name}.rows")
        return _with_zeros(writer, op, x, 3, (left, right), output, name)
    pads = writer.initializer(_int64([0, 0, top, left, 0, 0, bottom, right]), f"{name}.pads")
    return writer.node("Pad", [x, pads], output, name)


def _with_zeros(writer: _Writer, op: Op, x: str, axis: int, amounts: tuple[int, int], output: str, name: str) -> str:
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


def _slice(writer: _Writer, op: Op, name: str, output: str) -> str:
    begin, size = _nchw(op.attrs["begin"]), _nchw(op.attrs["size"])
    starts = writer.initializer(_int64(begin), f"{name}.starts")
    ends = writer.initializer(_int64([b + n for b, n in zip(begin, size, strict=True)]), f"{name}.ends")
    return writer.node("Slice", [writer.value(op.inputs[0]), starts, ends], output, name)


def _reshape(writer: _Writer, op: Op, name: str, output: str) -> str:
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


def _unary(writer: _Writer, op: Op, name: str, output: str) -> str:
    kind = {"relu": "Relu", "sigmoid": "Sigmoid", "hardswish": "HardSwish"}[op.kind]
    return writer.node(kind, [writer.value(op.inputs[0])], output, name)


def _rsqrt(writer: _Writer, op: Op, name: str, output: str) -> str:
    root = writer.node("Sqrt", [writer.value(op.inputs[0])], f"{output}_root", f"{name}.sqrt")
    return writer.node("Reciprocal", [root], output, name)


_EMIT: dict[str, Callable[[_Writer, Op, str, str], str]] = {
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
