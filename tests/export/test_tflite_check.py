"""What is refused before a runtime sees it: broken flatbuffers, and sound ones whose parts do not fit."""

import contextlib
import struct

import numpy as np
import pytest
from ai_edge_litert import schema_py_generated as schema
from flatbuffers import Builder
from graphs import BUNDLE, INT16_KINDS, Net, nets, quantize_by_hand, small_student
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tinyasc_export import tflite_check
from tinyasc_export.count import count
from tinyasc_export.errors import ModelFileError
from tinyasc_export.flatbuffer import MAX_TABLES, DamagedError, read_flatbuffer
from tinyasc_export.quantize import calibrate, quantize_int8, quantize_int16x8
from tinyasc_export.tflite import to_tflite
from tinyasc_export.tflite_check import check_tflite
from tinyasc_export.tflite_check_operators import RULES
from tinyasc_export.tflite_schema import OPTIONS, SCHEMA

NET = small_student()
INT8 = quantize_int8(NET.graph, calibrate(NET.graph, NET.features(3)))
FILES = {
    "fp32": to_tflite(NET.graph, BUNDLE),
    "fp16": to_tflite(NET.graph, BUNDLE, weights="float16"),
    "int8": to_tflite(INT8, BUNDLE),
    "old": to_tflite(INT8, BUNDLE, sealed=False),
    "bare": to_tflite(INT8),
}


@pytest.mark.parametrize("kind", FILES)
def test_whole_files_pass(kind):
    check_tflite(FILES[kind], "m")


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(nets(wide=True))
def test_files_of_random_nets_pass(net):
    check_tflite(to_tflite(net.graph), "m")
    check_tflite(to_tflite(net.graph, weights="float16"), "m")
    check_tflite(to_tflite(quantize_by_hand(net.graph, net.features())), "m")


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(nets(kinds=INT16_KINDS))
def test_int16_files_of_random_nets_pass(net):
    check_tflite(to_tflite(quantize_int16x8(net.graph, calibrate(net.graph, net.features(3)))), "m")


def test_the_schema_is_tensorflow_lites():
    """Names, order and count of fields, and the numbers of options and operators, against the generated classes."""
    for name, fields in SCHEMA.items():
        title = {"Quantization": "QuantizationParameters"}.get(name, name)
        cls = getattr(schema, title + "T", None) or getattr(schema, f"{title}OptionsT")
        ours = [field.split(":")[0].replace("_", "") for field in fields]
        theirs = [field.lower() for field in vars(cls())]
        renamed = {
            "activation": "fusedactivationfunction",
            "dilationw": "dilationwfactor",
            "dilationh": "dilationhfactor",
        }
        renamed |= {"filterw": "filterwidth", "filterh": "filterheight"}
        assert [renamed.get(field, field) for field in ours] == theirs, name
    for number, name in OPTIONS.items():
        assert getattr(schema.BuiltinOptions, f"{name}Options") == number
    for number, rule in RULES.items():
        assert getattr(schema.BuiltinOperator, rule.name) == number


def changed(change, kind="old"):
    """A file whose object tree was changed, well-formed again."""
    model = schema.ModelT.InitFromObj(schema.Model.GetRootAs(FILES[kind]))
    change(model, model.subgraphs[0])
    builder = Builder(1 << 14)
    builder.Finish(model.Pack(builder), b"TFL3")
    return bytes(builder.Output())


def op(model, name):
    """The first operator of a kind."""
    code = getattr(schema.BuiltinOperator, name)
    return next(o for o in model.subgraphs[0].operators if model.operatorCodes[o.opcodeIndex].builtinCode == code)


def tensor(model, name, place):
    """An operand of the first operator of a kind; place -1 is its output."""
    found = op(model, name)
    return model.subgraphs[0].tensors[found.outputs[0] if place == -1 else found.inputs[place]]


def put(part, key, index, value):
    values = np.array(getattr(part, key))
    values[index] = value
    setattr(part, key, values)


def constant(model, name, place, values):
    model.buffers[tensor(model, name, place).buffer].data = np.frombuffer(np.asarray(values).tobytes(), np.uint8)


BROKEN = {
    "no graph": (lambda m, g: setattr(m, "subgraphs", []), "0 graphs"),
    "two graphs": (lambda m, g: setattr(m, "subgraphs", [g, g]), "2 graphs"),
    "schema": (lambda m, g: setattr(m, "version", 2), "version 2"),
    "metadata buffer": (lambda m, g: setattr(m.metadata[0], "buffer", 9999), "names a buffer beyond"),
    "run order": (lambda m, g: setattr(m.metadata[0], "name", "model_control_dependencies"), "order of its operators"),
    "tensor buffer": (lambda m, g: setattr(g.tensors[3], "buffer", 9999), "names buffer 9999"),
    "type": (lambda m, g: setattr(g.tensors[3], "type", 5), "type 5"),
    "negative shape": (lambda m, g: put(g.tensors[0], "shape", 1, -32), r"shape \(1, -32"),
    "huge shape": (lambda m, g: setattr(g.tensors[0], "shape", np.array([65535] * 4, np.int32)), "does not fit"),
    "wrapping shape": (lambda m, g: setattr(g.tensors[0], "shape", np.array([2**30] * 6, np.int32)), "does not fit"),
    "rank": (lambda m, g: setattr(g.tensors[0], "shape", np.ones(99, np.int32)), "shape"),
    "signature": (lambda m, g: setattr(g.tensors[0], "shapeSignature", np.ones(2, np.int32)), "signature"),
    "variable": (lambda m, g: setattr(g.tensors[0], "isVariable", True), "between two clips"),
    "shorter weights": (
        lambda m, g: constant(m, "CONV_2D", 1, np.zeros(5, np.int8)), "has 5 bytes of values",
    ),
    "scales": (lambda m, g: setattr(g.tensors[0].quantization, "scale", np.ones(3, np.float32)), "scales"),
    "no scale": (lambda m, g: setattr(g.tensors[0], "quantization", None), "without one scale"),
    "nan": (lambda m, g: setattr(g.tensors[0].quantization, "scale", np.array([np.nan], np.float32)), "scale beyond"),
    "zero": (lambda m, g: setattr(g.tensors[0].quantization, "scale", np.zeros(1, np.float32)), "scale beyond"),
    "zero point": (lambda m, g: setattr(g.tensors[0].quantization, "zeroPoint", np.array([999])), "zero point beyond"),
    "axis": (
        lambda m, g: setattr(tensor(m, "CONV_2D", 1).quantization, "quantizedDimension", 3), "scales along axis 3",
    ),
    "huge multiplier": (
        lambda m, g: setattr(tensor(m, "CONV_2D", 1).quantization, "scale", np.full(8, 1e25, np.float32)),
        "fixed point",
    ),
    "add multiplier": (
        lambda m, g: setattr(tensor(m, "ADD", -1).quantization, "scale", np.array([1e-20], np.float32)), "fixed point",
    ),
    "inputs": (lambda m, g: setattr(g, "inputs", np.array([9999], np.int32)), "inputs are tensors"),
    "negative input": (lambda m, g: setattr(g, "inputs", np.array([-1], np.int32)), "inputs are tensors"),
    "no input": (lambda m, g: setattr(g, "inputs", np.zeros(0, np.int32)), "inputs are tensors"),
    "constant input": (lambda m, g: setattr(g, "inputs", op(m, "CONV_2D").inputs[1:2]), "is a constant"),
    "output": (lambda m, g: setattr(g, "outputs", np.array([1], np.int32)), "never written"),
    "operand": (lambda m, g: put(op(m, "CONV_2D"), "inputs", 1, 9999), "reads tensor 9999"),
    "no operand": (lambda m, g: put(op(m, "CONV_2D"), "inputs", 1, -1), "reads tensor -1"),
    "future": (lambda m, g: put(op(m, "CONV_2D"), "inputs", 0, len(g.tensors) - 1), "nothing has written"),
    "into a constant": (lambda m, g: put(op(m, "CONV_2D"), "outputs", 0, op(m, "CONV_2D").inputs[1]), "not free"),
    "into its input": (lambda m, g: put(op(m, "ADD"), "outputs", 0, op(m, "ADD").inputs[0]), "not free"),
    "reversed": (lambda m, g: g.operators.reverse(), "nothing has written"),
    "arity": (lambda m, g: setattr(op(m, "MEAN"), "inputs", op(m, "MEAN").inputs[:1]), "has 1 inputs"),
    "kind": (lambda m, g: setattr(op(m, "ADD"), "opcodeIndex", 9999), "kind 9999"),
    "custom": (lambda m, g: setattr(m.operatorCodes[0], "builtinCode", 32), "not among those that are checked"),
    "while": (lambda m, g: setattr(m.operatorCodes[0], "builtinCode", 119), "not among those that are checked"),
    "no options": (lambda m, g: [setattr(op(m, "CONV_2D"), "builtinOptionsType", 0)] and
                   setattr(op(m, "CONV_2D"), "builtinOptions", None), "options of kind 0"),
    "stride": (lambda m, g: setattr(op(m, "CONV_2D").builtinOptions, "strideH", 0), "a stride of 0"),
    "dilation": (lambda m, g: setattr(op(m, "CONV_2D").builtinOptions, "dilationHFactor", -1), "a dilation of -1"),
    "pool": (lambda m, g: setattr(op(m, "MAX_POOL_2D").builtinOptions, "filterWidth", 0), "a kernel of 0"),
    "huge pool": (lambda m, g: setattr(op(m, "MAX_POOL_2D").builtinOptions, "filterWidth", 2**30), "a window of"),
    "padding": (lambda m, g: setattr(op(m, "MAX_POOL_2D").builtinOptions, "padding", 7), "padding"),
    "activation": (lambda m, g: setattr(op(m, "ADD").builtinOptions, "fusedActivationFunction", 77), "activation"),
    "multiplier": (lambda m, g: setattr(op(m, "DEPTHWISE_CONV_2D").builtinOptions, "depthMultiplier", 0), "channels"),
    "shuffled": (lambda m, g: setattr(op(m, "FULLY_CONNECTED").builtinOptions, "weightsFormat", 1), "shuffled"),
    "axes": (lambda m, g: constant(m, "MEAN", 1, np.array([77], np.int32)), r"axes \[77\]"),
    "concat": (lambda m, g: setattr(op(m, "CONCATENATION").builtinOptions, "axis", 12), "along axis 12"),
    "slice": (lambda m, g: constant(m, "SLICE", 1, np.array([0, 0, 999, 0], np.int32)), "cuts"),
    "negative slice": (lambda m, g: constant(m, "SLICE", 2, np.array([1, 1, -7, 4], np.int32)), "cuts"),
    "reshape": (lambda m, g: constant(m, "RESHAPE", 1, np.array([1, 1, -3, 8], np.int32)), "names"),
    "moving axes": (lambda m, g: put(op(m, "MEAN"), "inputs", 1, op(m, "MEAN").inputs[0]), "axes of shape"),
    "declared": (lambda m, g: put(tensor(m, "ADD", -1), "shape", 1, 15), "is declared"),
    "bias": (lambda m, g: put(op(m, "CONV_2D"), "inputs", 2, op(m, "CONV_2D").inputs[1]), "as bias"),
    "float weights": (lambda m, g: setattr(tensor(m, "FULLY_CONNECTED", 2), "type", 2) or
                      put(op(m, "FULLY_CONNECTED"), "inputs", 1, op(m, "FULLY_CONNECTED").inputs[2]), "has the shapes"),
}  # fmt: skip


@pytest.mark.parametrize("name", BROKEN)
def test_parts_that_do_not_fit_are_refused_in_one_line(name):
    change, says = BROKEN[name]
    with pytest.raises(ModelFileError, match=says) as caught:
        check_tflite(changed(change), "m.tflite")
    assert str(caught.value).startswith("m.tflite: ") and "\n" not in str(caught.value)


def test_a_change_that_does_nothing_passes():
    check_tflite(changed(lambda m, g: None), "m")


def test_custom_operators_and_weights_elsewhere_are_refused():
    for change, says in (
        (lambda m, g: setattr(m.operatorCodes[0], "customCode", "Flex"), "OperatorCode.custom_code"),
        (lambda m, g: setattr(op(m, "ADD"), "customOptions", np.zeros(4, np.uint8)), "Operator.custom_options"),
        (lambda m, g: setattr(m.buffers[3], "offset", 4096), "Buffer.offset"),
        (lambda m, g: setattr(g.tensors[3], "sparsity", schema.SparsityParametersT()), "Tensor.sparsity"),
    ):
        with pytest.raises(ModelFileError, match=f"{says} is there"):
            check_tflite(changed(change), "m")


def test_memory_and_time_are_bounded():
    def padded(size):
        net = Net((1, 4, 4, 1))
        x = net.op("pad", ["x"], padding=(0, size, 0, size))
        net.flatten(net.op("mean", [x], axes=(1, 2)))
        return net.graph

    check_tflite(to_tflite(padded(5000)), "m")
    with pytest.raises(ModelFileError, match="does not fit in 1024 MiB"):
        check_tflite(to_tflite(padded(20000)), "m")

    def joined(count):
        net = Net((1, 1000, 1000, 1))
        parts = [net.conv("x", 64, (1, 1)) for _ in range(count)]
        net.flatten(net.op("mean", [net.op("concat", parts, axis=1)], axes=(1, 2)))
        return net.graph

    with pytest.raises(ModelFileError, match="activations do not fit in 1024 MiB"):
        check_tflite(to_tflite(joined(3)), "m")
    slow = Net((1, 1000, 1000, 64))
    slow.conv("x", 64, (7, 7), padding=(3, 3, 3, 3))
    slow.graph.output = slow.conv(slow.graph.output, 64, (3, 3), padding=(1, 1, 1, 1))
    slow.flatten(slow.op("mean", [slow.graph.output], axes=(1, 2)))
    with pytest.raises(ModelFileError, match=r"more than 1e\+11 steps"):
        check_tflite(to_tflite(slow.graph), "m")


@settings(max_examples=150, deadline=None)
@given(st.sampled_from(("fp32", "old", "bare")), st.data())
def test_broken_offsets_give_one_error_or_pass(kind, data):
    whole = bytearray(FILES[kind])
    for _ in range(data.draw(st.integers(1, 3))):
        at = 4 * data.draw(st.integers(0, len(whole) // 4 - 1))
        near = st.integers(-64, 64).map(lambda n, at=at: n + len(FILES[kind]) - at)
        value = data.draw(st.integers(0, 2**32 - 1) | near | st.sampled_from((0, 1, 2**31, 2**32 - 4)) | st.just(-at))
        struct.pack_into("<I", whole, at, value % 2**32)
    try:
        check_tflite(bytes(whole), "m.tflite")
    except ModelFileError as error:
        assert str(error).startswith("m.tflite: ") and "\n" not in str(error)


def test_every_truncation_is_refused():
    for data in FILES.values():
        for length in range(0, len(data) - 8, 97):
            with pytest.raises(ModelFileError):
                check_tflite(data[:length], "m")


def test_tables_that_share_bytes_do_not_multiply():
    """A vector of 20,000 offsets to one table of 20,000 offsets to one table: small in bytes, endless to read."""
    layout = {"Top": ("all:[Middle]",), "Middle": ("all:[Leaf]",), "Leaf": ("x:i",)}
    many = 20_000
    table = struct.pack("<HHHH", 6, 8, 4, 0)
    out = bytearray(struct.pack("<I", 12) + table)  # the layout of all tables stands at byte 4

    def add_table(at_vector):
        at = len(out)
        out.extend(struct.pack("<iI", at - 4, at_vector))
        return at

    top = add_table(4)
    vector = len(out)
    out.extend(struct.pack("<I", many) + bytes(4 * many))
    middle = add_table(4)
    inner = len(out)
    out.extend(struct.pack("<I", many) + bytes(4 * many))
    leaf = add_table(7)
    for start, target in ((vector, middle), (inner, leaf)):
        for i in range(many):
            at = start + 4 + 4 * i
            struct.pack_into("<I", out, at, target - at)
    assert top == 12
    with pytest.raises(DamagedError, match=f"more than {MAX_TABLES} tables"):
        read_flatbuffer(bytes(out), layout, "Top")


def test_a_flatbuffer_is_read_as_its_own_library_reads_it():
    model = schema.ModelT.InitFromObj(schema.Model.GetRootAs(FILES["old"]))
    ours = read_flatbuffer(FILES["old"], SCHEMA, "Model", OPTIONS.get)
    (graph,) = ours["subgraphs"]
    assert ours["description"] == model.description and len(ours["buffers"]) == len(model.buffers)
    for mine, theirs in zip(graph["tensors"], model.subgraphs[0].tensors, strict=True):
        np.testing.assert_array_equal(mine["shape"], theirs.shape)
        if theirs.quantization is not None:
            np.testing.assert_array_equal(mine["quantization"]["scale"], theirs.quantization.scale)
    for mine, theirs in zip(graph["operators"], model.subgraphs[0].operators, strict=True):
        np.testing.assert_array_equal(mine["inputs"], theirs.inputs)
        if isinstance(theirs.builtinOptions, schema.Conv2DOptionsT):
            options = mine["builtin_options"]
            assert options.get("dilation_h", 1) == theirs.builtinOptions.dilationHFactor
            assert options["stride_h"] == theirs.builtinOptions.strideH
    for mine, theirs in zip(ours["buffers"], model.buffers, strict=True):
        np.testing.assert_array_equal(mine.get("data", []), [] if theirs.data is None else theirs.data)


def test_signatures_of_other_converters_pass_and_must_name_what_is_there():
    def signed(index):
        def change(m, g):
            entry = schema.SignatureDefT()
            entry.signatureKey, entry.inputs, entry.outputs = "serving_default", [], []
            for key, at in ((entry.inputs, g.inputs[0]), (entry.outputs, index)):
                place = schema.TensorMapT()
                place.name, place.tensorIndex = "x", int(at)
                key.append(place)
            m.signatureDefs = [entry]

        return change

    check_tflite(changed(signed(1)), "m")
    with pytest.raises(ModelFileError, match="names what is not there"):
        check_tflite(changed(signed(9999)), "m")


@pytest.mark.parametrize(("fewer", "passes"), [(0, True), (1, False)])
def test_steps_are_the_nets_own_count(monkeypatch, fewer, passes):
    """The bound on time counts what `count` counts, and an element that is only moved once."""
    net = Net((1, 9, 8, 3))
    flat = net.flatten(net.depthwise(net.conv("x", 5, (3, 2), stride=(2, 1)), (3, 3)))
    net.linear(flat, 4)
    monkeypatch.setattr(tflite_check, "MAX_STEPS", count(net.graph).macs + net.shape(flat)[1] - fewer)
    with contextlib.nullcontext() if passes else pytest.raises(ModelFileError, match="steps"):
        check_tflite(to_tflite(net.graph), "m")
