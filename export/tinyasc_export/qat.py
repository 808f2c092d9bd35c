"""Quantisation-aware training: the lowered graph as a torch module that rounds as the integer graph will.

Weights and activations pass through fake quantisation with the scales that `quantize` chooses; gradients pass straight
through. After training, `trained_graph` and `ranges` go to `quantize` as after calibration: weights, scales and zero
points are exported as trained. The forward pass sums in floating point, so it agrees with the integer graph within a
unit or two in the last place, not bit for bit.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tinyasc_export.errors import GraphError
from tinyasc_export.graph import WEIGHTED, Graph, Op
from tinyasc_export.quantize import INT8_MAX, Ranges, quantize_int8, quantize_int16x8, weight_scale

LIMITS = {8: (-128, 127), 16: (-32768, 32767)}
# Maps are NCHW inside: torch's axis for each axis of the graph.
TORCH_AXIS = (0, 2, 3, 1)
UNARY = {"relu": F.relu, "sigmoid": torch.sigmoid, "hardswish": F.hardswish}
BINARY = {"add": torch.add, "mul": torch.mul, "maximum": torch.maximum}


def to_module(graph: Graph, ranges: Ranges, *, activation_bits: int = 8) -> QuantizedModule:
    """The trainable module of a lowered float graph.

    Args:
        graph: lowered, float32; left as it is.
        ranges: of every activation, from `quantize.calibrate` or `calibration.least_squares_ranges`.
        activation_bits: 8 for int8, 16 for int16x8.

    Raises:
        InputError: an operator that int16x8 lacks.
    """
    return QuantizedModule(graph, ranges, activation_bits)


class QuantizedModule(nn.Module):
    """Runs a graph with fake quantisation. Shape: (batch, channels, H, W) -> (batch, classes).

    The ranges stand still while weights train; whoever trains measures them anew on `trained_graph` and sets them.
    """

    limits: Tensor

    def __init__(self, graph: Graph, ranges: Ranges, activation_bits: int) -> None:
        super().__init__()
        if activation_bits not in LIMITS:
            raise GraphError(f"activation_bits must be one of {tuple(LIMITS)}, got {activation_bits}")
        self.graph = copy.deepcopy(graph)
        self.bits = activation_bits
        weighted = [op for op in graph.ops if op.kind in WEIGHTED]
        data = {name: graph.tensors[name].data for op in weighted for name in op.inputs[1:]}
        self.values = nn.ParameterDict({k: nn.Parameter(torch.from_numpy(np.array(v))) for k, v in data.items()})
        self.names = [graph.input, *(op.output for op in graph.ops)]
        self.register_buffer("limits", torch.zeros(len(self.names), 2, dtype=torch.float64))
        self.set_ranges(ranges)

    def set_ranges(self, ranges: Ranges) -> None:
        """Takes the scales that `quantize` chooses for these ranges and the present weights."""
        quantize = quantize_int8 if self.bits == 8 else quantize_int16x8
        tensors = quantize(self.trained_graph(), ranges).tensors
        self.limits.copy_(torch.tensor([ranges[name] for name in self.names], dtype=torch.float64))
        self.scales = {
            name: (float(t.scale[0]), int(t.zero_point[0]))
            for name, t in tensors.items()
            if t.scale is not None and t.zero_point is not None and name not in self.values
        }

    def ranges(self) -> Ranges:
        """The range of every activation, for `quantize`."""
        return {name: (low, high) for name, (low, high) in zip(self.names, self.limits.tolist(), strict=True)}

    def trained_graph(self) -> Graph:
        """The float graph with the weights as trained."""
        graph = copy.deepcopy(self.graph)
        for name, value in self.values.items():
            graph.tensors[name].data = value.detach().cpu().numpy().copy()
        return graph

    def load_state_dict(self, state_dict: Mapping[str, Any], *args: Any, **kwargs: Any) -> Any:
        """Loads weights and ranges, and takes their scales."""
        result = super().load_state_dict(state_dict, *args, **kwargs)
        self.set_ranges(self.ranges())
        return result

    def forward(self, x: Tensor) -> Tensor:
        """Logits, rounded as the integer graph's."""
        computed = {self.graph.input: self._rounded(self.graph.input, x)}
        for op in self.graph.ops:
            y = self._run(op, computed)
            if op.attrs.get("activation") == "relu":
                y = y.relu()
            computed[op.output] = self._rounded(op.output, y)
        return computed[self.graph.output]

    def _rounded(self, name: str, x: Tensor) -> Tensor:
        return torch.fake_quantize_per_tensor_affine(x, *self.scales[name], *LIMITS[self.bits])

    def _weights(self, op: Op) -> tuple[Tensor, Tensor | None]:
        """The fake-quantised weight in the graph's layout, and the bias."""
        weight = self.values[op.inputs[1]]
        bias = self.values[op.inputs[2]] if len(op.inputs) == 3 else None
        numbers = [None if v is None else v.detach().cpu().numpy() for v in (weight, bias)]
        assert numbers[0] is not None
        found = weight_scale(op, numbers[0], numbers[1], self.scales[op.inputs[0]][0])
        scale = torch.from_numpy(found.astype(np.float32)).to(weight.device)
        zero = torch.zeros(len(scale), dtype=torch.int32, device=weight.device)
        axis = 3 if op.kind == "depthwise_conv2d" else 0
        return torch.fake_quantize_per_channel_affine(weight, scale, zero, axis, -INT8_MAX, INT8_MAX), bias

    def _run(self, op: Op, computed: dict[str, Tensor]) -> Tensor:
        """One operator on NCHW maps and (batch, features) vectors."""
        inputs = [computed[n] if n in computed else self._constant(n) for n in op.inputs if n not in self.values]
        x, attrs = inputs[0], op.attrs
        if op.kind in ("conv2d", "depthwise_conv2d"):
            weight, bias = self._weights(op)
            depthwise = op.kind == "depthwise_conv2d"
            weight = weight.permute(3, 0, 1, 2) if depthwise else weight.permute(0, 3, 1, 2)
            x = _pad(x, attrs["padding"])
            groups = len(weight) if depthwise else 1
            return F.conv2d(x, weight, bias, attrs["stride"], dilation=attrs["dilation"], groups=groups)
        if op.kind == "fully_connected":
            return F.linear(x, *self._weights(op))
        if op.kind in BINARY:
            return BINARY[op.kind](*inputs)
        if op.kind in UNARY:
            return UNARY[op.kind](x)
        if op.kind == "rsqrt":
            # An input that rounds to zero gives the largest output, as in the integer graph, and no gradient.
            scale, zero_point = self.scales[op.output]
            largest = scale * (LIMITS[self.bits][1] - zero_point)
            return torch.where(x > 0, torch.where(x > 0, x, 1.0).rsqrt(), largest)
        if op.kind == "mean":
            return x.mean(dim=[TORCH_AXIS[a] for a in attrs["axes"]], keepdim=True)
        if op.kind in ("max_pool", "average_pool") and not any(attrs["padding"]):
            pool = F.max_pool2d if op.kind == "max_pool" else F.avg_pool2d
            return pool(x, attrs["kernel"], attrs["stride"])
        if op.kind == "pad":
            return _pad(x, attrs["padding"])
        if op.kind == "concat":
            return torch.cat(inputs, dim=TORCH_AXIS[attrs["axis"]] if x.ndim == 4 else attrs["axis"])
        if op.kind == "slice":
            for axis in range(1, x.ndim):
                dim = TORCH_AXIS[axis] if x.ndim == 4 else axis
                x = x.narrow(dim, attrs["begin"][axis], attrs["size"][axis])
            return x
        if op.kind == "reshape":
            flat = x.permute(0, 2, 3, 1) if x.ndim == 4 else x
            out = flat.reshape(-1, *attrs["shape"][1:])
            return out.permute(0, 3, 1, 2) if out.ndim == 4 else out
        raise GraphError(f"{op.kind} of {op.module}: quantisation-aware training has no such operator")

    def _constant(self, name: str) -> Tensor:
        """A constant operand, NCHW, fake-quantised."""
        value = torch.from_numpy(np.asarray(self.graph.tensors[name].data)).to(self.limits.device)
        value = torch.fake_quantize_per_tensor_affine(value, *self.scales[name], *LIMITS[self.bits])
        return value.permute(0, 3, 1, 2) if value.ndim == 4 else value


def _pad(x: Tensor, padding: tuple[int, int, int, int]) -> Tensor:
    top, bottom, left, right = padding
    return F.pad(x, (left, right, top, bottom)) if any(padding) else x
