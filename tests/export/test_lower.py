"""Rewrites of the float graph: each keeps the function, does what it says, and keeps its hands off the rest."""

from __future__ import annotations

import copy
from collections import Counter

import numpy as np
import pytest
import torch
from graphs import Net
from hypothesis import given, settings
from hypothesis import strategies as st
from modules import in_torch, modules, randomize
from rewriting import assert_same_function, check_lowered, constant_op, fires, kinds, new, rests

from tinyasc.models import build
from tinyasc_export import lower as rewrites
from tinyasc_export import reference
from tinyasc_export.capture import capture
from tinyasc_export.count import macs, macs_per_op, parameters
from tinyasc_export.graph import WEIGHTED
from tinyasc_export.lower import cast, lower

# fold_affine ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("kind", ["mul", "add"])
@pytest.mark.parametrize("shape", ["channels", "scalar"])
@pytest.mark.parametrize("producer", ["conv", "depthwise", "linear"])
def test_affine_folds_into_the_operator_before_it(producer, kind, shape, bias):
    net = new((1, 5)) if producer == "linear" else new()
    if producer == "linear":
        x = net.linear("x", 4, bias=bias)
    elif producer == "conv":
        x = net.conv("x", 4, (3, 3), padding=(1, 1, 1, 1), stride=(2, 1), bias=bias)
    else:
        x = net.depthwise("x", (3, 2), padding=(1, 1, 1, 1), bias=bias)
    rank, channels = len(net.shape(x)), net.shape(x)[-1]
    constant = (1,) * (rank - 1) + ((channels if shape == "channels" else 1),)
    constant_op(net, kind, x, constant, first=bias, activation="relu")
    graph = fires(rewrites.fold_affine, net)
    assert len(graph.ops) == 1
    assert graph.ops[0].attrs["activation"] == "relu"


def test_a_batch_norm_folds_without_a_trace():
    net = new()
    x = net.conv("x", 4, (3, 3), padding=(1, 1, 1, 1), bias=False)
    x = constant_op(net, "mul", x, (1, 1, 1, 4))
    x = constant_op(net, "add", x, (1, 1, 1, 4))
    net.op("sigmoid", [x])
    assert rewrites.fold_affine(net.graph)
    graph = fires(rewrites.fold_affine, net)
    assert kinds(graph) == ["conv2d", "sigmoid"]
    assert len(graph.ops[0].inputs) == 3


def test_affine_does_not_fold():
    def case(make) -> None:
        net = new((1, 4, 4, 4))
        make(net)
        rests(rewrites.fold_affine, net)

    def two_readers(net):
        x = net.conv("x", 4, (1, 1))
        net.op("add", [constant_op(net, "mul", x, (1, 1, 1, 4)), x], activation="none")

    def read_as_output(net):
        x = net.conv("x", 4, (1, 1))
        constant_op(net, "mul", x, (1, 1, 1, 4))
        net.graph.output = x

    def after_an_activation(net):
        constant_op(net, "mul", net.conv("x", 4, (1, 1), activation="relu"), (1, 1, 1, 4))

    def after_a_relu(net):
        constant_op(net, "mul", net.op("relu", [net.conv("x", 4, (1, 1))]), (1, 1, 1, 4))

    def per_band(net):  # as many bands as channels: only the axis tells them apart
        constant_op(net, "mul", net.conv("x", 4, (1, 1)), (1, 4, 1, 1))

    def per_frame(net):
        constant_op(net, "add", net.conv("x", 4, (1, 1)), (1, 1, 4, 1))

    def a_whole_map(net):
        constant_op(net, "add", net.conv("x", 4, (1, 1)), (1, 4, 4, 4))

    def that_broadcasts(net):
        constant_op(net, "mul", net.conv("x", 1, (1, 1)), (1, 1, 1, 4))

    def after_a_pool(net):
        x = net.op("average_pool", [net.conv("x", 4, (1, 1))], kernel=(2, 2), stride=(2, 2), padding=(0, 0, 0, 0))
        constant_op(net, "mul", x, (1, 1, 1, 4))

    def not_a_constant(net):
        x = net.conv("x", 4, (1, 1))
        net.op("mul", [x, net.op("sigmoid", ["x"])], activation="none")

    def squared(net):
        x = net.conv("x", 4, (1, 1))
        net.op("mul", [x, x], activation="none")

    for make in (
        two_readers,
        read_as_output,
        after_an_activation,
        after_a_relu,
        per_band,
        per_frame,
        a_whole_map,
        that_broadcasts,
        after_a_pool,
        not_a_constant,
        squared,
    ):
        case(make)


# take_input_normalization --------------------------------------------------------------------------------------------


def taken(net: Net) -> tuple[np.ndarray, np.ndarray]:
    before = copy.deepcopy(net.graph)
    x = net.features(2)
    scale, offset = rewrites.take_input_normalization(net.graph)
    bands = net.shape("x")[1]
    assert scale.shape == offset.shape == (bands,) and scale.dtype == offset.dtype == np.float64
    net.graph.validate()
    normalized = x * scale[:, None, None] + offset[:, None, None]
    np.testing.assert_allclose(
        reference.run(net.graph, normalized), reference.run(before, x), rtol=1e-12, atol=1e-12, err_msg=str(net.graph)
    )
    return scale, offset


@pytest.mark.parametrize("first", [False, True])
def test_normalisation_per_band_is_taken(first):
    net = new()
    x = constant_op(net, "add", "x", (1, 6, 1, 1), first=first)
    x = constant_op(net, "mul", x, (1, 6, 1, 1), first=first)
    x = constant_op(net, "add", x, (1, 6, 1, 1))
    x = constant_op(net, "mul", x, (1, 6, 1, 1))
    net.conv(x, 2, (3, 3))
    values = [t.data.reshape(-1) for t in net.graph.constants()[:4]]
    scale, offset = taken(net)
    assert kinds(net.graph) == ["conv2d"]
    np.testing.assert_allclose(scale, values[1] * values[3])
    np.testing.assert_allclose(offset, (values[0] * values[1] + values[2]) * values[3])


def test_normalisation_of_a_single_band_map():
    net = new((1, 1, 7, 3))
    net.conv(constant_op(net, "mul", "x", (1, 1, 1, 1)), 2, (1, 3))
    taken(net)
    assert kinds(net.graph) == ["conv2d"]


def test_normalisation_is_left():
    def case(make, ops: list[str]) -> None:
        net = new((1, 3, 3, 3))
        make(net)
        scale, offset = taken(net)
        assert kinds(net.graph) == ops
        assert (scale == 1).all() and (offset == 0).all()

    def per_channel(net):
        constant_op(net, "mul", "x", (1, 1, 1, 3))

    def per_frame(net):
        constant_op(net, "add", "x", (1, 1, 3, 1))

    def with_an_activation(net):
        constant_op(net, "add", "x", (1, 3, 1, 1), activation="relu")

    def with_two_readers(net):
        net.op("add", [constant_op(net, "mul", "x", (1, 3, 1, 1)), "x"], activation="none")

    def behind_something(net):
        constant_op(net, "mul", net.op("relu", ["x"]), (1, 3, 1, 1))

    def doubled(net):
        net.op("add", ["x", "x"], activation="none")

    case(per_channel, ["mul"])
    case(per_frame, ["add"])
    case(with_an_activation, ["add"])
    case(with_two_readers, ["mul", "add"])
    case(behind_something, ["relu", "mul"])
    case(doubled, ["add"])


def test_normalisation_stops_at_the_first_that_stays():
    net = new()
    x = constant_op(net, "mul", "x", (1, 6, 1, 1))
    x = constant_op(net, "add", x, (1, 1, 1, 3))
    constant_op(net, "mul", x, (1, 6, 1, 1))
    taken(net)
    assert kinds(net.graph) == ["add", "mul"]


# merge_pointwise -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("readers", [1, 2])
def test_a_pointwise_from_one_channel_merges_into_the_depthwise_after_it(readers, bias):
    net = new((1, 6, 7, 1))
    x = net.conv("x", 4, (1, 1), bias=False)
    out = [
        net.depthwise(x, (3, 1), padding=(2, 2, 0, 0), dilation=(2, 1), bias=bias, activation="relu"),
        net.depthwise(x, (1, 3), padding=(0, 0, 2, 2), dilation=(1, 2), bias=bias),
    ]
    if readers == 1:
        net.graph.ops.pop()
        net.graph.output = out[0]
    else:
        net.op("add", out, activation="none")
    before = parameters(net.graph)
    graph = fires(rewrites.merge_pointwise, net)
    assert kinds(graph) == ["conv2d"] * readers + ["add"] * (readers - 1)
    assert parameters(graph) == before - 4


def test_a_pointwise_does_not_merge():
    def case(make, channels: int = 1) -> None:
        net = new((1, 6, 7, channels))
        make(net)
        rests(rewrites.merge_pointwise, net)

    padded = (1, 1, 1, 1)

    def with_a_bias(net):  # zero padding lies after the bias
        net.depthwise(net.conv("x", 4, (1, 1), bias=True), (3, 3), padding=padded)

    def with_an_activation(net):
        net.depthwise(net.conv("x", 4, (1, 1), bias=False, activation="relu"), (3, 3), padding=padded)

    def with_padding(net):
        net.depthwise(net.conv("x", 4, (1, 1), bias=False, padding=padded), (3, 3))

    def with_a_stride(net):
        net.depthwise(net.conv("x", 4, (1, 1), bias=False, stride=(2, 2)), (3, 3))

    def with_a_kernel(net):
        net.depthwise(net.conv("x", 4, (1, 2), bias=False), (3, 3))

    def before_another_reader(net):
        x = net.conv("x", 4, (1, 1), bias=False)
        net.op("add", [net.depthwise(x, (3, 3), padding=padded), x], activation="none")

    def before_a_dense_one(net):
        net.conv(net.conv("x", 4, (1, 1), bias=False), 4, (3, 3))

    def as_the_output(net):
        x = net.conv("x", 4, (1, 1), bias=False)
        net.depthwise(x, (3, 3))
        net.graph.output = x

    def alone(net):
        net.conv("x", 4, (1, 1), bias=False)

    for make in (
        with_a_bias,
        with_an_activation,
        with_padding,
        with_a_stride,
        with_a_kernel,
        before_another_reader,
        before_a_dense_one,
        as_the_output,
        alone,
    ):
        case(make)
    case(lambda net: net.depthwise(net.conv("x", 4, (1, 1), bias=False), (3, 3)), channels=2)


# merge_parallel_depthwise --------------------------------------------------------------------------------------------


def branches(net: Net, kind: str, windows, *, biases=(True, True), activation="none") -> None:
    out = []
    for (kernel, dilation, padding), bias in zip(windows, biases, strict=True):
        options = {"dilation": dilation, "padding": padding, "bias": bias}
        out.append(
            net.depthwise("x", kernel, **options) if kind == "depthwise" else net.conv("x", 4, kernel, **options)
        )
    net.op("add", out, activation=activation)


CROSS = (((3, 1), (2, 1), (2, 2, 0, 0)), ((1, 3), (1, 2), (0, 0, 2, 2)))


@pytest.mark.parametrize("biases", [(True, True), (True, False), (False, True), (False, False)])
@pytest.mark.parametrize("kind", ["depthwise", "conv"])
def test_two_dilated_branches_become_one(kind, biases):
    net = new()
    branches(net, kind, CROSS, biases=biases, activation="relu")
    graph = fires(rewrites.merge_parallel_depthwise, net)
    assert len(graph.ops) == 1
    merged = graph.ops[0]
    assert merged.attrs["dilation"] == (2, 2) and merged.attrs["activation"] == "relu"
    weight = graph.tensors[merged.inputs[1]]
    assert weight.shape[1:3] == (3, 3)
    assert (weight.data.reshape(-1, 9, weight.shape[3])[:, [0, 2, 6, 8]] == 0).all()
    assert len(merged.inputs) == 2 + any(biases)


@pytest.mark.parametrize(("length", "merges"), [(3, True), (4, True), (5, False), (9, False)])
def test_branches_merge_while_the_zeros_are_few(length, merges):
    """16 taps for 4 + 4, but not 25 for 5 + 5."""
    before, after = (length - 1) // 2, length // 2
    net = new()
    cross = (((length, 1), (1, 1), (before, after, 0, 0)), ((1, length), (1, 1), (0, 0, before, after)))
    branches(net, "depthwise", cross)
    (fires if merges else rests)(rewrites.merge_parallel_depthwise, net)


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_any_two_branches_keep_the_function(data):
    """Kernels, paddings, dilations and strides at random: what fires keeps the function, whatever it is."""
    size = data.draw(st.tuples(st.integers(1, 7), st.integers(1, 7)))
    net = new((1, *size, 2), seed=data.draw(st.integers(0, 99)))
    stride = data.draw(st.tuples(st.integers(1, 2), st.integers(1, 2)))
    kind, alike = data.draw(st.sampled_from(("depthwise", "conv"))), data.draw(st.sampled_from((True, True, False)))
    out = []
    for _ in range(2):
        kernel, dilation, padding = [], [], []
        for n in size:
            kernel.append(data.draw(st.integers(1, 3)))
            dilation.append(data.draw(st.integers(1, 3)))
            reach = dilation[-1] * (kernel[-1] - 1)
            before, after = data.draw(st.integers(0, 3)), data.draw(st.integers(0, 3))
            least = max(reach + 1 - n - before, 0)
            if alike:  # as many windows for both, as far as padding can do it
                step = stride[len(kernel) - 1]
                after = (-(-n // step) - 1) * step + reach + 1 - n - before
            padding += [before, max(after, least)]
        options = {"stride": stride, "padding": tuple(padding), "dilation": tuple(dilation)}
        options["bias"] = data.draw(st.booleans())
        channels = 2 if alike else data.draw(st.sampled_from((1, 2, 2)))
        out.append(
            net.depthwise("x", tuple(kernel), **options)
            if kind == "depthwise"
            else net.conv("x", channels, tuple(kernel), **options)
        )
    shapes = [net.shape(name) for name in out]
    try:
        np.broadcast_shapes(*shapes)
    except ValueError:
        return
    net.op("add", out, activation=data.draw(st.sampled_from(("none", "relu"))))
    before = copy.deepcopy(net.graph)
    if rewrites.merge_parallel_depthwise(net.graph):
        assert len(net.graph.ops) == 1
        assert shapes[0] == shapes[1]
    assert_same_function(net.graph, before, net.features(2))


def test_branches_are_left():
    def case(make) -> None:
        net = new((1, 5, 4, 3))
        make(net)
        rests(rewrites.merge_parallel_depthwise, net)

    def one_is_read_twice(net):
        a, b = net.depthwise("x", (1, 1)), net.depthwise("x", (1, 1))
        net.op("mul", [net.op("add", [a, b], activation="none"), a], activation="none")

    def one_is_the_output(net):
        a, b = net.depthwise("x", (1, 1)), net.depthwise("x", (1, 1))
        net.op("add", [a, b], activation="none")
        net.graph.output = b

    def one_is_rectified(net):
        a, b = net.depthwise("x", (1, 1), activation="relu"), net.depthwise("x", (1, 1))
        net.op("add", [a, b], activation="none")

    def of_two_inputs(net):
        a = net.depthwise("x", (1, 1))
        net.op("add", [a, net.depthwise(net.op("relu", ["x"]), (1, 1))], activation="none")

    def of_two_kinds(net):
        net.op("add", [net.conv("x", 3, (1, 1)), net.depthwise("x", (1, 1))], activation="none")

    def of_two_strides(net):
        a = net.depthwise("x", (5, 4))
        net.op("add", [a, net.depthwise("x", (5, 4), stride=(2, 2))], activation="none")

    def multiplied(net):
        net.op("mul", [net.depthwise("x", (1, 1)), net.depthwise("x", (1, 1))], activation="none")

    def with_itself(net):
        a = net.depthwise("x", (1, 1))
        net.op("add", [a, a], activation="none")

    def that_broadcast_along_the_map(net):
        net.op("add", [net.depthwise("x", (5, 1)), net.depthwise("x", (1, 1))], activation="none")

    def that_broadcast_along_the_channels(net):
        net.op("add", [net.conv("x", 1, (1, 1)), net.conv("x", 2, (1, 1))], activation="none")

    for make in (
        one_is_read_twice,
        one_is_the_output,
        one_is_rectified,
        of_two_inputs,
        of_two_kinds,
        of_two_strides,
        multiplied,
        with_itself,
        that_broadcast_along_the_map,
        that_broadcast_along_the_channels,
    ):
        case(make)


# fuse_relu -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["conv", "depthwise", "linear", "add", "mul"])
def test_a_relu_joins_the_operator_before_it(kind):
    net = new((1, 5)) if kind == "linear" else new()
    if kind == "linear":
        x = net.linear("x", 3)
    elif kind == "conv":
        x = net.conv("x", 3, (1, 1))
    elif kind == "depthwise":
        x = net.depthwise("x", (2, 2))
    else:
        x = net.op(kind, ["x", "x"], activation="none")
    net.op("relu", [net.op("relu", [x])])
    assert rewrites.fuse_relu(net.graph)
    graph = fires(rewrites.fuse_relu, net)
    assert len(graph.ops) == 1 and graph.ops[0].attrs["activation"] == "relu"


def test_a_relu_stays():
    def case(make) -> None:
        net = new()
        make(net)
        rests(rewrites.fuse_relu, net)

    def after_what_has_no_activation(net):
        net.op("relu", [net.op("average_pool", ["x"], kernel=(2, 2), stride=(2, 2), padding=(0, 0, 0, 0))])

    def after_the_input(net):
        net.op("relu", ["x"])

    def where_the_plain_value_is_read_too(net):
        x = net.conv("x", 3, (1, 1))
        net.op("add", [net.op("relu", [x]), x], activation="none")

    def where_the_plain_value_is_the_output(net):
        x = net.conv("x", 3, (1, 1))
        net.op("relu", [x])
        net.graph.output = x

    for make in (
        after_what_has_no_activation,
        after_the_input,
        where_the_plain_value_is_read_too,
        where_the_plain_value_is_the_output,
    ):
        case(make)


# make_padding_explicit, give_biases ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("size", "stride", "padding", "pads"),
    [
        ((6, 6), (1, 1), (1, 1, 1, 1), 0),  # SAME
        ((6, 6), (1, 1), (0, 0, 0, 0), 0),  # VALID
        ((7, 7), (2, 2), (1, 1, 1, 1), 0),  # SAME, on an odd size
        ((6, 6), (2, 2), (1, 1, 1, 1), 1),  # torch's padding on an even size
        ((6, 6), (1, 1), (2, 2, 2, 2), 1),
        ((6, 6), (1, 1), (1, 1, 0, 0), 1),  # SAME on one axis, VALID on the other
    ],
)
@pytest.mark.parametrize("kind", ["conv", "depthwise"])
def test_padding_without_a_name_becomes_an_operator(kind, size, stride, padding, pads):
    net = new((1, *size, 3))
    options = {"stride": stride, "padding": padding}
    _ = net.depthwise("x", (3, 3), **options) if kind == "depthwise" else net.conv("x", 2, (3, 3), **options)
    before = copy.deepcopy(net.graph)
    rewrites.make_padding_explicit(net.graph)
    assert_same_function(net.graph, before, net.features(2))
    assert Counter(kinds(net.graph))["pad"] == pads
    if pads:
        assert net.graph.ops[1].attrs["padding"] == (0, 0, 0, 0)
        assert net.graph.ops[0].attrs["padding"] == padding


def test_every_weighted_operator_gets_a_bias():
    net = new()
    x = net.depthwise(net.conv("x", 4, (1, 1), bias=False), (2, 2), bias=True)
    x = net.depthwise(x, (1, 1), bias=False)
    net.linear(net.flatten(x), 3, bias=False)
    before = copy.deepcopy(net.graph)
    rewrites.give_biases(net.graph)
    assert_same_function(net.graph, before, net.features(2))
    weighted = [op for op in net.graph.ops if op.kind in WEIGHTED]
    assert [len(op.inputs) for op in weighted] == [3] * 4
    assert parameters(net.graph) == parameters(before) + 4 + 4 + 3


# all of it -----------------------------------------------------------------------------------------------------------


@settings(max_examples=30, deadline=None)
@given(modules())
def test_random_modules(case):
    module, shape = case
    graph = cast(capture(module, shape), "float64")
    n, c, h, w = shape
    check_lowered(graph, np.random.default_rng(2).standard_normal((2 * n, h, w, c)))


@pytest.mark.parametrize(("base", "size"), [(64, (64, 44)), (8, (40, 31)), (12, (33, 32))])
def test_the_student(base, size):
    model = randomize(build("sepconv_ca", n_classes=10, n_mels=size[0], base_channels=base).double(), 7)
    x = np.random.default_rng(8).standard_normal((1, *size, 1))
    captured = capture(model, (1, 1, *size))
    lowered = check_lowered(captured, x)
    scale, offset = lower(captured)[1:]
    features = x * scale[:, None, None] + offset[:, None, None]
    np.testing.assert_allclose(reference.run(lowered, features), in_torch(model, x), rtol=1e-9, atol=1e-9)
    counts = Counter(kinds(lowered))
    # Per block: pointwise (the first is merged away), one depthwise, squeeze and two gates; no norm is left.
    assert counts["conv2d"] == 4 * 4 and counts["depthwise_conv2d"] == 3 and counts["fully_connected"] == 2
    assert counts["mul"] == 8 and counts["add"] == 1 and counts["relu"] == 0 and counts["pad"] == 0
    # A pointwise gains a bias of its width, except where it is merged; a 3x1 and a 1x3 become 3x3.
    norms = 2 * size[0] + 2 * 8 * 4 + 2 * 2 * 7 * base
    merged_away, zero_taps, biases = base, 3 * 7 * base, 3 * 2 * base + 7 * base
    expected = sum(p.numel() for p in model.parameters()) - norms - merged_away + zero_taps + biases
    assert parameters(lowered) == expected


@pytest.mark.parametrize(("n_mels", "published"), [(64, 11_595_008), (128, 23_049_472)])
def test_true_macs_of_the_student(n_mels, published):
    from fvcore import nn as fvcore

    model = build("sepconv_ca", n_classes=10, n_mels=n_mels).eval()
    graph = capture(model, (1, 1, n_mels, 44))
    assert macs(graph) == published
    analysis = fvcore.FlopCountAnalysis(model, torch.zeros(1, 1, n_mels, 44))
    analysis.unsupported_ops_warnings(False)
    by_operator = analysis.by_operator()
    assert by_operator["conv"] + by_operator["linear"] == published
    for op, cost in zip(graph.ops, macs_per_op(graph), strict=True):
        if op.kind in WEIGHTED:
            assert analysis.by_module()[op.module] == cost, op.module


def test_cast_makes_a_copy_in_the_other_type():
    net = new()
    net.conv("x", 2, (1, 1))
    single = cast(net.graph, "float32")
    single.validate()
    assert {t.dtype for t in single.tensors.values()} == {"float32"}
    assert {t.dtype for t in net.graph.tensors.values()} == {"float64"}
