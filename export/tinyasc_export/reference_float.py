"""The float kernels of the numpy reference: the specification of every operator in floating point.

Two rules follow TensorFlow Lite and not PyTorch: max pooling and average pooling ignore padding (an average
divides by the taps that lie inside the map), and a window that padding lets hang over the end reads zeros.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from tinyasc_export.errors import GraphError
from tinyasc_export.graph import Op, window_size

Kernel = Callable[[Op, list[np.ndarray]], np.ndarray]


def taps(x: np.ndarray, kernel: tuple[int, int], op: Op, fill: float = 0) -> list[tuple[tuple[int, int], np.ndarray]]:
    """What each tap of a sliding window reads, for all window positions at once.

    Args:
        x: (N, H, W, C).
        kernel: height and width of the window.
        op: carries `stride` and `padding`, and `dilation` if it has one.
        fill: the value of the padding.

    Returns:
        For each tap its (row, column) in the window and a view (N, out_h, out_w, C) of the padded map.
    """
    top, bottom, left, right = op.attrs["padding"]
    (sh, sw), (dh, dw) = op.attrs["stride"], op.attrs.get("dilation", (1, 1))
    padded = x
    if top or bottom or left or right:
        padded = np.pad(x, ((0, 0), (top, bottom), (left, right), (0, 0)), constant_values=fill)
    out_h = window_size(padded.shape[1], kernel[0], sh, dh)
    out_w = window_size(padded.shape[2], kernel[1], sw, dw)
    views = []
    for i in range(kernel[0]):
        for j in range(kernel[1]):
            rows = slice(i * dh, i * dh + (out_h - 1) * sh + 1, sh)
            columns = slice(j * dw, j * dw + (out_w - 1) * sw + 1, sw)
            views.append(((i, j), padded[:, rows, columns, :]))
    return views


def conv2d(op: Op, inputs: list[np.ndarray]) -> np.ndarray:
    """Convolution: (N, H, W, in) with (out, kh, kw, in) to (N, out_h, out_w, out).

    One matrix product per tap instead of one for the whole patch: no copy of the map per tap has to be kept.
    """
    x, w = inputs[0], inputs[1]
    y: np.ndarray | None = None
    for (i, j), view in taps(x, (w.shape[1], w.shape[2]), op):
        product = (view.reshape(-1, x.shape[3]) @ w[:, i, j, :].T).reshape(*view.shape[:3], w.shape[0])
        y = product if y is None else np.add(y, product, out=y)
    return _biased(y, inputs)


def depthwise_conv2d(op: Op, inputs: list[np.ndarray]) -> np.ndarray:
    """Depthwise convolution: (N, H, W, C) with (1, kh, kw, C) to (N, out_h, out_w, C)."""
    x, w = inputs[0], inputs[1]
    y: np.ndarray | None = None
    for (i, j), view in taps(x, (w.shape[1], w.shape[2]), op):
        product = view * w[0, i, j]
        y = product if y is None else np.add(y, product, out=y)
    return _biased(y, inputs)


def fully_connected(op: Op, inputs: list[np.ndarray]) -> np.ndarray:
    """Linear layer: (N, in) with (out, in) to (N, out)."""
    return _biased(inputs[0] @ inputs[1].T, inputs)


def _biased(y: np.ndarray | None, inputs: list[np.ndarray]) -> np.ndarray:
    assert y is not None, "a window has at least one tap"
    return np.add(y, inputs[2], out=y) if len(inputs) == 3 else y


def add(op: Op, inputs: list[np.ndarray]) -> np.ndarray:
    """Sum, with broadcasting."""
    return inputs[0] + inputs[1]


def mul(op: Op, inputs: list[np.ndarray]) -> np.ndarray:
    """Product, with broadcasting."""
    return inputs[0] * inputs[1]


def maximum(op: Op, inputs: list[np.ndarray]) -> np.ndarray:
    """The larger value, with broadcasting."""
    return np.maximum(inputs[0], inputs[1])


def mean(op: Op, inputs: list[np.ndarray]) -> np.ndarray:
    """Mean over `axes`, which stay as axes of length one."""
    return inputs[0].mean(axis=tuple(op.attrs["axes"]), keepdims=True)


def max_pool(op: Op, inputs: list[np.ndarray]) -> np.ndarray:
    """Maximum over each window; padding never wins."""
    views = [view for _, view in taps(inputs[0], tuple(op.attrs["kernel"]), op, fill=-np.inf)]
    y = views[0].copy()
    for view in views[1:]:
        np.maximum(y, view, out=y)
    return y


def average_pool(op: Op, inputs: list[np.ndarray]) -> np.ndarray:
    """Mean over the taps of each window that lie inside the map."""
    x = inputs[0]
    total = sum(view for _, view in taps(x, tuple(op.attrs["kernel"]), op))
    inside = np.ones((1, x.shape[1], x.shape[2], 1), x.dtype)
    count = sum(view for _, view in taps(inside, tuple(op.attrs["kernel"]), op))
    return np.asarray(total / count)


def pad(op: Op, inputs: list[np.ndarray]) -> np.ndarray:
    """Zeros around the map: `padding` is (top, bottom, left, right)."""
    top, bottom, left, right = op.attrs["padding"]
    return np.pad(inputs[0], ((0, 0), (top, bottom), (left, right), (0, 0)))


def concat(op: Op, inputs: list[np.ndarray]) -> np.ndarray:
    """Concatenation along `axis`; never along the batch."""
    axis, rank = op.attrs["axis"], inputs[0].ndim
    if axis % rank == 0:
        raise GraphError(f"concat (from {op.module or 'the graph'}): axis 0 is the batch")
    # A constant among the inputs holds one clip's values: every clip of the batch gets them.
    batch = max(x.shape[0] for x in inputs)
    return np.concatenate([np.broadcast_to(x, (batch, *x.shape[1:])) for x in inputs], axis)


def slice_(op: Op, inputs: list[np.ndarray]) -> np.ndarray:
    """A block of the input: `begin` and `size` per axis; never along the batch."""
    if op.attrs["begin"][0] != 0:
        raise GraphError(f"slice (from {op.module or 'the graph'}): axis 0 is the batch")
    block = (slice(b, b + n) for b, n in zip(op.attrs["begin"][1:], op.attrs["size"][1:], strict=True))
    return inputs[0][(slice(None), *block)]


def reshape(op: Op, inputs: list[np.ndarray]) -> np.ndarray:
    """The same values in the same order in another shape; a longer batch multiplies axis 0."""
    first, *rest = op.attrs["shape"]
    batch = inputs[0].size // int(np.prod(op.attrs["shape"]))
    return inputs[0].reshape(batch * first, *rest)


def relu(op: Op, inputs: list[np.ndarray]) -> np.ndarray:
    """max(x, 0)."""
    return np.maximum(inputs[0], 0)


def sigmoid(op: Op, inputs: list[np.ndarray]) -> np.ndarray:
    """1 / (1 + exp(-x)), through tanh, which cannot overflow."""
    return 0.5 * np.tanh(0.5 * inputs[0]) + 0.5


def hardswish(op: Op, inputs: list[np.ndarray]) -> np.ndarray:
    """Hard swish: x * min(max(x + 3, 0), 6) / 6 (MobileNetV3, section 5.2)."""
    return inputs[0] * np.clip(inputs[0] + 3, 0, 6) / 6


def rsqrt(op: Op, inputs: list[np.ndarray]) -> np.ndarray:
    """1 / sqrt(x), for x above 0."""
    return 1 / np.sqrt(inputs[0])


KERNELS: dict[str, Kernel] = {
    "conv2d": conv2d,
    "depthwise_conv2d": depthwise_conv2d,
    "fully_connected": fully_connected,
    "add": add,
    "mul": mul,
    "maximum": maximum,
    "mean": mean,
    "max_pool": max_pool,
    "average_pool": average_pool,
    "pad": pad,
    "concat": concat,
    "slice": slice_,
    "reshape": reshape,
    "relu": relu,
    "sigmoid": sigmoid,
    "hardswish": hardswish,
    "rsqrt": rsqrt,
}
