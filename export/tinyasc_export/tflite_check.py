"""Checks a .tflite file before a runtime sees it, since runtimes are native code that trusts the file.

First the seal (`seal`), then, sealed or not, what LiteRT dereferences: every offset of the flatbuffer (`flatbuffer`),
constants against their shapes, indices against what they point into, scales, the order of operators, and each
operator's own rules with the shape that follows from its inputs (`tflite_check_operators`). Only operators that have
rules here pass. numpy and the standard library alone; about 3 ms for a student of 80 operators.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from tinyasc_export.errors import ModelFileError
from tinyasc_export.flatbuffer import DamagedError, read_flatbuffer
from tinyasc_export.seal import check_seal
from tinyasc_export.tflite_check_call import Operand, RefusedError, integral
from tinyasc_export.tflite_check_operators import RULES
from tinyasc_export.tflite_metadata import IDENTIFIER
from tinyasc_export.tflite_schema import BYTES, INT8, INT16, NAMES, OPTIONS, SCHEMA, UINT8

VERSION = 3
MAX_RANK = 6
MAX_LIVE_BYTES = 1 << 30  # of activations at once; a teacher at 256 mels has a tenth of it
MAX_STEPS = 10**11  # multiply-accumulates or reads of one inference, about a minute on one core
SCALES = (1e-30, 1e30)  # products of two stay finite in float64, and most in float32

_ZERO_POINTS = {INT8: (-128, 127), UINT8: (0, 255), INT16: (0, 0)}
# Metadata that LiteRT reads and follows by itself: the order in which operators run.
_FOLLOWED = b"model_control_dependencies"


def check_tflite(data: bytes, where: str) -> None:
    """Makes sure that a runtime may have this file.

    Args:
        data: the whole file.
        where: its name, for the error line.

    Raises:
        ModelFileError: no .tflite file, damaged, changed since it was written, or with parts that are not checked here.
    """
    if data[4:8] != IDENTIFIER:
        raise ModelFileError(f"{where}: not a TFLite model (its bytes 4 to 8 are not 'TFL3')")
    check_seal(data, where)
    try:
        model = read_flatbuffer(data, SCHEMA, "Model", OPTIONS.get)
        _check_model(model)
    except DamagedError as error:
        raise ModelFileError(f"{where}: the file is truncated or damaged ({error}); copy or export it again") from None
    except RefusedError as error:
        raise ModelFileError(f"{where}: cannot be run safely: {error}; export the model again") from None


def _check_model(model: dict[str, Any]) -> None:
    if model.get("version", 0) != VERSION:
        raise RefusedError(f"its schema has version {model.get('version', 0)}, expected {VERSION}")
    graphs, buffers = model.get("subgraphs", []), model.get("buffers", [])
    if len(graphs) != 1:
        raise RefusedError(f"it has {len(graphs)} graphs, expected one")
    places = [int(i) for i in model.get("metadata_buffer", ())]
    for entry in model.get("metadata", []):
        places.append(entry.get("buffer", 0))
        if entry.get("name") == _FOLLOWED:
            raise RefusedError("its metadata sets the order of its operators")
    if not all(0 <= place < len(buffers) for place in places):
        raise RefusedError(f"its metadata names a buffer beyond its {len(buffers)}")
    tensors = [_operand(i, t, buffers) for i, t in enumerate(graphs[0].get("tensors", []))]
    for signature in model.get("signature_defs", []):
        named = [entry.get("tensor_index", 0) for key in ("inputs", "outputs") for entry in signature.get(key, [])]
        if signature.get("subgraph_index", 0) != 0 or not all(i < len(tensors) for i in named):
            raise RefusedError("a signature names what is not there")
    _check_graph(graphs[0], tensors, model.get("operator_codes", []))


def _operand(index: int, tensor: dict[str, Any], buffers: list[dict[str, Any]]) -> Operand:
    """A tensor whose shape, content and scales fit each other."""
    shape = tuple(tensor["shape"].tolist()) if "shape" in tensor else ()
    kind, buffer = tensor.get("type", 0), tensor.get("buffer", 0)
    where = f"tensor {index}"
    if kind not in BYTES:
        raise RefusedError(f"{where} is of type {kind}, which has no place here")
    if len(shape) > MAX_RANK or not all(size > 0 for size in shape):
        raise RefusedError(f"{where} has the shape {shape}")
    signature = tensor.get("shape_signature", np.zeros(0, np.int32)).tolist()
    if signature and (
        len(signature) != len(shape) or any(s not in (-1, n) for s, n in zip(signature, shape, strict=True))
    ):
        raise RefusedError(f"{where} has the shape {shape} and the signature {tuple(signature)}")
    if tensor.get("is_variable", 0):
        raise RefusedError(f"{where} keeps its values between two clips")
    elements = math.prod(shape)
    if elements * BYTES[kind] > MAX_LIVE_BYTES:
        raise RefusedError(f"{where} of shape {shape} does not fit in {MAX_LIVE_BYTES >> 20} MiB")
    if buffer >= len(buffers):
        raise RefusedError(f"{where} names buffer {buffer} of {len(buffers)}")
    content = buffers[buffer].get("data")
    values = None
    if content is not None and len(content):
        if len(content) != elements * BYTES[kind]:
            raise RefusedError(f"{where} of shape {shape} in {NAMES[kind]} has {len(content)} bytes of values")
        values = content
    scale, zero_point, axis = _scales(where, shape, kind, tensor.get("quantization", {}))
    return Operand(where, shape, kind, values, scale, zero_point, axis)


def _scales(where: str, shape: tuple[int, ...], kind: int, q: dict[str, Any]) -> tuple[np.ndarray, np.ndarray, int]:
    scale = q.get("scale", np.zeros(0, np.float32)).astype(np.float64)
    zero_point = q.get("zero_point", np.zeros(0, np.int64))
    axis = q.get("quantized_dimension", 0)
    if q.get("details_type", 0):
        raise RefusedError(f"{where} has scales of a kind that is not known here")
    if len(scale) != len(zero_point) and len(zero_point) > 1:
        raise RefusedError(f"{where} has {len(scale)} scales and {len(zero_point)} zero points")
    if len(scale) > 1 and not (0 <= axis < len(shape) and len(scale) == shape[axis]):
        raise RefusedError(f"{where} of shape {shape} has {len(scale)} scales along axis {axis}")
    # Not `<=` twice: NaN must fail.
    if integral(kind) and not all(SCALES[0] <= s <= SCALES[1] for s in scale.tolist()):
        raise RefusedError(f"{where} has a scale beyond {SCALES[0]:g} to {SCALES[1]:g}")
    low, high = _ZERO_POINTS.get(kind, (0, 0))
    if len(zero_point) and not (low <= zero_point.min() and zero_point.max() <= high):
        raise RefusedError(f"{where} has a zero point beyond {low} to {high}")
    return scale, zero_point, axis


@dataclass
class _Use:
    """When a tensor is written and last read, in operators."""

    first: int
    last: int


def _check_graph(graph: dict[str, Any], tensors: list[Operand], codes: list[dict[str, Any]]) -> None:
    inputs, outputs = (graph.get(key, np.zeros(0, np.int32)).tolist() for key in ("inputs", "outputs"))
    if not inputs or not outputs or not all(0 <= i < len(tensors) for i in (*inputs, *outputs)):
        raise RefusedError(f"its inputs are tensors {inputs} and its outputs {outputs}, of {len(tensors)}")
    if any(tensors[i].values is not None for i in inputs):
        raise RefusedError("an input of it is a constant")
    operators = graph.get("operators", [])
    uses = {i: _Use(0, 0) for i in inputs}
    steps = 0
    for number, entry in enumerate(operators):
        code = _code(entry, codes)
        where = f"operator {number}"
        if code not in RULES:
            known = ", ".join(sorted(rule.name for rule in RULES.values()))
            raise RefusedError(
                f"{where} is of builtin kind {code}, which is not among those that are checked ({known})"
            )
        rule = RULES[code]
        where += f" ({rule.name})"
        reads, writes = (entry.get(key, np.zeros(0, np.int32)).tolist() for key in ("inputs", "outputs"))
        if len(writes) != 1 or not rule.fewest <= len(reads) <= rule.most:
            raise RefusedError(f"{where} has {len(reads)} inputs and {len(writes)} outputs")
        if len(entry.get("intermediates", ())) or any(entry.get("mutating_variable_inputs", ())):
            raise RefusedError(f"{where} keeps values between two clips")
        for place, i in enumerate(reads):
            if i == -1 and rule.optional_bias and place == 2:
                continue
            if not 0 <= i < len(tensors):
                raise RefusedError(f"{where} reads tensor {i} of {len(tensors)}")
            if tensors[i].values is None and i not in uses:
                raise RefusedError(f"{where} reads tensor {i}, which nothing has written")
            if i in uses:
                uses[i].last = number
        (result,) = writes
        if not 0 <= result < len(tensors) or result in uses or tensors[result].values is not None:
            raise RefusedError(f"{where} writes tensor {result}, which is not there or not free")
        uses[result] = _Use(number, number)
        steps += rule.check(where, entry, [None if i == -1 else tensors[i] for i in reads], tensors[result])
        if steps > MAX_STEPS:
            raise RefusedError(f"one clip would take more than {MAX_STEPS:g} steps")
    for i in outputs:
        if i not in uses:
            raise RefusedError(f"its output, tensor {i}, is never written")
        uses[i].last = len(operators)
    _check_memory(tensors, uses, len(operators))


def _code(entry: dict[str, Any], codes: list[dict[str, Any]]) -> int:
    index = entry.get("opcode_index", 0)
    if index >= len(codes):
        raise RefusedError(f"an operator is of kind {index} of {len(codes)}")
    # As LiteRT reads it: the older field holds 127 where the number is larger.
    return max(codes[index].get("deprecated_builtin_code", 0), codes[index].get("builtin_code", 0))


def _check_memory(tensors: list[Operand], uses: dict[int, _Use], count: int) -> None:
    """Refuses activations that are more at once than a runtime should be asked for."""
    change = [0] * (count + 2)
    for i, use in uses.items():
        size = math.prod(tensors[i].shape) * BYTES[tensors[i].kind]
        change[use.first] += size
        change[use.last + 1] -= size
    live = 0
    for step in change:
        live += step
        if live > MAX_LIVE_BYTES:
            raise RefusedError(f"its activations do not fit in {MAX_LIVE_BYTES >> 20} MiB")
