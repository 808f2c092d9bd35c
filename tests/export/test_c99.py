"""C nets answer as the numpy reference does, bit for bit: every operator, random graphs, both types and roundings."""

from __future__ import annotations

import re

import numpy as np
import pytest
from c_program import Trial, check, compilers, sanitizers
from graphs import Net, quantize_features, small_student
from hypothesis import HealthCheck, Phase, given, settings
from integer_graphs import QUANTIZERS, Case, integer_graphs

from tinyasc_export.c99 import to_c
from tinyasc_export.errors import InputError
from tinyasc_export.graph import Graph
from tinyasc_export.quantize import calibrate

ROUNDINGS = ("tflite", "single")


def cases(dtype: str, count: int, *, derandomize: bool) -> list[Case]:
    """Random graphs, drawn first so that all of them are compiled at once."""
    drawn: list[Case] = []

    @settings(
        max_examples=count,
        deadline=None,
        database=None,
        derandomize=derandomize,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(integer_graphs(dtype))
    def draw(case):
        drawn.append(case)

    draw()
    return drawn


def written(drawn: list[Case]) -> list[Trial]:
    """Trials in turn with each rounding, of all graphs but those whose sums no proof keeps in 32 bits."""
    trials = []
    for i, case in enumerate(drawn):
        rounding = ROUNDINGS[i % 2]
        try:
            to_c(case.graph, rounding=rounding)
        except InputError as error:
            assert "fit 32 bits" in str(error)
            continue
        trials.append(Trial(case.graph, rounding, case.q))
    assert len(trials) >= 0.95 * len(drawn), f"{len(drawn) - len(trials)} of {len(drawn)} graphs were refused"
    return trials


@pytest.fixture
def sanitized() -> list[str]:
    if not sanitizers():
        pytest.skip("no compiler here links the address and undefined-behaviour sanitisers")
    return list(sanitizers())


@pytest.mark.parametrize("dtype", QUANTIZERS)
def test_a_sample_of_random_graphs(dtype, tmp_path, sanitized):
    check(written(cases(dtype, 40, derandomize=True)), tmp_path, sanitized, "-O1")


@pytest.mark.parametrize("name", compilers())
def test_every_compiler_gives_the_same_bits_without_a_warning(name, tmp_path):
    """A net with most operators, of each type and rounding; all C files pass -Wconversion as errors."""
    trials = []
    for dtype, gate in (("int8", "hardswish"), ("int16", "relu")):
        net = small_student(0, gate=gate)
        graph = QUANTIZERS[dtype](net.graph, calibrate(net.graph, net.features(8)))
        trials += [Trial(graph, rounding, quantize_features(graph, net.features(3))) for rounding in ROUNDINGS]
    check(trials, tmp_path, compilers()[name], "-O2")


def odd_net(seed: int) -> Net:
    """What students lack: means over other axes, broadcasts both ways, windows that hang over, copies of columns."""
    net = Net((1, 9, 7, 3), seed)
    x = net.conv("x", 5, (3, 2), stride=(2, 3), padding=(1, 1, 0, 1), activation="relu")
    x = net.conv(x, 7, (1, 1), padding=(1, 0, 0, 1))
    x = net.conv(x, 7, (1, 1), stride=(2, 1))
    x = net.depthwise(x, (2, 3), dilation=(2, 1), padding=(2, 0, 1, 1))
    rows, columns, channels = (net.op("mean", [x], axes=axes) for axes in ((2, 3), (1, 3), (1, 2)))
    x = net.op("mul", [net.op("mul", [rows, columns], activation="none"), channels], activation="relu")
    x = net.op("add", [net.op("mean", [x], axes=(3,)), x], activation="relu")
    x = net.op("maximum", [x, net.op("max_pool", [x], kernel=(2, 2), stride=(1, 1), padding=(0, 1, 1, 0))])
    x = net.op("average_pool", [x], kernel=(2, 3), stride=(2, 1), padding=(1, 1, 1, 1))
    x = net.op("pad", [x], padding=(1, 0, 2, 1))
    _, h, w, c = net.shape(x)
    inner = net.op("slice", [x], begin=(0, 1, 1, 1), size=(1, h - 1, w - 2, c - 3))
    x = net.op("concat", [inner, net.op("relu", [inner]), inner], axis=3)
    x = net.op("mul", [net.op("sigmoid", [x]), net.constant(1, 1, 1, 3 * (c - 3))], activation="none")
    net.linear(net.flatten(x), 5, activation="relu", bias=False)
    return net


def heavy(dtype: str) -> Graph:
    """A layer of each kind whose sums leave 32 bits at int16, by their biases."""
    net = Net((1, 4, 5, 4), 1)
    x = net.conv("x", 4, (1, 1))
    x = net.depthwise(x, (2, 1), padding=(1, 0, 0, 0))
    x = net.conv(x, 6, (3, 1), dilation=(2, 1), padding=(2, 2, 0, 0))
    graph = QUANTIZERS[dtype](net.graph, calibrate(net.graph, net.features(4)))
    for op in graph.ops:
        bias = graph.tensors[op.inputs[2]]
        bias.data = bias.data * 0 + np.where(np.arange(bias.data.size) % 2, -(2**33), 2**33)
    return graph


def operators(dtype: str) -> list[Trial]:
    """Nets that reach every kernel."""
    rng = np.random.default_rng(5)
    limits = np.iinfo(dtype)
    trials = []
    for rounding in ROUNDINGS:
        nets = [odd_net(1), odd_net(2)]
        if dtype == "int8":
            root = Net((1, 3, 4, 5))
            root.op("rsqrt", [root.op("hardswish", [root.op("relu", ["x"])])])
            nets.append(root)
        for net in nets:
            x = np.abs(net.features(4))
            graph = QUANTIZERS[dtype](net.graph, calibrate(net.graph, x))
            q = rng.integers(limits.min, limits.max + 1, (2, *x.shape[1:])).astype(dtype)
            trials.append(Trial(graph, rounding, np.concatenate([quantize_features(graph, x), q])))
        if dtype == "int16":
            graph = heavy(dtype)
            trials.append(Trial(graph, rounding, rng.integers(-32768, 32768, (3, 4, 5, 4)).astype(dtype)))
    return trials


@pytest.mark.parametrize("dtype", QUANTIZERS)
def test_every_kernel(dtype, tmp_path, sanitized):
    trials = operators(dtype)
    check(trials, tmp_path, sanitized, "-O1")
    called = {kernel for t in trials for step in to_c(t.graph, rounding=t.rounding).steps for kernel in step.kernels}
    kinds = {"add", "average_pool", "conv_1x1", "conv_2d", "copy", "depthwise", "fill", "max_pool", "maximum", "mean"}
    kinds |= {"mul", "lookup"} if dtype == "int8" else {"mul", "relu", "sigmoid"}
    assert kinds == {re.match(r"tinyasc_(.*?)(_\d)?_s\d", name)[1] for name in called}
    wide = {name for name in called if name.endswith("_wide")}
    assert len(wide) == (3 if dtype == "int16" else 0)


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("dtype", QUANTIZERS)
def test_many_random_graphs(dtype, tmp_path, sanitized):
    drawn = cases(dtype, 1000, derandomize=False)
    for i in range(0, len(drawn), 200):
        check(written(drawn[i : i + 200]), tmp_path / str(i), sanitized, "-O1")
