"""The nodes of an ONNX file of a quantised graph: operators in float between DequantizeLinear and QuantizeLinear.

int8 activations are stored as uint8 (128 added to values and zero points), weights as int8 per channel, biases as
int32: the pair that onnxruntime has kernels for on most CPUs. int16 activations stay int16; no CPU kernel computes in
them, so a runtime *simulates* them in float32, and the file's doc string says so.

Every operator rounds once, so results follow the integer reference in its `single` rounding, up to the last bits of
float32; from `tflite`, which rounds twice, they drift away by a step here and there. QuantizeLinear rounds halves to
even; the reference rounds them up, in average pools away from zero. Halves are rare but in means and average pools. A
mean is therefore the reference's own product and shift, in 64-bit integers. An average pool adds plain integers, which
float32 does exactly, and its output's scale is smaller by 2^-21: that tips every half away from zero and next to
nothing else; it rounds the raw integers, so its zero point is the integer 0. At int8 the hard swish and the reciprocal
root, whose recipes are coarser than float32's, are looked up in tables of 256 integers.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from onnx import TensorProto, helper

from tinyasc_export.errors import GraphError
from tinyasc_export.graph import WEIGHTED, Graph, Op, Tensor
from tinyasc_export.onnx_nodes import INPUT_NAME, OUTPUT_NAME, Writer, axis_in_file
from tinyasc_export.reference_int8 import KERNELS, mean_multiplier, zero
from tinyasc_export.rounding import ROUNDINGS

SIMULATED = "int16 activations, simulated on CPU: runtimes compute this graph in float32 between its rounding steps"
TIP = 1 - 2.0**-21
TABLES = ("hardswish", "rsqrt")
_ACTIVATIONS = {"int8": (np.uint8, 128), "int16": (np.int16, 0)}  # stored type, and what is added to the integers


class QuantizedWriter(Writer):
    """Collects the nodes of one quantised file.

    Args:
        graph: every tensor quantised, activations all int8 or all int16.

    Raises:
        GraphError: a tensor without scale, or of a type that such a file does not hold.
    """

    def __init__(self, graph: Graph) -> None:
        super().__init__(graph)
        self.kind = graph.tensors[graph.input].dtype
        if self.kind not in _ACTIVATIONS:
            raise GraphError(f"the graph's input is {self.kind}; a quantised ONNX file wants int8 or int16")
        self.integers, self.added = _ACTIVATIONS[self.kind]
        self.doc_string = SIMULATED if self.kind == "int16" else ""
        self._biases = {op.inputs[2] for op in graph.ops if op.kind in WEIGHTED and len(op.inputs) == 3}
        self._real: dict[tuple[str, str], str] = {}
        # Of the operator that is being written: it adds the integers as they are, their zero point in them.
        self._raw = False
        for t in graph.tensors.values():
            if t.scale is None or t.zero_point is None:
                raise GraphError(f"tensor {t.name} is {t.dtype} without a scale; a quantised file wants one everywhere")
            if not t.constant and t.dtype != self.kind:
                raise GraphError(f"activation {t.name} is {t.dtype}, the input {self.kind}; a file holds one type")
        self._quantize(INPUT_NAME, graph.input, "features")

    def value(self, name: str) -> str:
        """The dequantised values of an activation, by a node that its readers share."""
        kind = "raw" if self._raw else "real"
        key = (name, kind)
        if key not in self._real:
            scale, zero_point = self._parameters(name)
            scale = np.float32(1) if self._raw else scale
            self._real[key] = self._dequantize(f"{name}_q", scale, zero_point, f"{name}_{kind}")
        return self._real[key]

    def stored(self, tensor: str, name: str, arrange: str) -> str:
        """Integers of a constant with a DequantizeLinear behind them."""
        t = self.graph.tensors[tensor]
        data = self.arranged(tensor, arrange)
        assert t.scale is not None and t.zero_point is not None
        if tensor in self._biases:
            return self._bias(t, name)
        if t.dtype != "int8":
            data, zero_point = data.astype(self.integers), t.zero_point.astype(self.integers)
        elif arrange in ("conv", "depthwise") or not np.any(t.zero_point):
            zero_point = t.zero_point.astype(np.int8)  # weights
        else:
            data = (data.astype(np.int16) + 128).astype(np.uint8)
            zero_point = (t.zero_point + 128).astype(np.uint8)
        kept = self.initializer(data, name)
        if t.scale.size == 1:
            return self._dequantize(kept, np.float32(t.scale.flat[0]), zero_point.reshape(-1)[0], f"{kept}_real")
        axis = 0 if arrange in ("conv", "depthwise") else t.axis or 0
        scale = t.scale.reshape(-1).astype(np.float32)
        return self._dequantize(kept, scale, zero_point.reshape(-1), f"{kept}_real", axis=axis)

    def _bias(self, t: Tensor, name: str) -> str:
        assert t.data is not None and t.scale is not None
        scale = t.scale.reshape(-1)
        if np.abs(t.data).max(initial=0) > np.iinfo(np.int32).max:
            # 64-bit biases of int16 graphs; no ONNX operator dequantises them.
            return self.initializer((t.data * scale).astype(np.float32), name)
        kept = self.initializer(t.data.astype(np.int32), name)
        values = scale.astype(np.float32) if scale.size > 1 else np.float32(scale[0])
        zero = np.zeros(scale.size, np.int32) if scale.size > 1 else np.int32(0)
        return self._dequantize(kept, values, zero, f"{kept}_real", **({"axis": 0} if scale.size > 1 else {}))

    def _operator(self, op: Op) -> None:
        name, real = op.module or op.kind, f"{op.output}_computed"
        if op.kind in TABLES and self.kind == "int8":
            self._table(op, name)
        elif op.kind == "mean":
            self._mean(op, name)
        else:
            self._rounded(op, name, real)
        if op.output == self.graph.output:
            scale, zero_point = self._parameters(op.output)
            self._dequantize(f"{op.output}_q", scale, zero_point, OUTPUT_NAME)

    def _rounded(self, op: Op, name: str, real: str) -> None:
        """An operator in float32, rounded to its output's steps."""
        self._raw = op.kind == "average_pool"
        self.emit(op, name, real)
        self._quantize(real, op.output, name, unit=float(self._parameters(op.inputs[0])[0]) / TIP if self._raw else 1)
        self._raw = False

    def _table(self, op: Op, name: str) -> None:
        """An operator of one input as the integers that the reference gives for each of its 256."""
        tensors = [self.graph.tensors[n] for n in (*op.inputs, op.output)]
        answers = KERNELS[op.kind](op, tensors, [np.arange(-128, 128)], ROUNDINGS["single"])
        low = zero(tensors[1]) if op.attrs.get("activation") == "relu" else -128
        table = self.initializer((np.clip(answers, low, 127) + 128).astype(np.uint8), f"{name}.table")
        index = self.node("Cast", [f"{op.inputs[0]}_q"], f"{op.output}_index", f"{name}.index", to=TensorProto.INT32)
        self.node("Gather", [table, index], f"{op.output}_q", f"{name}.{op.kind}")

    def _mean(self, op: Op, name: str) -> None:
        """The reference's mean: floor(total * multiplier / 2^bits + 1/2) of the sum over the axes."""
        x, y = (self.graph.tensors[n] for n in (op.inputs[0], op.output))
        count = math.prod(x.shape[i] for i in op.attrs["axes"])
        multiplier, shift = mean_multiplier(x, y, count)
        bits = 31 - shift
        # Div cuts towards zero, so what is divided is lifted above zero, by as many whole steps as that takes.
        limits = np.iinfo(self.integers)
        lift = -(-((limits.max - limits.min) * count * multiplier) >> bits)
        stem, rank = f"{op.output}_mean", self.rank(op.inputs[0])
        axes = self.initializer(np.array(sorted(axis_in_file(a, rank) for a in op.attrs["axes"])), f"{name}.axes")
        at = self.node("Cast", [f"{op.inputs[0]}_q"], f"{stem}_wide", f"{name}.wide", to=TensorProto.INT64)
        at = self.node("ReduceSum", [at, axes], f"{stem}_sum", f"{name}.sum", keepdims=1)
        half_up = (1 << (bits - 1)) + (lift << bits) - (zero(x) + self.added) * count * multiplier
        for kind, number in (
            ("Mul", multiplier),
            ("Add", half_up),
            ("Div", 1 << bits),
            ("Add", zero(y) + self.added - lift),
            ("Max", limits.min),
            ("Min", limits.max),
        ):
            stage = f"{len(self.nodes)}.{kind.lower()}"
            at = self.node(kind, [at, self._shared(np.int64(number), "integer")], f"{stem}_{stage}", f"{name}.{stage}")
        stored = helper.np_dtype_to_tensor_dtype(np.dtype(self.integers))
        self.node("Cast", [at], f"{op.output}_q", f"{name}.narrow", to=stored)

    def _parameters(self, name: str) -> tuple[np.float32, Any]:
        """Scale and zero point of an activation as stored; on raw integers the zero point is the integer 0."""
        t = self.graph.tensors[name]
        assert t.scale is not None and t.zero_point is not None
        zero_point = 0 if self._raw else int(t.zero_point.flat[0])
        return np.float32(t.scale.flat[0]), self.integers(zero_point + self.added)

    def _quantize(self, real: str, name: str, stem: str, *, unit: float = 1) -> None:
        """Rounds what was computed in multiples of `unit`."""
        scale, zero_point = self._parameters(name)
        scale = np.float32(scale / unit)
        inputs = [real, self._shared(scale, "scale"), self._shared(zero_point, "zero_point")]
        self.node("QuantizeLinear", inputs, f"{name}_q", f"{stem}.quantize")

    def _dequantize(self, integers: str, scale: Any, zero_point: Any, output: str, **attrs: int) -> str:
        inputs = [integers, self._shared(scale, "scale"), self._shared(zero_point, "zero_point")]
        return self.node("DequantizeLinear", inputs, output, f"{output}.dequantize", **attrs)

    def _shared(self, values: Any, stem: str) -> str:
        """An initializer with a scale or zero point; equal ones are stored once."""
        array = np.asarray(values)
        key = (f"{array.dtype}{array.shape}{array.tobytes()!r}", stem)
        if key not in self._constants:
            self._constants[key] = self.initializer(array, f"{stem}{len(self._constants)}")
        return self._constants[key]

    def _value_info(self, name: str) -> Any:
        shape = self.graph.tensors[name].shape
        shape = tuple(shape[i] for i in (0, 3, 1, 2)) if len(shape) == 4 else shape
        file_name = INPUT_NAME if name == self.graph.input else OUTPUT_NAME
        return helper.make_tensor_value_info(file_name, TensorProto.FLOAT, shape)
