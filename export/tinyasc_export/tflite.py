"""Writes a deployed graph as a .tflite file: float32, float16 weights, full-integer int8, or int16x8.

The graph is NHWC already, so the file holds one operator per graph operator and no TRANSPOSE. The file is
written with the schema's object API over a builder that stores equal vectors once: shapes, scales, zero
points and constants. Tensors other than input and output have no name. Equal graphs give equal bytes.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import flatbuffers
import numpy as np
from ai_edge_litert import schema_py_generated as schema

from tinyasc_export.bundle import METADATA_KEY, Bundle
from tinyasc_export.errors import GraphError
from tinyasc_export.graph import Graph, Op, Tensor, padding_mode
from tinyasc_export.lower import store_float16
from tinyasc_export.seal import UNSEALED, seal
from tinyasc_export.tflite_metadata import IDENTIFIER
from tinyasc_export.tflite_metadata import read_tflite_bundle as read_bundle
from tinyasc_export.tflite_rules import BIAS_TYPE, check_integer_graph

__all__ = ["INPUT_NAME", "OUTPUT_NAME", "read_bundle", "to_tflite"]

INPUT_NAME = "features"
OUTPUT_NAME = "logits"
BUFFER_ALIGNMENT = 16  # `force_align: 16` in schema.fbs, which the generated Python code does not honour

_TYPES = {
    "float16": schema.TensorType.FLOAT16,
    "float32": schema.TensorType.FLOAT32,
    "int8": schema.TensorType.INT8,
    "int16": schema.TensorType.INT16,
    "int32": schema.TensorType.INT32,
    "int64": schema.TensorType.INT64,
}
# kind -> (builtin operator, its version in a float32, an int8 and an int16x8 file)
_CODES: dict[str, tuple[int, int, int, int]] = {
    "conv2d": (schema.BuiltinOperator.CONV_2D, 1, 3, 4),
    "depthwise_conv2d": (schema.BuiltinOperator.DEPTHWISE_CONV_2D, 2, 3, 5),
    "fully_connected": (schema.BuiltinOperator.FULLY_CONNECTED, 1, 4, 7),
    "add": (schema.BuiltinOperator.ADD, 1, 2, 3),
    "mul": (schema.BuiltinOperator.MUL, 1, 2, 4),
    "maximum": (schema.BuiltinOperator.MAXIMUM, 1, 2, 4),
    "mean": (schema.BuiltinOperator.MEAN, 1, 2, 3),
    "max_pool": (schema.BuiltinOperator.MAX_POOL_2D, 1, 2, 3),
    "average_pool": (schema.BuiltinOperator.AVERAGE_POOL_2D, 1, 2, 3),
    "pad": (schema.BuiltinOperator.PAD, 1, 2, 3),
    "concat": (schema.BuiltinOperator.CONCATENATION, 1, 2, 3),
    "slice": (schema.BuiltinOperator.SLICE, 1, 2, 4),
    "reshape": (schema.BuiltinOperator.RESHAPE, 1, 1, 1),
    "relu": (schema.BuiltinOperator.RELU, 1, 2, 3),
    "sigmoid": (schema.BuiltinOperator.LOGISTIC, 1, 2, 3),
    "hardswish": (schema.BuiltinOperator.HARD_SWISH, 1, 1, 1),
    "rsqrt": (schema.BuiltinOperator.RSQRT, 1, 2, 3),
}
_DEQUANTIZE_VERSION = 3  # the first that reads float16
_VERSION_COLUMN = {"float32": 1, "int8": 2, "int16": 3}


def to_tflite(graph: Graph, bundle: Bundle | None = None, *, weights: str | None = None, sealed: bool = True) -> bytes:
    """The graph as a .tflite file.

    Args:
        graph: float32 throughout (constants may be float16), int8 throughout (biases int32), or int16x8 (weights int8,
            biases int64), integers with scales on every tensor. The input becomes tensor "features", the output
            "logits".
        bundle: what travels with the graph, written as metadata named `tinyasc`; None for none.
        weights: "float16" stores the constants of a float32 graph as float16, as `lower.store_float16` does; each is
            read through a DEQUANTIZE. None leaves them as they are.
        sealed: write the file's hash beside the bundle (`tinyasc_export.seal`); earlier versions did not.

    Returns:
        The file's bytes.

    Raises:
        GraphError: the graph breaks its own rules, mixes types, breaks a rule of TFLite's integer operators,
            or asks for a padding that is neither SAME nor VALID (a `pad` operator before the window expresses
            it).
        InputError: an operator that TensorFlow Lite Micro lacks at int16.
    """
    if weights not in (None, "float16"):
        raise GraphError(f"weights {weights!r} is not 'float16' or None")
    graph.validate()
    if graph.tensors[graph.input].dtype in ("int8", "int16"):
        if weights is not None:
            raise GraphError("float16 weights are for float graphs; this one is quantised")
        check_integer_graph(graph)
    else:
        graph = graph if weights is None else store_float16(graph)
        _check_float_graph(graph)
    return _Writer(graph).write(bundle, sealed=sealed)


def constant_bytes(data: bytes) -> int:
    """Bytes of every constant that a .tflite file stores, read from the file; shape operands are none.

    Constants that share one buffer count each, as they do in the graph.

    Args:
        data: a file of ours, which `read_tflite_bundle` has accepted.
    """
    model: Any = schema.ModelT.InitFromObj(schema.Model.GetRootAs(data))
    total = 0
    for graph in model.subgraphs:
        for tensor in graph.tensors:
            content = model.buffers[tensor.buffer].data
            if content is None or (tensor.type == schema.TensorType.INT32 and not tensor.quantization):
                continue
            total += len(content)
    return total


def unlike_graph(data: bytes, graph: Graph) -> list[str]:
    """Names of a graph's tensors that a .tflite file does not hold as they are: values, scales and zero points.

    A wrong weight that no clip brings to light is found here. Tensors are told by what they hold, not by their place.

    Args:
        data: a file of ours, which `read_tflite_bundle` has accepted.
        graph: that it was written from.
    """
    model: Any = schema.ModelT.InitFromObj(schema.Model.GetRootAs(data))
    held: Counter[tuple[bytes, ...]] = Counter()
    for subgraph in model.subgraphs:
        for tensor in subgraph.tensors:
            q, content = tensor.quantization, model.buffers[tensor.buffer].data
            parts = (content, None if q is None else q.scale, None if q is None else q.zeroPoint)
            types = (np.uint8, np.float32, np.int64)
            held[tuple(_bytes(part, kind) for part, kind in zip(parts, types, strict=True))] += 1
    unlike = []
    for t in graph.tensors.values():
        values = None if t.data is None else np.ascontiguousarray(t.data, t.data.dtype.newbyteorder("<")).view(np.uint8)
        key = (_bytes(values, np.uint8), _bytes(t.scale, np.float32), _bytes(t.zero_point, np.int64))
        held[key] -= 1
        if held[key] < 0:
            unlike.append(t.name)
    return unlike


def _bytes(values: Any, dtype: Any) -> bytes:
    return b"" if values is None else np.asarray(values, dtype).tobytes()


def _check_float_graph(graph: Graph) -> None:
    for t in graph.tensors.values():
        if t.quantized or not (t.dtype == "float32" or (t.dtype == "float16" and t.constant)):
            raise GraphError(f"tensor {t.name} is {t.dtype}; a float TFLite file wants float32 throughout")


class _SharingBuilder(flatbuffers.Builder):
    """A builder that stores equal vectors and strings once, and aligns byte vectors as TFLite wants them."""

    def __init__(self) -> None:
        super().__init__(1 << 16)
        self._vectors: dict[tuple[str, bytes], int] = {}
        self._strings: dict[str, int] = {}

    def CreateNumpyVector(self, x: np.ndarray) -> int:
        x = np.ascontiguousarray(x, x.dtype.newbyteorder("<"))
        payload = x.tobytes()
        key = (x.dtype.str, payload)
        if key not in self._vectors:
            self.StartVector(x.itemsize, x.size, BUFFER_ALIGNMENT if x.dtype == np.uint8 else x.itemsize)
            self.head -= len(payload)
            self.Bytes[self.head : self.head + len(payload)] = payload
            self._vectors[key] = self.EndVector()
        return self._vectors[key]

    def CreateString(self, s: str, encoding: str = "utf-8", errors: str = "strict") -> int:
        if s not in self._strings:
            self._strings[s] = super().CreateString(s, encoding, errors)
        return self._strings[s]


class _Writer:
    """Collects buffers, tensors and operators of one model."""

    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self.version_column = _VERSION_COLUMN[graph.tensors[graph.input].dtype]
        self.tensors: list[Any] = []
        self.operators: list[Any] = []
        self.buffers: list[Any] = [schema.BufferT()]  # buffer 0 is empty by the format's rule
        self.indices: dict[str, int] = {}
        self._buffer_of: dict[bytes, int] = {}
        self._operand_of: dict[tuple[tuple[int, ...], bytes], int] = {}
        self._codes: dict[tuple[int, int], int] = {}

    def write(self, bundle: Bundle | None, *, sealed: bool) -> bytes:
        sealed = sealed and bundle is not None
        graph = self.graph
        self._tensor(graph.tensors[graph.input], INPUT_NAME)
        for op in graph.ops:
            self._operator(op)
        subgraph: Any = schema.SubGraphT()
        subgraph.tensors = self.tensors
        subgraph.operators = self.operators
        subgraph.inputs = _int32([self.indices[graph.input]])
        subgraph.outputs = _int32([self.indices[graph.output]])
        model: Any = schema.ModelT()
        model.version = 3
        model.description = UNSEALED if sealed else "tinyasc"
        model.subgraphs = [subgraph]
        model.operatorCodes = [_operator_code(code, version) for code, version in self._codes]
        if bundle is not None:
            entry: Any = schema.MetadataT()
            entry.name = METADATA_KEY
            entry.buffer = self._buffer(bundle.to_json().encode("ascii"))
            model.metadata = [entry]
        model.buffers = self.buffers
        builder = _SharingBuilder()
        builder.Finish(model.Pack(builder), IDENTIFIER)
        data = bytes(builder.Output())
        return seal(data) if sealed else data

    def _buffer(self, payload: bytes) -> int:
        """Index of the buffer that holds `payload`."""
        if payload not in self._buffer_of:
            buffer: Any = schema.BufferT()
            buffer.data = np.frombuffer(payload, np.uint8)
            self._buffer_of[payload] = len(self.buffers)
            self.buffers.append(buffer)
        return self._buffer_of[payload]

    def _tensor(self, t: Tensor, name: str | None = None) -> int:
        """Index of a graph tensor, added at its first use."""
        if t.name not in self.indices:
            entry: Any = schema.TensorT()
            entry.shape = _int32(t.shape)
            entry.type = _TYPES[t.dtype]
            entry.name = name
            entry.hasRank = True
            if t.data is not None:
                little_endian = np.ascontiguousarray(t.data, t.data.dtype.newbyteorder("<"))
                entry.buffer = self._buffer(little_endian.tobytes())
            if t.scale is not None and t.zero_point is not None:
                quantization: Any = schema.QuantizationParametersT()
                quantization.scale = np.asarray(t.scale, np.float32).reshape(-1)
                quantization.zeroPoint = np.asarray(t.zero_point, np.int64).reshape(-1)
                quantization.quantizedDimension = t.axis or 0
                entry.quantization = quantization
            self.indices[t.name] = len(self.tensors)
            self.tensors.append(entry)
        return self.indices[t.name]

    def _read(self, t: Tensor) -> int:
        """Index of the tensor that an operator reads: `t`, or the float32 that a DEQUANTIZE makes of its float16."""
        if t.dtype != "float16":
            return self._tensor(t)
        wide = Tensor(f"{t.name}.float32", t.shape)
        if wide.name not in self.indices:
            code = (schema.BuiltinOperator.DEQUANTIZE, _DEQUANTIZE_VERSION)
            entry: Any = schema.OperatorT()
            entry.opcodeIndex = self._codes.setdefault(code, len(self._codes))
            entry.inputs, entry.outputs = _int32([self._tensor(t)]), _int32([self._tensor(wide)])
            self.operators.append(entry)
        return self.indices[wide.name]

    def _zero_bias(self, op: Op) -> int:
        """Index of a bias of zeros for a convolution that has none."""
        x, w, y = (self.graph.tensors[name] for name in (op.inputs[0], op.inputs[1], op.output))
        bias = Tensor(f"{op.output}.bias", y.shape[3:], "float32", np.zeros(y.shape[3], np.float32))
        if x.scale is not None and w.scale is not None:
            scale = x.scale * w.scale
            zeros = np.zeros(y.shape[3], BIAS_TYPE[x.dtype])
            bias = Tensor(bias.name, y.shape[3:], str(zeros.dtype), zeros, scale, np.zeros(scale.size, np.int64), 0)
        return self._tensor(bias)

    def _operand(self, values: Sequence[int] | np.ndarray) -> int:
        """Index of an int32 constant that an operator takes as an input (axes, shapes, paddings)."""
        array = _int32(values)
        shape = np.shape(values)
        key = (shape, array.tobytes())
        if key not in self._operand_of:
            entry: Any = schema.TensorT()
            entry.shape = _int32(shape)
            entry.type = schema.TensorType.INT32
            entry.hasRank = True
            entry.buffer = self._buffer(array.tobytes())
            self._operand_of[key] = len(self.tensors)
            self.tensors.append(entry)
        return self._operand_of[key]

    def _operator(self, op: Op) -> None:
        code, version = _CODES[op.kind][0], _CODES[op.kind][self.version_column]
        if op.kind == "fully_connected" and _per_channel(self.graph.tensors[op.inputs[1]]):
            version = 12  # the first whose weights may carry a scale per channel
        kind, options, operands = _OPTIONS[op.kind](op, self.graph)
        entry: Any = schema.OperatorT()
        inputs = [self._read(self.graph.tensors[name]) for name in op.inputs]
        entry.opcodeIndex = self._codes.setdefault((code, version), len(self._codes))
        if op.kind in ("conv2d", "depthwise_conv2d") and len(op.inputs) == 2:
            inputs.append(self._zero_bias(op))  # LiteRT refuses convolutions without a bias
        entry.inputs = _int32(inputs + [self._operand(values) for values in operands])
        output = self.graph.tensors[op.output]
        entry.outputs = _int32([self._tensor(output, OUTPUT_NAME if op.output == self.graph.output else None)])
        entry.builtinOptionsType = kind
        entry.builtinOptions = options
        self.operators.append(entry)


def _int32(values: Sequence[int] | np.ndarray) -> np.ndarray:
    return np.asarray(values, np.int32).reshape(-1)


def _per_channel(t: Tensor) -> bool:
    return t.scale is not None and t.scale.size > 1


def _operator_code(code: int, version: int) -> Any:
    entry: Any = schema.OperatorCodeT()
    entry.builtinCode = code
    entry.deprecatedBuiltinCode = min(code, 127)  # the field that readers before schema version 3a look at
    entry.version = version
    return entry


# Each function below gives an operator's option table and the int32 operands that TFLite takes as further
# inputs.
_Options = tuple[int, Any, list[Any]]


def _fused(op: Op) -> int:
    relu = op.attrs.get("activation", "none") == "relu"
    return schema.ActivationFunctionType.RELU if relu else schema.ActivationFunctionType.NONE


def _windowed(options: Any, op: Op, graph: Graph, kernel: Sequence[int]) -> Any:
    """Fills in padding mode and strides, which convolutions and pools have in common."""
    x = graph.tensors[op.inputs[0]].shape
    attrs = op.attrs
    dilation = attrs.get("dilation", (1, 1))
    mode = padding_mode(x[1:3], kernel, attrs["stride"], attrs["padding"], dilation)
    if mode is None:
        raise GraphError(
            f"{op.kind} (from {op.module or 'the graph'}): padding {tuple(attrs['padding'])} on a"
            f" {x[1]}x{x[2]} map is neither SAME nor VALID in TFLite; put a pad operator before it"
        )
    options.padding = schema.Padding.SAME if mode == "SAME" else schema.Padding.VALID
    options.strideH, options.strideW = attrs["stride"]
    return options


def _conv(op: Op, graph: Graph) -> _Options:
    options = _windowed(schema.Conv2DOptionsT(), op, graph, graph.tensors[op.inputs[1]].shape[1:3])
    options.dilationHFactor, options.dilationWFactor = op.attrs["dilation"]
    options.fusedActivationFunction = _fused(op)
    return schema.BuiltinOptions.Conv2DOptions, options, []


def _depthwise(op: Op, graph: Graph) -> _Options:
    options = _windowed(schema.DepthwiseConv2DOptionsT(), op, graph, graph.tensors[op.inputs[1]].shape[1:3])
    options.depthMultiplier = 1
    options.dilationHFactor, options.dilationWFactor = op.attrs["dilation"]
    options.fusedActivationFunction = _fused(op)
    return schema.BuiltinOptions.DepthwiseConv2DOptions, options, []


def _fully_connected(op: Op, graph: Graph) -> _Options:
    options = schema.FullyConnectedOptionsT()
    options.fusedActivationFunction = _fused(op)
    return schema.BuiltinOptions.FullyConnectedOptions, options, []


def _add(op: Op, graph: Graph) -> _Options:
    options = schema.AddOptionsT()
    options.fusedActivationFunction = _fused(op)
    options.potScaleInt16 = False  # by default LiteRT takes int16 scales for powers of two
    return schema.BuiltinOptions.AddOptions, options, []


def _mul(op: Op, graph: Graph) -> _Options:
    options = schema.MulOptionsT()
    options.fusedActivationFunction = _fused(op)
    return schema.BuiltinOptions.MulOptions, options, []


def _maximum(op: Op, graph: Graph) -> _Options:
    return schema.BuiltinOptions.MaximumMinimumOptions, schema.MaximumMinimumOptionsT(), []


def _mean(op: Op, graph: Graph) -> _Options:
    options = schema.ReducerOptionsT()
    options.keepDims = True
    return schema.BuiltinOptions.ReducerOptions, options, [sorted(op.attrs["axes"])]


def _pool(op: Op, graph: Graph) -> _Options:
    options = _windowed(schema.Pool2DOptionsT(), op, graph, op.attrs["kernel"])
    options.filterHeight, options.filterWidth = op.attrs["kernel"]
    return schema.BuiltinOptions.Pool2DOptions, options, []


def _pad(op: Op, graph: Graph) -> _Options:
    top, bottom, left, right = op.attrs["padding"]
    paddings = np.array([[0, 0], [top, bottom], [left, right], [0, 0]], np.int32)
    return schema.BuiltinOptions.PadOptions, schema.PadOptionsT(), [paddings]


def _concat(op: Op, graph: Graph) -> _Options:
    options = schema.ConcatenationOptionsT()
    options.axis = op.attrs["axis"]
    return schema.BuiltinOptions.ConcatenationOptions, options, []


def _slice(op: Op, graph: Graph) -> _Options:
    return schema.BuiltinOptions.SliceOptions, schema.SliceOptionsT(), [op.attrs["begin"], op.attrs["size"]]


def _reshape(op: Op, graph: Graph) -> _Options:
    options: Any = schema.ReshapeOptionsT()
    options.newShape = _int32(op.attrs["shape"])
    return schema.BuiltinOptions.ReshapeOptions, options, [op.attrs["shape"]]


def _plain(op: Op, graph: Graph) -> _Options:
    return schema.BuiltinOptions.NONE, None, []


_OPTIONS: dict[str, Callable[[Op, Graph], _Options]] = {
    "conv2d": _conv,
    "depthwise_conv2d": _depthwise,
    "fully_connected": _fully_connected,
    "add": _add,
    "mul": _mul,
    "maximum": _maximum,
    "mean": _mean,
    "max_pool": _pool,
    "average_pool": _pool,
    "pad": _pad,
    "concat": _concat,
    "slice": _slice,
    "reshape": _reshape,
    "relu": _plain,
    "sigmoid": _plain,
    "hardswish": _plain,
    "rsqrt": _plain,
}
