"""Small integer nets for emulated boards."""

import numpy as np

from tinyasc_export.api import cast, quantize_int8, quantize_int16x8
from tinyasc_export.graph import Graph, Tensor
from tinyasc_export.reference import run_all


def float_graph(side=12, channels=8, classes=5, seed=0, frames=None):
    """Convolution, depthwise with dilation, gate, pool, head; float32."""
    rng = np.random.default_rng(seed)
    graph = Graph(input="x", tensors={"x": Tensor("x", (1, side, frames or side, 1))})

    def weights(*shape):
        return graph.add_constant("w", rng.standard_normal(shape).astype(np.float32) / np.sqrt(np.prod(shape[1:])))

    def windows(kernel=(3, 3), dilation=(1, 1), padding=(1, 1, 1, 1)):
        return {"stride": (1, 1), "padding": padding, "dilation": dilation, "activation": "relu", "kernel": kernel}

    def conv(x, kind, shape, dilation=(1, 1), padding=(1, 1, 1, 1)):
        attrs = windows(dilation=dilation, padding=padding)
        del attrs["kernel"]
        return graph.add_op(kind, [x, weights(*shape), weights(shape[0] if kind == "conv2d" else shape[3])], attrs)

    y = conv("x", "conv2d", (channels, 3, 3, 1))
    y = conv(y, "depthwise_conv2d", (1, 3, 3, channels), (2, 1), (2, 2, 1, 1))
    y = conv(y, "conv2d", (channels, 1, 1, channels), padding=(0, 0, 0, 0))
    gate = graph.add_op("sigmoid", [graph.add_op("mean", [y], {"axes": (1, 2)})], {})
    y = graph.add_op("mul", [y, gate], {"activation": "none"})
    y = graph.add_op("max_pool", [y], {"kernel": (2, 2), "stride": (2, 2), "padding": (0, 0, 0, 0)})
    y = graph.add_op("mean", [y], {"axes": (1, 2)})
    y = graph.add_op("reshape", [y], {"shape": (1, channels)})
    graph.output = graph.add_op(
        "fully_connected", [y, weights(classes, channels), weights(classes)], {"activation": "none"}
    )
    graph.validate()
    return cast(graph, "float32")


def integer_graph(precision="int8", **options):
    graph = float_graph(**options)
    x = np.random.default_rng(1).standard_normal((16, *graph.tensors["x"].shape[1:])).astype(np.float32)
    values = run_all(graph, x)
    ranges = {name: (float(v.min()), float(v.max())) for name, v in values.items()}
    return (quantize_int8 if precision == "int8" else quantize_int16x8)(graph, ranges)
