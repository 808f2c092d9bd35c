import numpy as np
import pytest
import torch
from graphs import Net, nets, same_padding, small_student
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from tinyasc_export import reference
from tinyasc_export.errors import GraphError

SIZES = st.integers(1, 11)
SMALL = st.integers(1, 4)


def nchw(x: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(np.ascontiguousarray(x)).permute(0, 3, 1, 2)


def nhwc(y: torch.Tensor) -> np.ndarray:
    return y.permute(0, 2, 3, 1).numpy()


@st.composite
def windows(draw):
    """A window over a map with any padding, torch's way: (size, kernel, stride, padding, dilation)."""
    kernel, stride, dilation = ((draw(SMALL), draw(SMALL)) for _ in range(3))
    padding = tuple(draw(st.integers(0, 3)) for _ in range(4))
    size = []
    for i in (0, 1):
        span = dilation[i] * (kernel[i] - 1) + 1
        size.append(max(draw(SIZES), span - sum(padding[2 * i : 2 * i + 2])))
    return tuple(size), kernel, stride, padding, dilation


def padded(x: torch.Tensor, padding: tuple[int, ...], value: float = 0) -> torch.Tensor:
    top, bottom, left, right = padding
    return F.pad(x, (left, right, top, bottom), value=value)


@settings(max_examples=60, deadline=None)
@given(windows(), SMALL, SMALL, st.booleans(), st.integers(1, 3), st.integers(0, 999))
def test_convolutions_equal_torch(window, channels, out, bias, batch, seed):
    size, kernel, stride, padding, dilation = window
    net = Net((1, *size, channels), seed, "float64")
    options = {"stride": stride, "padding": padding, "dilation": dilation, "bias": bias}
    conv = net.conv("x", out, kernel, **options)
    depthwise = net.depthwise("x", kernel, activation="relu", **options)
    x = net.features(batch)
    values = reference.run_all(net.graph, x)

    constants = [torch.from_numpy(t.data) for t in net.graph.constants()]
    w, b = constants[0], constants[1] if bias else None
    dw, db = constants[-2 if bias else -1], constants[-1] if bias else None
    map_ = padded(nchw(x), padding)
    expected = F.conv2d(map_, w.permute(0, 3, 1, 2), b, stride, 0, dilation)
    np.testing.assert_allclose(values[conv], nhwc(expected), rtol=1e-9, atol=1e-12)
    expected = F.conv2d(map_, dw.permute(3, 0, 1, 2), db, stride, 0, dilation, groups=channels)
    np.testing.assert_allclose(values[depthwise], nhwc(F.relu(expected)), rtol=1e-9, atol=1e-12)


@settings(max_examples=40, deadline=None)
@given(windows(), SMALL, st.integers(0, 999))
def test_pools_equal_torch(window, channels, seed):
    size, kernel, stride, _, _ = window
    size = tuple(max(n, k) for n, k in zip(size, kernel, strict=True))
    padding = same_padding(size, kernel, stride)
    net = Net((1, *size, channels), seed, "float64")
    attrs = {"kernel": kernel, "stride": stride, "padding": padding}
    largest = net.op("max_pool", ["x"], **attrs)
    average = net.op("average_pool", ["x"], **attrs)
    x = net.features(2)
    values = reference.run_all(net.graph, x)
    expected = F.max_pool2d(padded(nchw(x), padding, -np.inf), kernel, stride)
    np.testing.assert_array_equal(values[largest], nhwc(expected))
    total = F.avg_pool2d(padded(nchw(x), padding), kernel, stride)
    inside = F.avg_pool2d(padded(torch.ones_like(nchw(x)), padding), kernel, stride)
    np.testing.assert_allclose(values[average], nhwc(total / inside), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize(
    ("kind", "function"),
    [("relu", F.relu), ("sigmoid", torch.sigmoid), ("hardswish", F.hardswish)],
)
def test_element_wise_equal_torch(kind, function):
    net = Net((1, 4, 5, 3), dtype="float64")
    net.op(kind, ["x"])
    x = 4 * net.features(3)
    np.testing.assert_allclose(reference.run(net.graph, x), function(torch.from_numpy(x)), rtol=1e-9, atol=1e-15)


def test_sigmoid_does_not_overflow():
    net = Net((1, 1, 1, 2))
    net.op("sigmoid", ["x"])
    with np.errstate(all="raise"):
        y = reference.run(net.graph, np.array([-1e30, 1e30], np.float32).reshape(1, 1, 1, 2))
    assert y.ravel().tolist() == [0.0, 1.0]


@settings(max_examples=40, deadline=None)
@given(nets())
def test_a_batch_is_its_clips_one_by_one(net):
    x = net.features(3).astype(np.float64)
    together = reference.run_all(net.graph, x)
    for i in range(3):
        alone = reference.run_all(net.graph, x[i : i + 1])
        for name, value in alone.items():
            np.testing.assert_allclose(together[name][i : i + 1], value, rtol=1e-9, atol=1e-12, err_msg=name)


def test_shapes_are_the_graphs():
    net = small_student()
    for name, value in reference.run_all(net.graph, net.features()).items():
        assert value.shape == net.shape(name)
        assert value.dtype == np.float32


def test_float32_weights_run_in_float64():
    net = small_student()
    x = net.features(2)
    single, double = reference.run(net.graph, x), reference.run(net.graph, x.astype(np.float64))
    assert double.dtype == np.float64
    np.testing.assert_allclose(single, double, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("x", "says"),
    [
        (np.zeros((1, 3, 4, 1), np.float32), "wants (N, 32, 20, 1)"),
        (np.zeros((32, 20, 1), np.float32), "wants (N, 32, 20, 1)"),
        (np.zeros((0, 32, 20, 1), np.float32), "wants (N, 32, 20, 1)"),
        (np.zeros((1, 32, 20, 1), np.int8), "int8"),
    ],
)
def test_a_wrong_input_is_refused(x, says):
    with pytest.raises(GraphError, match=says.replace("(", r"\(").replace(")", r"\)")):
        reference.run(small_student().graph, x)


@pytest.mark.parametrize("kind", ["concat", "slice"])
def test_the_batch_axis_is_left_alone(kind):
    net = Net((2, 1, 1, 1))
    if kind == "concat":
        net.op("concat", ["x", "x"], axis=0)
    else:
        net.op("slice", ["x"], begin=(1, 0, 0, 0), size=(1, 1, 1, 1))
    with pytest.raises(GraphError, match="batch"):
        reference.run(net.graph, np.zeros((2, 1, 1, 1), np.float32))
