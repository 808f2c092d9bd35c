"""The walker against a file that is put together here by hand, operator by operator."""

import flatbuffers
import numpy as np
from ai_edge_litert import schema_py_generated as schema
from flatbuffer_facts import Facts, facts

INT8, INT32 = schema.TensorType.INT8, schema.TensorType.INT32
# Name -> type, shape, whether it is constant: a 3x3 convolution 4 -> 8, a depthwise 3x3, a sum, a linear layer.
TENSORS = {
    "x": (INT8, (1, 6, 5, 4), False),
    "w": (INT8, (8, 3, 3, 4), True),
    "bias": (INT32, (8,), True),
    "a": (INT8, (1, 6, 5, 8), False),
    "d": (INT8, (1, 3, 3, 8), True),
    "b": (INT8, (1, 6, 5, 8), False),
    "sum": (INT8, (1, 6, 5, 8), False),
    "shape": (INT32, (2,), True),
    "flat": (INT8, (1, 240), False),
    "f": (INT8, (10, 240), True),
    "y": (INT8, (1, 10), False),
}
OPS = (
    ("CONV_2D", ("x", "w", "bias"), "a"),
    ("DEPTHWISE_CONV_2D", ("a", "d"), "b"),
    ("ADD", ("a", "b"), "sum"),
    ("RESHAPE", ("sum", "shape"), "flat"),
    ("FULLY_CONNECTED", ("flat", "f"), "y"),
)


def file() -> bytes:
    model, graph = schema.ModelT(), schema.SubGraphT()
    names = list(TENSORS)
    model.version, model.buffers, graph.tensors = 3, [schema.BufferT()], []
    for name, (kind, shape, constant) in TENSORS.items():
        tensor, buffer = schema.TensorT(), schema.BufferT()
        tensor.name, tensor.type, tensor.shape, tensor.buffer = name, kind, list(shape), 0
        if constant:
            buffer.data = np.ones(int(np.prod(shape)) * (4 if kind == INT32 else 1), np.uint8)
            tensor.buffer = len(model.buffers)
            model.buffers.append(buffer)
        graph.tensors.append(tensor)
    model.operatorCodes, graph.operators = [], []
    for i, (kind, inputs, output) in enumerate(OPS):
        code, op = schema.OperatorCodeT(), schema.OperatorT()
        code.builtinCode = code.deprecatedBuiltinCode = getattr(schema.BuiltinOperator, kind)
        op.opcodeIndex, op.inputs, op.outputs = i, [names.index(n) for n in inputs], [names.index(output)]
        model.operatorCodes.append(code)
        graph.operators.append(op)
    graph.inputs, graph.outputs, model.subgraphs = [0], [len(names) - 1], [graph]
    builder = flatbuffers.Builder()
    builder.Finish(model.Pack(builder), b"TFL3")
    return bytes(builder.Output())


def test_facts_by_hand():
    weights = 8 * 3 * 3 * 4 + 3 * 3 * 8 + 10 * 240
    assert facts(file()) == Facts(
        parameters=weights + 8,  # the new shape is none
        parameter_bytes=weights + 4 * 8,
        weight_types=frozenset({"INT8"}),
        macs=6 * 5 * 8 * (3 * 3 * 4) + 6 * 5 * 8 * (3 * 3) + 10 * 240,
        live_bytes=2 * 240,  # both operands of the sum, which is written over one of them
        input_bytes=120,
        outputs=10,
    )
