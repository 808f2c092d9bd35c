"""Checks an .onnx file before a runtime sees it, with the standard library alone.

First the seal (`seal`), then, sealed or not, the protocol buffer's framing down to every node and tensor, and what a
model of this kind has no use for: weights in other files, loops and branches, functions, operators of other makers,
strings. What shapes, types and values an operator may have is left to onnxruntime, which checks them and answers with
exceptions.

Field numbers are those of onnx.proto (IR version 10).
"""

from __future__ import annotations

from tinyasc_export.errors import ModelFileError
from tinyasc_export.protobuf import DamagedError, fields, message
from tinyasc_export.seal import check_seal

MAX_BYTES = 1 << 31  # a protocol buffer cannot be larger
MAX_NODES = 50_000

_MODEL_GRAPH, _MODEL_TRAINING, _MODEL_FUNCTIONS = 7, 20, 25
_GRAPH_NODE, _GRAPH_INITIALIZER, _GRAPH_SPARSE = 1, 5, 15
_NODE_KIND, _NODE_ATTRIBUTE, _NODE_DOMAIN = 4, 5, 7
_ATTRIBUTE_TENSOR, _ATTRIBUTE_GRAPH, _ATTRIBUTE_TENSORS, _ATTRIBUTE_GRAPHS = 5, 6, 10, 11
_ATTRIBUTE_SPARSE = (22, 23)
_TENSOR_STRINGS, _TENSOR_EXTERNAL, _TENSOR_LOCATION = 6, 13, 14
_OURS = (b"", b"ai.onnx")
# Their work is not bounded by the shapes that go in, or they draw numbers.
_BARRED = (b"If", b"Loop", b"Scan", b"SequenceMap", b"RandomNormal", b"RandomUniform", b"RandomNormalLike")
_BARRED += (b"RandomUniformLike", b"Multinomial", b"Bernoulli")


class _RefusedError(Exception):
    """A part that may not be there."""


def check_onnx(data: bytes, where: str) -> None:
    """Makes sure that a runtime may have this file.

    Args:
        data: the whole file.
        where: its name, for the error line.

    Raises:
        ModelFileError: no .onnx file, damaged, changed since it was written, or with parts that are refused here.
    """
    if len(data) >= MAX_BYTES:
        raise ModelFileError(f"{where}: {len(data)} bytes are more than an .onnx file can have")
    check_seal(data, where)
    try:
        _check_model(memoryview(data))
    except DamagedError as error:
        raise ModelFileError(f"{where}: not an ONNX model, or a damaged one ({error}); export it again") from None
    except _RefusedError as error:
        raise ModelFileError(f"{where}: cannot be run safely: {error}; export the model again") from None


def _check_model(model: memoryview) -> None:
    graphs = []
    for number, value in fields(model):
        if number in (_MODEL_TRAINING, _MODEL_FUNCTIONS):
            raise _RefusedError("it defines functions or training of its own")
        if number == _MODEL_GRAPH:
            graphs.append(message(value))
    if not graphs:
        raise DamagedError("it holds no graph")
    nodes = 0
    for graph in graphs:
        for number, value in fields(graph):
            if number == _GRAPH_NODE:
                nodes += 1
                if nodes > MAX_NODES:
                    raise _RefusedError(f"it has more than {MAX_NODES} operators")
                _check_node(message(value))
            elif number == _GRAPH_INITIALIZER:
                _check_tensor(message(value))
            elif number == _GRAPH_SPARSE:
                raise _RefusedError("it has sparse weights")


def _check_node(node: memoryview) -> None:
    kind, domain = b"", b""
    for number, value in fields(node):
        if number == _NODE_KIND:
            kind = bytes(message(value))
        elif number == _NODE_DOMAIN:
            domain = bytes(message(value))
        elif number == _NODE_ATTRIBUTE:
            for part, content in fields(message(value)):
                if part in (_ATTRIBUTE_GRAPH, _ATTRIBUTE_GRAPHS, *_ATTRIBUTE_SPARSE):
                    raise _RefusedError("an operator has a graph or sparse values inside")
                if part in (_ATTRIBUTE_TENSOR, _ATTRIBUTE_TENSORS):
                    _check_tensor(message(content))
    if domain not in _OURS or kind in _BARRED:
        name = b"::".join(part for part in (domain, kind) if part).decode("utf-8", "replace")
        raise _RefusedError(f"an operator is {name!r:.60}, which is not run here")


def _check_tensor(tensor: memoryview) -> None:
    for number, value in fields(tensor):
        if number == _TENSOR_EXTERNAL or (number == _TENSOR_LOCATION and value != 0):
            raise _RefusedError("its weights lie in another file, and only the model file itself is read")
        if number == _TENSOR_STRINGS:
            raise _RefusedError("it has strings as values")
