"""What a .tflite file costs, read from the flatbuffer by TFLite's own schema, with none of this project's counters."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from ai_edge_litert import schema_py_generated as schema

_OPERATORS = {code: name for name, code in vars(schema.BuiltinOperator).items() if isinstance(code, int)}
_TYPES = {code: name for name, code in vars(schema.TensorType).items() if isinstance(code, int)}
_WIDTHS = {"INT8": 1, "UINT8": 1, "INT16": 2, "INT32": 4, "INT64": 8, "FLOAT16": 2, "FLOAT32": 4}
# Which inputs hold shapes, axes, paddings and the like, by TFLite's documentation of its operators: no parameters.
_SETTINGS = {"RESHAPE": (1,), "MEAN": (1,), "SUM": (1,), "REDUCE_MAX": (1,), "PAD": (1,), "SLICE": (1, 2)}
_MAC_OPERATORS = ("CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED")
# Others that multiply and add: a file with one of these would be counted short.
_UNCOUNTED = ("TRANSPOSE_CONV", "CONV_3D", "CONV_3D_TRANSPOSE", "BATCH_MATMUL", "SVDF", "LSTM", "CUSTOM")
# Whose output may lie where an input lies that dies there, or be part of it.
_SAME_PLACE = ("RESHAPE", "SLICE", "CONCATENATION", "ADD", "MUL", "MAXIMUM", "RELU", "LOGISTIC", "HARD_SWISH", "RSQRT")


@dataclass(frozen=True)
class Facts:
    """The costs of one file.

    Args:
        parameters: values of all constants that are no settings of an operator.
        parameter_bytes: those at their stored width.
        weight_types: of convolutions and linear layers.
        macs: of convolutions and linear layers, one inference.
        live_bytes: no arena can be smaller.
        input_bytes: of the one input.
        outputs: values of the one output.
    """

    parameters: int
    parameter_bytes: int
    weight_types: frozenset[str]
    macs: int
    live_bytes: int
    input_bytes: int
    outputs: int


def facts(data: bytes) -> Facts:
    """Walks the one subgraph of a file."""
    model = schema.ModelT.InitFromObj(schema.Model.GetRootAs(data))
    (graph,) = model.subgraphs
    tensors = graph.tensors
    names = [max(c.builtinCode, c.deprecatedBuiltinCode) for c in model.operatorCodes]
    ops = [(_OPERATORS[names[op.opcodeIndex]], list(op.inputs), list(op.outputs)) for op in graph.operators]

    def values(i: int) -> int:
        return math.prod(map(int, tensors[i].shape))

    def size(i: int) -> int:
        return values(i) * _WIDTHS[_TYPES[tensors[i].type]]

    constants = set()
    for i, tensor in enumerate(tensors):
        stored = model.buffers[tensor.buffer]
        assert not stored.offset, "constants outside the flatbuffer"
        if stored.data is not None and len(stored.data):
            assert len(stored.data) == size(i), tensor.name
            constants.add(i)
    settings = {inputs[k] for kind, inputs, _ in ops for k in _SETTINGS.get(kind, ()) if k < len(inputs)}
    parameters = constants - settings

    macs, weights = 0, set()
    for kind, inputs, (out, *_) in ops:
        assert kind not in _UNCOUNTED, kind
        if kind in _MAC_OPERATORS:
            shape = [int(n) for n in tensors[inputs[1]].shape]
            # Per output: CONV_2D's (O, H, W, I) and FULLY_CONNECTED's (O, I) without O, of (1, H, W, O) the window.
            macs += values(out) * math.prod(shape[1:3] if kind == "DEPTHWISE_CONV_2D" else shape[1:])
            weights.add(_TYPES[tensors[inputs[1]].type])

    activations = set(range(len(tensors))) - constants
    (given,), (answer,) = graph.inputs, graph.outputs
    return Facts(
        sum(map(values, parameters)),
        sum(map(size, parameters)),
        frozenset(weights),
        macs,
        _live_bytes(ops, {i: size(i) for i in activations}, int(given), int(answer)),
        size(given),
        values(answer),
    )


def _live_bytes(ops: list[tuple[str, list[int], list[int]]], sizes: dict[int, int], given: int, answer: int) -> int:
    """The most bytes that are alive at once, from an operator's output to the last operator that reads it.

    Tensors that may be one another's bytes (`RESHAPE`, `SLICE`) count as the largest that is alive. At an operator
    whose output may take its input's place, what is alive before and after it counts, not both together.
    """
    born, dies, place = {given: -1}, {answer: len(ops)}, {i: i for i in sizes}
    for step, (kind, inputs, outputs) in enumerate(ops):
        for i in outputs:
            born[i] = step
            dies.setdefault(i, step)
            if kind in ("RESHAPE", "SLICE"):
                place[i] = place[inputs[0]]
        for i in inputs:
            if i in sizes:
                dies[i] = max(dies.get(i, step), step)

    def alive(first: int, last: int) -> int:
        """Bytes of what is born by `first` and dies at `last` or later."""
        largest: dict[int, int] = {}
        for i, step in born.items():
            if step <= first and dies[i] >= last:
                largest[place[i]] = max(largest.get(place[i], 0), sizes[i])
        return sum(largest.values())

    most = 0
    for step, (kind, _, _) in enumerate(ops):
        before, after = alive(step - 1, step), alive(step, step + 1)
        both = max(before, after) if kind in _SAME_PLACE else alive(step, step)
        most = max(most, before, after, both)
    return most


def quantized(x: np.ndarray, scale: float, zero: int, dtype: type) -> np.ndarray:
    """Real values as the integers of a tensor."""
    info = np.iinfo(dtype)
    return np.clip(np.rint(x / scale) + zero, info.min, info.max).astype(dtype)
