"""What TFLite's int8 and int16x8 operators ask of a graph: types, scales and zero points. Checked before a file is
written.

The rules are those of TensorFlow's "LiteRT 8-bit quantization specification" (with its 16x8 part) and of the
kernels' own checks; a file that breaks one would be refused by the runtime, or worse, run and answer something else.
"""

from __future__ import annotations

import numpy as np

from tinyasc_export.errors import GraphError, InputError
from tinyasc_export.graph import OPERATORS, WEIGHTED, Graph, Op, Tensor
from tinyasc_export.limits import least_output_scale

# Operators that move or compare integers without rescaling them.
SAME_SCALE = ("maximum", "max_pool", "average_pool", "pad", "concat", "slice", "reshape")
# Scale and zero point of a sigmoid's output, by the type of the activations.
SIGMOID_PARAMETERS = {"int8": (1 / 256, -128), "int16": (1 / 32768, 0)}
BIAS_TYPE = {"int8": "int32", "int16": "int64"}
# What cannot run at int16: why, and how to mend it.
_NOT_AT_INT16 = {
    "hardswish": (
        "has no int16 kernel in TensorFlow Lite Micro",
        "build the student with `attention_activation: relu`",
    ),
    # Measured over all inputs at nine pairs of scales: LiteRT is up to 14,976 units off, next to zero; Micro is exact
    # to 2.1 units.
    "rsqrt": (
        "answers otherwise at int16 in LiteRT than in TensorFlow Lite Micro",
        "build the student without norms that take it (cp_mobile: `grn: false`)",
    ),
}
INT16_OPERATORS = tuple(kind for kind in OPERATORS if kind not in _NOT_AT_INT16)
WEIGHT_AXIS = {"conv2d": 0, "depthwise_conv2d": 3, "fully_connected": 0}


def check_int16_operators(graph: Graph) -> None:
    """Checks that every operator runs at int16, with the same answers in TensorFlow Lite Micro and in LiteRT.

    Args:
        graph: in floating point or integers.

    Raises:
        InputError: one does not; the message names the module that it came from and how to mend it.
    """
    for op in graph.ops:
        if op.kind not in INT16_OPERATORS:
            why, mend = _NOT_AT_INT16[op.kind]
            raise InputError(f"module {op.module or '(top level)'}: {op.kind} {why}; {mend}, or export int8")


def check_integer_graph(graph: Graph) -> None:
    """Checks that every tensor is an integer with a scale and that every operator's scales go together.

    Args:
        graph: valid in itself (`Graph.validate`); int8 or int16x8, by the type of its input.

    Raises:
        GraphError: at the first rule that is broken.
        InputError: an operator that cannot run at int16.
    """
    dtype = graph.tensors[graph.input].dtype
    if dtype == "int16":
        check_int16_operators(graph)
    biases = {op.inputs[2] for op in graph.ops if op.kind in WEIGHTED and len(op.inputs) == 3}
    weights = {op.inputs[1] for op in graph.ops if op.kind in WEIGHTED}
    used = {graph.input}.union(*({*op.inputs, op.output} for op in graph.ops))
    for name in sorted(used):
        t = graph.tensors[name]
        expected = BIAS_TYPE[dtype] if t.name in biases else "int8" if t.name in weights else dtype
        if t.dtype != expected:
            raise GraphError(f"tensor {t.name} is {t.dtype}; a full-integer {dtype} file wants {expected} here")
        if t.scale is None or t.zero_point is None or t.scale.size != t.zero_point.size:
            raise GraphError(f"tensor {t.name} has no scale and zero point, or not as many of one as of the other")
        if not np.all(np.isfinite(t.scale)) or not np.all(np.asarray(t.scale, np.float32) > 0):
            raise GraphError(f"tensor {t.name}: a scale is zero, negative or not finite in float32")
        if not t.constant and t.scale.size != 1:
            raise GraphError(f"tensor {t.name}: an activation has one scale, this one has {t.scale.size}")
        if dtype == "int16" and np.any(t.zero_point != 0):
            raise GraphError(f"tensor {t.name} has a zero point; int16x8 is symmetric throughout")
    for i, op in enumerate(graph.ops):
        where = f"operator {i} ({op.kind}, from {op.module or 'the graph'})"
        if op.kind in WEIGHTED:
            _check_weighted(graph, op, where)
        elif op.kind in SAME_SCALE:
            for name in op.inputs:
                if _parameters(graph.tensors[name]) != _parameters(graph.tensors[op.output]):
                    raise GraphError(f"{where}: {name} and {op.output} must share one scale and zero point")
        elif op.kind == "sigmoid" and _parameters(graph.tensors[op.output]) != SIGMOID_PARAMETERS[dtype]:
            scale, zero_point = SIGMOID_PARAMETERS[dtype]
            raise GraphError(f"{where}: the output's scale must be 1/{1 / scale:.0f} and its zero point {zero_point}")
        elif op.kind == "rsqrt" and _parameters(graph.tensors[op.inputs[0]])[1] != -128:
            raise GraphError(f"{where}: the input's zero point must be -128: only positive values have a square root")
        least, (scale, _) = least_output_scale(graph, op), _parameters(graph.tensors[op.output])
        if scale < least:
            if np.isinf(least):
                widest = _parameters(graph.tensors[op.inputs[0]])[0]
                raise GraphError(f"{where} overflows at any output scale: its input's scale {widest:.3g} is too large")
            raise GraphError(f"{where}: with an output scale of {scale:.3g} a sum could overflow; {least:.3g} would do")


def _check_weighted(graph: Graph, op: Op, where: str) -> None:
    x, w = graph.tensors[op.inputs[0]], graph.tensors[op.inputs[1]]
    assert x.scale is not None and w.scale is not None and w.zero_point is not None
    if not w.constant:
        raise GraphError(f"{where}: the weights {w.name} are not constant")
    if np.any(w.zero_point != 0):
        raise GraphError(f"{where}: the weights {w.name} are not symmetric (zero point 0)")
    axis = WEIGHT_AXIS[op.kind]
    channels = w.shape[axis]
    if w.scale.size not in (1, channels):
        raise GraphError(f"{where}: {w.scale.size} weight scales for {channels} output channels")
    if w.scale.size > 1 and w.axis != axis:
        raise GraphError(f"{where}: weight scales along axis {w.axis}, TFLite wants axis {axis}")
    if len(op.inputs) < 3:
        return
    b = graph.tensors[op.inputs[2]]
    assert b.scale is not None and b.zero_point is not None
    expected = x.scale.reshape(-1) * w.scale.reshape(-1)
    if b.scale.size not in (1, expected.size) or not np.allclose(b.scale.reshape(-1), expected, rtol=1e-6, atol=0):
        raise GraphError(f"{where}: the bias's scale must be the input's times the weights'")
    if np.any(b.zero_point != 0):
        raise GraphError(f"{where}: the bias {b.name} has a zero point")


def _parameters(t: Tensor) -> tuple[float, int]:
    assert t.scale is not None and t.zero_point is not None
    return float(np.float32(t.scale.flat[0])), int(t.zero_point.flat[0])
