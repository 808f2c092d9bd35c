"""The reader of ONNX metadata for the edge half, beside the onnx package's own."""

import random
import sys
from pathlib import Path

import onnx
import pytest
from google.protobuf.message import DecodeError
from hypothesis import given, settings
from hypothesis import strategies as st

sys.path.append(str(Path(__file__).parents[1] / "infer"))
import tiny_models as tiny

from tinyasc_export.bundle import METADATA_KEY, Bundle
from tinyasc_export.errors import ModelFileError
from tinyasc_export.onnx import to_onnx
from tinyasc_export.onnx_metadata import read_onnx_bundle

WHOLE = tiny.onnx(note="hello")


def by_onnx(data):
    """The bundle as the onnx package finds it."""
    entries = onnx.load_from_string(data).metadata_props
    text = next((entry.value for entry in entries if entry.key == METADATA_KEY), None)
    return None if text is None else Bundle.from_json(text, "m.onnx")


def test_it_reads_what_was_written():
    assert read_onnx_bundle(WHOLE, "m.onnx") == tiny.bundle(note="hello") == by_onnx(WHOLE)
    assert read_onnx_bundle(to_onnx(tiny.graph()), "m.onnx") is None


@given(st.dictionaries(st.text(max_size=8), st.text(max_size=300), max_size=4), st.integers(0, 2**31 - 1))
@settings(deadline=None)
def test_other_metadata_stands_beside_it(others, model_version):
    model = onnx.load_from_string(to_onnx(tiny.graph()))
    model.model_version = model_version
    model.doc_string = "x" * (model_version % 1000)
    others.pop(METADATA_KEY, None)
    onnx.helper.set_model_props(model, others)
    assert read_onnx_bundle(model.SerializeToString(), "m.onnx") is None
    onnx.helper.set_model_props(model, others | {METADATA_KEY: tiny.bundle().to_json()})
    assert read_onnx_bundle(model.SerializeToString(), "m.onnx") == tiny.bundle()


@pytest.mark.parametrize("end", [0, 1, 2, len(WHOLE) // 2, len(WHOLE) - 1])
def test_a_cut_file_is_refused(end):
    with pytest.raises(ModelFileError, match=r"^m\.onnx: "):
        read_onnx_bundle(WHOLE[:end], "m.onnx")


@given(st.binary(max_size=200))
def test_no_bytes_crash_it(data):
    try:
        assert read_onnx_bundle(data, "m.onnx") is None
    except ModelFileError as error:
        assert str(error).startswith("m.onnx: ") and "\n" not in str(error)


def test_damaged_files_are_read_as_the_package_reads_them_or_refused():
    """3,000 files with a byte changed, put in or taken out: never another error, never another bundle."""
    draw = random.Random(0)
    read = refused = 0
    for _ in range(3000):
        data = bytearray(WHOLE)
        at = draw.randrange(len(data))
        change = draw.choice(["flip", "in", "out"])
        if change == "flip":
            data[at] ^= 1 << draw.randrange(8)
        elif change == "in":
            data.insert(at, draw.randrange(256))
        else:
            del data[at]
        try:
            bundle = read_onnx_bundle(bytes(data), "m.onnx")
        except ModelFileError:
            refused += 1
            continue
        read += 1
        try:
            assert bundle == by_onnx(bytes(data))
        except DecodeError:  # the package looks into the graph too
            continue
    assert read > 300 and refused > 300
