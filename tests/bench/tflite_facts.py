"""What the benches read from a .tflite file: its operators, where its bytes go, its answers, its arena on a board."""

from __future__ import annotations

import os
import re
import tempfile
from collections import Counter
from dataclasses import dataclass

import numpy as np
from ai_edge_litert import schema_py_generated as schema
from ai_edge_litert.interpreter import Interpreter, OpResolverType

MICRO_ARENA_BYTES = 1 << 23
_OPERATORS = {code: name for name, code in vars(schema.BuiltinOperator).items() if isinstance(code, int)}
# Places of fields in the vtables of TensorFlow Lite's schema.fbs: 4 + 2 * the field's number.
_TENSOR_NAME, _QUANTIZATION_VECTORS = 10, {4: 4, 6: 4, 8: 4, 10: 8}  # min, max, scale: float32; zero point: int64


@dataclass(frozen=True)
class Contents:
    """A file's operators and bytes.

    Args:
        file_bytes: of the whole file.
        operators: how many of each kind.
        float_operators: those of them that read or write a float32 tensor.
        name_bytes: bytes of tensor names, a shared string once.
        quantization_bytes: bytes of scales, zero points and ranges, a shared vector once.
    """

    file_bytes: int
    operators: Counter[str]
    float_operators: Counter[str]
    name_bytes: int
    quantization_bytes: int


def contents(data: bytes) -> Contents:
    """Reads the first subgraph of a .tflite file."""
    model = schema.Model.GetRootAs(data)
    graph = model.Subgraphs(0)
    assert graph is not None and model.SubgraphsLength() == 1
    operators: Counter[str] = Counter()
    floats: Counter[str] = Counter()
    for i in range(graph.OperatorsLength()):
        op = graph.Operators(i)
        code = model.OperatorCodes(op.OpcodeIndex())
        name = _OPERATORS[max(code.BuiltinCode(), code.DeprecatedBuiltinCode())]
        operators[name] += 1
        used = [*op.InputsAsNumpy(), *op.OutputsAsNumpy()]
        if any(j >= 0 and graph.Tensors(j).Type() == schema.TensorType.FLOAT32 for j in used):
            floats[name] += 1
    names: dict[int, int] = {}  # where in the file -> bytes, so that shared vectors count once
    vectors: dict[int, int] = {}
    for i in range(graph.TensorsLength()):
        tensor = graph.Tensors(i)
        _measure(tensor._tab, _TENSOR_NAME, 1, names)
        if tensor.Quantization() is not None:
            for field, width in _QUANTIZATION_VECTORS.items():
                _measure(tensor.Quantization()._tab, field, width, vectors)
    return Contents(len(data), operators, floats, sum(names.values()), sum(vectors.values()))


def _measure(table, field: int, width: int, found: dict[int, int]) -> None:
    offset = table.Offset(field)
    if offset:
        found[table.Vector(offset)] = width * table.VectorLen(offset)


def logits(data: bytes, clips: np.ndarray) -> np.ndarray:
    """(N, classes) answers of an int8 file on LiteRT's reference kernels, in real units.

    Args:
        data: a file with one int8 input and one int8 output.
        clips: (N, n_mels, frames) float; quantised with the input's parameters and given its shape.
    """
    interpreter = Interpreter(
        model_content=data, num_threads=1, experimental_op_resolver_type=OpResolverType.BUILTIN_REF
    )
    interpreter.allocate_tensors()
    (given,), (got,) = interpreter.get_input_details(), interpreter.get_output_details()
    assert given["dtype"] == got["dtype"] == np.int8, (given["dtype"], got["dtype"])
    (scale, zero), (out_scale, out_zero) = given["quantization"], got["quantization"]
    answers = []
    for clip in clips:
        x = np.clip(np.rint(clip / scale) + zero, -128, 127).astype(np.int8)
        interpreter.set_tensor(given["index"], x.reshape(given["shape"]))
        interpreter.invoke()
        answers.append(interpreter.get_tensor(got["index"]).reshape(-1).astype(float))
    return out_scale * (np.stack(answers) - out_zero)


def micro_arena(data: bytes) -> dict[str, int]:
    """Bytes that TensorFlow Lite Micro takes in its arena: "total", "head" (activations), "tail" (what it keeps).

    The tflite-micro wheel is a 64-bit program: the tail, made of structures with pointers, is smaller on a board; the
    head is the same. The wheel prints to the process's standard error alone, so that is read.

    Raises:
        RuntimeError: the wheel does not run the file, or prints something else.
    """
    from tflite_micro import runtime

    with tempfile.TemporaryFile() as printed:
        kept = os.dup(2)
        os.dup2(printed.fileno(), 2)
        try:
            runtime.Interpreter.from_bytes(data, arena_size=MICRO_ARENA_BYTES).print_allocations()
        finally:
            os.dup2(kept, 2)
            os.close(kept)
        printed.seek(0)
        text = printed.read().decode()
    found = {part: int(size) for part, size in re.findall(r"Arena allocation (\w+) (\d+) bytes", text)}
    if set(found) != {"total", "head", "tail"}:
        raise RuntimeError(f"tflite-micro printed no arena sizes: {text!r}")
    return found
