"""Writes a deployed graph as an ONNX file: float32, float16 weights, int8 or int16 (QDQ)."""

from __future__ import annotations

import onnx
from google.protobuf.message import DecodeError
from onnx import helper

from tinyasc_export.bundle import METADATA_KEY, Bundle
from tinyasc_export.errors import GraphError, ModelFileError
from tinyasc_export.graph import Graph
from tinyasc_export.onnx_metadata import read_onnx_bundle
from tinyasc_export.onnx_nodes import INPUT_NAME, IR_VERSION, OPSET, OUTPUT_NAME, Writer
from tinyasc_export.onnx_quantized import QuantizedWriter
from tinyasc_export.seal import UNSEALED, seal

SEAL_KEY = "tinyasc_seal"

__all__ = ["INPUT_NAME", "IR_VERSION", "OPSET", "OUTPUT_NAME", "label_onnx", "read_onnx_bundle", "to_onnx"]


def to_onnx(graph: Graph, bundle: Bundle | None = None, *, weights: str = "float32") -> bytes:
    """The graph as an ONNX file.

    Args:
        graph: float32 throughout, or quantised throughout with int8 or int16 activations. Its input (1, H, W, C)
            becomes "features" (1, C, H, W), its output "logits"; both are float32 in every file.
        bundle: what travels with the graph, written into `metadata_props` under `tinyasc`, with the file's hash
            (`tinyasc_export.seal`) under `tinyasc_seal`; None for none.
        weights: "float32" or "float16", of a float graph's constants. In float16 a Cast follows each, so that the
            arithmetic stays float32 on every runtime.

    Returns:
        The file's bytes, equal for equal graphs; the ONNX checker has passed them.

    Raises:
        GraphError: the graph breaks its own rules, mixes types, joins tensors of unequal rank, or holds a constant
            that float16 cannot.
    """
    graph.validate()
    if weights not in ("float32", "float16"):
        raise GraphError(f"weights {weights!r} must be 'float32' or 'float16'")
    if graph.tensors[graph.input].quantized:
        model = QuantizedWriter(graph).model()
    else:
        for t in graph.tensors.values():
            if t.dtype != "float32" or t.quantized:
                raise GraphError(f"tensor {t.name} is {t.dtype}; a float ONNX file wants float32 throughout")
        model = Writer(graph, half=weights == "float16").model()
    return _written(model, bundle)


def label_onnx(data: bytes, bundle: Bundle, doc_string: str) -> bytes:
    """An ONNX file of another writer with our bundle and a line that says who wrote it; the checker has passed it.

    Raises:
        ModelFileError: not an ONNX model.
    """
    model = _parsed(data, "the model")
    model.doc_string = doc_string
    return _written(model, bundle)


def _written(model: onnx.ModelProto, bundle: Bundle | None) -> bytes:
    """The checked model as bytes, sealed where it carries a bundle."""
    if bundle is not None:
        helper.set_model_props(model, {SEAL_KEY: UNSEALED, METADATA_KEY: bundle.to_json()})
    onnx.checker.check_model(model, full_check=True)
    data = model.SerializeToString(deterministic=True)
    return data if bundle is None else seal(data)


def _parsed(data: bytes, where: str) -> onnx.ModelProto:
    try:
        model = onnx.load_model_from_string(data)
    except DecodeError:
        raise ModelFileError(f"{where}: not an ONNX model, or a damaged one; export it again") from None
    # Protocol buffers have no signature: an empty file, for one, is a valid message without any field.
    if not model.ir_version or not model.graph.node:
        raise ModelFileError(f"{where}: not an ONNX model (it holds no graph)")
    return model
