"""Every student family through the whole export: torch, graph, files, and the runtimes that answer for them."""

from __future__ import annotations

import numpy as np
import pytest
from ai_edge_litert import schema_py_generated as schema
from runtimes import run_litert, run_onnx, run_tflm
from students import CLIPS, OPTIONS, Exported, s4

from tinyasc_export import reference
from tinyasc_export.count import parameter_bytes
from tinyasc_export.onnx import to_onnx
from tinyasc_export.tflite import to_tflite


@pytest.fixture(scope="module", params=OPTIONS)
def student(request):
    return Exported(*OPTIONS[request.param])


def largest(values: np.ndarray) -> float:
    return max(1.0, float(np.abs(values).max()))


def test_the_graph_equals_torch(student):
    actual = reference.run(student.double, student.features)
    np.testing.assert_allclose(actual, student.expected, rtol=1e-9, atol=1e-9 * largest(student.expected))


def test_float_files_equal_torch(student):
    tflite, onnx = to_tflite(student.graph), to_onnx(student.graph)
    x = student.features[:1].astype(np.float32)
    for actual in (run_litert(tflite, x), run_tflm(tflite, x), run_onnx(onnx, x)):
        np.testing.assert_allclose(actual, student.expected[:1], rtol=1e-4, atol=1e-4 * largest(student.expected))


def test_the_integer_reference_equals_micro_bit_for_bit(student):
    """Clips, and integers over their whole range, which no clip reaches."""
    rng = np.random.default_rng(3)
    noise = rng.integers(-128, 128, student.integers.shape).astype(np.int8)
    ends = np.full_like(noise[:1], -128), np.full_like(noise[:1], 127)
    x = np.concatenate([student.integers, noise[:2], *ends])
    data = to_tflite(student.int8)
    answers = reference.run(student.int8, x)
    for i in range(len(x)):
        expected = run_tflm(data, x[i : i + 1])
        np.testing.assert_array_equal(answers[i : i + 1], expected, err_msg=f"input {i}")
        litert = run_litert(data, x[i : i + 1], reference_kernels=True)
        # LiteRT rounds once in fully_connected alone; two of them in a row can make two steps of one.
        assert np.abs(litert.astype(int) - expected).max() <= (1 if i < CLIPS else 2)


def test_integers_mean_what_floats_do(student):
    out = student.int8.tensors[student.int8.output]
    logits = out.scale * (reference.run(student.int8, student.integers).astype(float) - out.zero_point)
    noise = ((logits - student.expected) ** 2).mean() / (student.expected**2).mean()
    # Of an untrained net, whose logits hang on noise; a fault of the arithmetic costs far more.
    assert 10 * np.log10(1 / noise) > student.least_sqnr


def test_integer_files_hold_integers_alone(student):
    model = schema.ModelT.InitFromObj(schema.Model.GetRootAs(to_tflite(student.int8), 0))
    types = {t.type for t in model.subgraphs[0].tensors}
    assert types == {schema.TensorType.INT8, schema.TensorType.INT32}
    assert schema.BuiltinOperator.TRANSPOSE not in {code.builtinCode for code in model.operatorCodes}


def test_students_fit_128_kilobytes(student):
    assert parameter_bytes(student.int8) <= 131072


def test_s4_at_64_x_44_makes_a_file_of_112_KB():
    _, graph, _ = s4()
    assert parameter_bytes(graph) < len(to_tflite(graph)) <= 112_000
