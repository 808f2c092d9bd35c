"""The hash inside a model file, held to hashlib and to the formats' own readers."""

import hashlib

import numpy as np
import pytest
from ai_edge_litert import schema_py_generated as schema
from graphs import BUNDLE, small_student
from hypothesis import given, settings
from hypothesis import strategies as st
from runtimes import run_litert, run_onnx

from tinyasc_export.bundle import Bundle
from tinyasc_export.errors import ModelFileError
from tinyasc_export.onnx import label_onnx, read_onnx_bundle, to_onnx
from tinyasc_export.seal import DIGITS, MARKER, UNSEALED, check_seal, seal
from tinyasc_export.tflite import read_bundle, to_tflite

GRAPH = small_student().graph
FILES = {"tflite": to_tflite(GRAPH, BUNDLE), "onnx": to_onnx(GRAPH, BUNDLE)}


@pytest.mark.parametrize("data", FILES.values(), ids=FILES)
def test_the_seal_is_blake2b_with_its_own_digits_as_zeros(data):
    seal_of = check_seal(data, "m")
    assert data.count(MARKER) == 1 and data.count(seal_of.encode()) == 1
    zeroed = data.replace(seal_of.encode(), b"0" * DIGITS)
    assert hashlib.blake2b(zeroed, digest_size=16).hexdigest() == seal_of


@settings(max_examples=150, deadline=None)
@given(st.sampled_from(sorted(FILES)), st.data())
def test_every_changed_bit_is_seen_or_took_the_marker_away(kind, data):
    whole = bytearray(FILES[kind])
    at, bit = data.draw(st.integers(0, len(whole) - 1)), data.draw(st.integers(0, 7))
    whole[at] ^= 1 << bit
    start = FILES[kind].index(MARKER)
    if start <= at < start + len(MARKER):
        assert check_seal(bytes(whole), "m") is None
    else:
        with pytest.raises(ModelFileError, match=r"^m\.x: damaged, it is not as it was written"):
            check_seal(bytes(whole), "m.x")


@pytest.mark.parametrize("data", FILES.values(), ids=FILES)
def test_cut_and_grown_files_are_seen(data):
    for changed in (data[:-1], data + b"\0", data[:-40], b"\0" + data):
        with pytest.raises(ModelFileError, match="damaged"):
            check_seal(changed, "m")


def test_files_without_a_card_and_older_ones_have_none():
    for data in (to_tflite(GRAPH), to_onnx(GRAPH), to_tflite(GRAPH, BUNDLE, sealed=False), b"", b"x" * 100):
        assert check_seal(data, "m") is None


def test_an_unsealed_file_is_the_sealed_one_but_for_its_description():
    plain, sealed = (
        schema.ModelT.InitFromObj(schema.Model.GetRootAs(to_tflite(GRAPH, BUNDLE, sealed=wanted)))
        for wanted in (False, True)
    )
    assert plain.description == b"tinyasc" and sealed.description.startswith(MARKER)
    assert len(plain.buffers) == len(sealed.buffers)
    for one, other in zip(plain.buffers, sealed.buffers, strict=True):
        np.testing.assert_array_equal(one.data, other.data)


def test_runtimes_and_readers_do_not_mind_it():
    x = small_student().features()
    plain = to_tflite(GRAPH, BUNDLE, sealed=False)
    np.testing.assert_array_equal(run_litert(FILES["tflite"], x), run_litert(plain, x))
    np.testing.assert_array_equal(run_onnx(FILES["onnx"], x), run_onnx(to_onnx(GRAPH), x))
    assert read_bundle(FILES["tflite"], "m") == read_onnx_bundle(FILES["onnx"], "m") == BUNDLE


def test_a_file_that_gets_another_card_is_sealed_anew():
    labelled = label_onnx(FILES["onnx"], Bundle(("a",), {}, {}), "elsewhere")
    assert check_seal(labelled, "m") not in (None, check_seal(FILES["onnx"], "m"))


def test_a_label_that_looks_like_a_seal_does_no_harm():
    odd = Bundle((UNSEALED, "b"), {}, {})
    for data in (to_tflite(GRAPH, odd), to_onnx(GRAPH, odd)):
        assert data.count(MARKER) == 2 and check_seal(data, "m")


def test_nothing_is_sealed_where_there_is_no_place():
    with pytest.raises(ValueError, match="not found"):
        seal(b"no place")
