"""From a torch module to the deployed graph, by way of `torch.export`.

Values keep torch's logical dimensions while their tensors are NHWC: `_Value.axes` says on which axis of the tensor each
logical dimension lies, so that a transpose costs nothing. Where an operator needs the standard layout and only axes of
length one have to move, a reshape does it; a transpose that would have to move data is refused.
"""

from __future__ import annotations

import itertools
import math
import operator
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch.fx.node import map_arg

from tinyasc_export.errors import CaptureError
from tinyasc_export.graph import Graph, Tensor

NCHW = (0, 3, 1, 2)


VIEWS = (
    "alias",
    "chunk",
    "contiguous",
    "detach",
    "dropout",
    "flatten",
    "permute",
    "reshape",
    "slice",
    "split",
    "split_with_sizes",
    "squeeze",
    "transpose",
    "unsqueeze",
    "view",
)


@dataclass(frozen=True)
class _Value:
    """A tensor of the graph, and the axis that holds each logical dimension. Other axes have length one."""

    name: str
    axes: tuple[int, ...]


def capture(module: torch.nn.Module, shape: Sequence[int]) -> Graph:
    """Captures a module in evaluation mode as a float graph, operator by operator; nothing is rewritten yet.

    Args:
        module: maps one (1, channels, H, W) tensor to one (1, classes) tensor. Its type (float32 or float64) is kept.
        shape: of the input, batch of one included.

    Returns:
        The graph, validated. Input (1, H, W, channels), output (1, classes).

    Raises:
        CaptureError: an operator that the graph lacks, with its name and its module's path; or torch.export failed.
    """
    if len(shape) != 4 or shape[0] != 1:
        raise CaptureError(f"capture wants an input shape of (1, channels, height, width), got {tuple(shape)}")
    values = (v for v in itertools.chain(module.parameters(), module.buffers()) if v.is_floating_point())
    first = next(values, torch.zeros(0))
    if first.dtype not in (torch.float32, torch.float64):
        raise CaptureError(f"{type(module).__name__} is {first.dtype}; call .float() on it first")
    # Part by part, since a frozen batch norm may be in evaluation mode inside a module that trains.
    was_training = {part: part.training for part in module.modules()}
    try:
        example = torch.zeros(*shape, dtype=first.dtype, device=first.device)
        program = torch.export.export(module.eval(), (example,))
    except Exception as error:
        line = next(iter(str(error).strip().splitlines()), type(error).__name__)
        raise CaptureError(f"{type(module).__name__}: torch.export cannot trace it: {line}") from error
    finally:
        for part, training in was_training.items():
            part.training = training
    return _Capture(program, str(first.dtype).removeprefix("torch.")).run()


class _Capture:
    def __init__(self, program: torch.export.ExportedProgram, dtype: str) -> None:
        self.graph = Graph()
        self.program = program
        self.dtype = dtype
        self.values: dict[str, Any] = {}
        self.module = ""
        self.handlers: dict[str, Callable[..., Any]] = {
            "aten.conv2d": self.conv2d,
            "aten.linear": self.linear,
            "aten.batch_norm": self.batch_norm,
            "aten.add": lambda a, b: self.binary("add", a, b),
            "aten.mul": lambda a, b: self.binary("mul", a, b),
            "aten.relu": lambda x: self.unary("relu", x),
            "aten.relu_": lambda x: self.unary("relu", x),
            "aten.sigmoid": lambda x: self.unary("sigmoid", x),
            "aten.hardswish": lambda x: self.unary("hardswish", x),
            "aten.hardswish_": lambda x: self.unary("hardswish", x),
            "aten.mean": self.mean,
            "aten.amax": self.amax,
            "aten.max_pool2d": self.max_pool2d,
            "aten.avg_pool2d": self.avg_pool2d,
            "aten.adaptive_avg_pool2d": self.adaptive_avg_pool2d,
            "aten.cat": self.cat,
            "aten.split_with_sizes": self.split,
            "aten.split": self.split,
            "aten.chunk": self.chunk,
            "aten.slice": self.slice,
            "aten.transpose": self.transpose,
            "aten.permute": self.permute,
            "aten.squeeze": self.squeeze,
            "aten.unsqueeze": self.unsqueeze,
            "aten.flatten": self.flatten,
            "aten.view": self.reshape,
            "aten.reshape": self.reshape,
        }
        # What evaluation mode makes an identity.
        for name in (
            "dropout",
            "dropout_",
            "feature_dropout",
            "alpha_dropout",
            "contiguous",
            "clone",
            "detach",
            "alias",
        ):
            self.handlers[f"aten.{name}"] = lambda x, *args, **kwargs: x

    def run(self) -> Graph:
        state = {**self.program.state_dict, **self.program.constants}
        signature = self.program.graph_signature
        sources = {**signature.inputs_to_parameters, **signature.inputs_to_buffers}
        sources.update(signature.inputs_to_lifted_tensor_constants)
        for node in self.program.graph.nodes:
            if node.op == "placeholder":
                self.values[node.name] = self.placeholder(node, state, sources)
            elif node.op == "call_function":
                self.values[node.name] = self.call(node)
            elif node.op == "output":
                self.finish(node.args[0])
        self.graph.validate()
        return self.graph

    def placeholder(self, node: torch.fx.Node, state: dict[str, Any], sources: dict[str, str]) -> Any:
        if node.name in sources:
            # A copy: the graph must not follow the module's further training.
            return state[sources[node.name]].detach().cpu().numpy().copy()
        n, c, h, w = node.meta["val"].shape
        self.graph.input = "x"
        self.graph.tensors["x"] = Tensor("x", (n, h, w, c), self.dtype)
        return _Value("x", NCHW)

    def call(self, node: torch.fx.Node) -> Any:
        stack = node.meta.get("nn_module_stack") or {}
        self.module = list(stack.values())[-1][0].removeprefix("L['self'].") if stack else ""
        args: Any = map_arg(node.args, lambda n: self.values[n.name])
        kwargs: Any = map_arg(node.kwargs, lambda n: self.values[n.name])
        if node.target is operator.getitem:
            return args[0][args[1]]
        name = str(node.target).rsplit(".", 1)[0] if str(node.target).count(".") > 1 else str(node.target)
        if name not in self.handlers:
            raise self.refuse(f"operator {name} is not one that the deployed graph has")
        self.check(node, name, args)
        try:
            return self.handlers[name](*args, **kwargs)
        except TypeError as error:
            raise self.refuse(f"operator {name} is used with arguments that are not supported ({error})") from error

    def check(self, node: torch.fx.Node, name: str, args: Any) -> None:
        """Refuses computed weights, arithmetic on parameters, and changes in place that another value would see."""
        main, others = (args[:2], args[2:]) if name in ("aten.add", "aten.mul") else (args[:1], args[1:])
        if name == "aten.cat":
            main = args[0] if all(isinstance(part, _Value) for part in args[0]) else ()
        if not any(isinstance(value, _Value) for value in main):
            raise self.refuse(f"operator {name} works on a parameter or constant, which the deployed graph does not")
        if any(isinstance(value, _Value) for value in others):
            raise self.refuse(f"operator {name} has weights that are computed from the input")
        if name in ("aten.relu_", "aten.hardswish_"):
            changed = node.args[0]
            shared = isinstance(changed, torch.fx.Node) and any(_is_view(user) for user in changed.users)
            while isinstance(changed, torch.fx.Node) and _is_view(changed) and not shared:
                changed = changed.args[0]
                shared = isinstance(changed, torch.fx.Node) and len(changed.users) > 1
            if shared:
                raise self.refuse(f"operator {name} changes a value in place that is also read under another shape")

    def refuse(self, why: str) -> CaptureError:
        return CaptureError(
            f"module {self.module or '(top level)'}: {why}; rewrite that module, or keep it out of the student"
        )

    def finish(self, outputs: Any) -> None:
        if len(outputs) != 1 or not isinstance(value := self.values[outputs[0].name], _Value):
            raise CaptureError(f"a student returns one tensor of logits, this module returns {len(outputs)} values")
        shape = self.shape(value)
        if len(shape) != 2:
            raise CaptureError(f"a student returns logits of shape (1, classes), this module returns {shape}")
        self.graph.output = self.matrix(value).name
        self.graph.prune()

    # Layout ------------------------------------------------------------------------------------------------------

    def shape(self, value: _Value) -> tuple[int, ...]:
        """Logical shape."""
        full = self.graph.tensors[value.name].shape
        return tuple(full[a] for a in value.axes)

    def op(self, kind: str, inputs: list[str], **attrs: Any) -> str:
        return self.graph.add_op(kind, inputs, attrs, self.module)

    def standard(self, value: _Value) -> _Value:
        """The value in NHWC; only axes of length one may have to move."""
        shape = self.shape(value)
        if len(shape) != 4:
            raise self.refuse(f"a value of shape {shape} is used where a map of four dimensions is wanted")
        full = self.graph.tensors[value.name].shape
        if value.axes == NCHW and len(full) == 4:
            return value
        n, c, h, w = shape
        return self.move(value, (n, h, w, c), (0, 2, 3, 1), NCHW)

    def matrix(self, value: _Value) -> _Value:
        """The value as (1, features)."""
        if len(value.axes) != 2:
            raise self.refuse(f"a value of shape {self.shape(value)} is used where (1, features) or a map is wanted")
        if value.axes == (0, 1) and len(self.graph.tensors[value.name].shape) == 2:
            return value
        return self.move(value, self.shape(value), (0, 1), (0, 1))

    def move(self, value: _Value, target: tuple[int, ...], order: tuple[int, ...], axes: tuple[int, ...]) -> _Value:
        """Reshapes to `target`, whose axes hold the logical dimensions `order`, when no data has to move."""
        shape = self.shape(value)
        before = [a for a, size in sorted(zip(value.axes, shape, strict=True)) if size > 1]
        after = [value.axes[i] for i in order if shape[i] > 1]
        if before != after:
            raise self.refuse(f"a transpose of shape {shape} would have to move data, which no deployed operator does")
        return _Value(self.op("reshape", [value.name], shape=target), axes)

    # Operators ---------------------------------------------------------------------------------------------------

    def conv2d(
        self,
        x: _Value,
        weight: np.ndarray,
        bias: np.ndarray | None = None,
        stride: Sequence[int] = (1, 1),
        padding: Any = (0, 0),
        dilation: Sequence[int] = (1, 1),
        groups: int = 1,
    ) -> _Value:
        x = self.standard(x)
        out_channels, in_group = weight.shape[:2]
        kernel = weight.shape[2:]
        if padding == "same":
            total = [d * (k - 1) for d, k in zip(_pair(dilation), kernel, strict=True)]
            pads = (total[0] // 2, total[0] - total[0] // 2, total[1] // 2, total[1] - total[1] // 2)
        elif padding == "valid":
            pads = (0, 0, 0, 0)
        else:
            p = _pair(padding)
            pads = (p[0], p[0], p[1], p[1])
        attrs = {"stride": _pair(stride), "padding": pads, "dilation": _pair(dilation), "activation": "none"}
        if groups == 1:
            kind, packed = "conv2d", weight.transpose(0, 2, 3, 1)
        elif in_group == 1 and out_channels == groups:
            kind, packed = "depthwise_conv2d", weight.transpose(1, 2, 3, 0)
        else:
            raise self.refuse(
                f"a convolution with {groups} groups of {in_group} channels; only dense and depthwise are deployed"
            )
        inputs = [x.name, self.graph.add_constant("w", np.ascontiguousarray(packed))]
        if bias is not None:
            inputs.append(self.graph.add_constant("b", bias))
        return _Value(self.op(kind, inputs, **attrs), NCHW)

    def linear(self, x: _Value, weight: np.ndarray, bias: np.ndarray | None = None) -> _Value:
        if len(self.shape(x)) != 2:
            raise self.refuse(f"a linear layer on shape {self.shape(x)}; flatten to (1, features) first")
        x = self.matrix(x)
        inputs = [x.name, self.graph.add_constant("w", np.ascontiguousarray(weight))]
        if bias is not None:
            inputs.append(self.graph.add_constant("b", bias))
        return _Value(self.op("fully_connected", inputs, activation="none"), (0, 1))

    def batch_norm(
        self,
        x: _Value,
        weight: np.ndarray | None,
        bias: np.ndarray | None,
        mean: np.ndarray,
        variance: np.ndarray,
        training: bool,
        momentum: float,
        epsilon: float,
        cudnn: bool = False,
    ) -> _Value:
        del training, momentum, cudnn
        scale = 1 / np.sqrt(variance + epsilon)
        scale = scale * weight if weight is not None else scale
        offset = -mean * scale + (bias if bias is not None else 0)
        shape = [1] * len(self.graph.tensors[x.name].shape)
        shape[x.axes[1]] = -1
        out = self.op("mul", [x.name, self.constant(scale.reshape(shape))], activation="none")
        out = self.op("add", [out, self.constant(offset.reshape(shape))], activation="none")
        return _Value(out, x.axes)

    def constant(self, data: np.ndarray) -> str:
        return self.graph.add_constant("c", np.ascontiguousarray(data, dtype=self.dtype))

    def unary(self, kind: str, x: _Value) -> _Value:
        return _Value(self.op(kind, [x.name]), x.axes)

    def binary(self, kind: str, a: Any, b: Any) -> _Value:
        if not isinstance(a, _Value):
            a, b = b, a
        if not isinstance(b, _Value):
            data = np.asarray(b, dtype=self.dtype)
            if data.ndim > len(a.axes):
                raise self.refuse(f"{kind} with a constant of shape {data.shape}")
            # Places the constant's dimensions, aligned at the right as torch broadcasts, on the axes of `a`.
            shape = [1] * len(self.graph.tensors[a.name].shape)
            logical = (1,) * (len(a.axes) - data.ndim) + data.shape
            order = sorted(range(len(logical)), key=lambda i: a.axes[i])
            for axis, size in zip(a.axes, logical, strict=True):
                shape[axis] = size
            arranged = data.reshape(logical).transpose(order).reshape(shape)
            return _Value(self.op(kind, [a.name, self.constant(arranged)], activation="none"), a.axes)
        if len(a.axes) != len(b.axes):
            raise self.refuse(f"{kind} of shapes {self.shape(a)} and {self.shape(b)}")
        if a.axes != b.axes or len(self.graph.tensors[a.name].shape) != len(self.graph.tensors[b.name].shape):
            to = self.matrix if len(a.axes) == 2 else self.standard
            a, b = to(a), to(b)
        return _Value(self.op(kind, [a.name, b.name], activation="none"), a.axes)

    def reduced(self, x: _Value, dims: Sequence[int], keepdim: bool) -> tuple[list[int], tuple[int, ...]]:
        """Graph axes to reduce, and the axes of the result."""
        logical = sorted(d % len(x.axes) for d in dims)
        if not logical or 0 in logical:
            raise self.refuse(f"a reduction over dimensions {list(dims)} takes in the batch; name the others alone")
        kept = x.axes if keepdim else tuple(a for i, a in enumerate(x.axes) if i not in logical)
        return [x.axes[d] for d in logical], kept

    def mean(self, x: _Value, dims: Any = None, keepdim: bool = False) -> _Value:
        if dims is None:
            raise self.refuse("a mean over all dimensions, batch included; name the dimensions")
        axes, kept = self.reduced(x, _list(dims), keepdim)
        return _Value(self.op("mean", [x.name], axes=tuple(sorted(axes))), kept)

    def amax(self, x: _Value, dims: Any = (), keepdim: bool = False) -> _Value:
        axes, kept = self.reduced(x, _list(dims), keepdim)
        shape = self.graph.tensors[x.name].shape
        if len(shape) != 4 or not set(axes) <= {1, 2}:
            raise self.refuse(f"a maximum over dimensions {dims} of shape {self.shape(x)}; only over height and width")
        # A maximum over whole axes is a max pool as large as they are, which every microcontroller kernel set has.
        kernel = (shape[1] if 1 in axes else 1, shape[2] if 2 in axes else 1)
        return _Value(self.op("max_pool", [x.name], kernel=kernel, stride=(1, 1), padding=(0, 0, 0, 0)), kept)

    def pool(self, kind: str, x: _Value, kernel: Any, stride: Any, padding: Any) -> _Value:
        x = self.standard(x)
        p = _pair(padding)
        size = _pair(kernel)
        step = _pair(stride) if stride is not None and _list(stride) else size
        return _Value(self.op(kind, [x.name], kernel=size, stride=step, padding=(p[0], p[0], p[1], p[1])), NCHW)

    def max_pool2d(
        self,
        x: _Value,
        kernel: Any,
        stride: Any = None,
        padding: Any = 0,
        dilation: Any = 1,
        ceil_mode: bool = False,
    ) -> _Value:
        if _pair(dilation) != (1, 1) or ceil_mode or _pair(padding) != (0, 0):
            raise self.refuse("a max pool with padding, dilation or ceil_mode")
        return self.pool("max_pool", x, kernel, stride, padding)

    def avg_pool2d(
        self,
        x: _Value,
        kernel: Any,
        stride: Any = None,
        padding: Any = 0,
        ceil_mode: bool = False,
        count_include_pad: bool = True,
        divisor_override: int | None = None,
    ) -> _Value:
        del count_include_pad
        if ceil_mode or divisor_override is not None or _pair(padding) != (0, 0):
            # torch counts padded samples in the average, TFLite does not.
            raise self.refuse("an average pool with padding, ceil_mode or its own divisor")
        return self.pool("average_pool", x, kernel, stride, padding)

    def adaptive_avg_pool2d(self, x: _Value, size: Any) -> _Value:
        if _pair(size) != (1, 1):
            raise self.refuse(f"an adaptive average pool to {_pair(size)}; only to one value")
        return self.mean(x, (2, 3), keepdim=True)

    def cat(self, values: Sequence[_Value], dim: int = 0) -> _Value:
        parts = [self.standard(v) if len(v.axes) == 4 else self.matrix(v) for v in values]
        if len(parts) == 1:
            return parts[0]
        axis = parts[0].axes[dim % len(parts[0].axes)]
        return _Value(self.op("concat", [p.name for p in parts], axis=axis), parts[0].axes)

    def take(self, x: _Value, dim: int, start: int, length: int) -> _Value:
        shape = self.graph.tensors[x.name].shape
        if length < 1:
            raise self.refuse(f"a slice of dimension {dim} of shape {self.shape(x)} that holds nothing")
        begin, size = [0] * len(shape), list(shape)
        axis = x.axes[dim % len(x.axes)]
        begin[axis], size[axis] = start, length
        return _Value(self.op("slice", [x.name], begin=tuple(begin), size=tuple(size)), x.axes)

    def split(self, x: _Value, sizes: Any, dim: int = 0) -> list[_Value]:
        total = self.shape(x)[dim]
        if isinstance(sizes, int):
            sizes = [min(sizes, total - start) for start in range(0, total, sizes)]
        starts = np.cumsum([0, *sizes[:-1]])
        return [self.take(x, dim, int(s), int(n)) for s, n in zip(starts, sizes, strict=True)]

    def chunk(self, x: _Value, chunks: int, dim: int = 0) -> list[_Value]:
        return self.split(x, math.ceil(self.shape(x)[dim] / chunks), dim)

    def slice(self, x: _Value, dim: int = 0, start: int | None = None, end: int | None = None, step: int = 1) -> _Value:
        size = self.shape(x)[dim]
        first, last, _ = slice(start, end).indices(size)
        if step != 1:
            raise self.refuse(f"a slice with step {step}")
        return x if (first, last) == (0, size) else self.take(x, dim, first, last - first)

    def transpose(self, x: _Value, a: int, b: int) -> _Value:
        axes = list(x.axes)
        axes[a], axes[b] = axes[b], axes[a]
        return _Value(x.name, tuple(axes))

    def permute(self, x: _Value, order: Sequence[int]) -> _Value:
        return _Value(x.name, tuple(x.axes[i] for i in order))

    def squeeze(self, x: _Value, dims: Any = None) -> _Value:
        shape = self.shape(x)
        if dims is None:
            raise self.refuse("a squeeze of all dimensions, batch included; name the dimensions")
        drop = [d % len(shape) for d in _list(dims)]
        return _Value(x.name, tuple(a for i, a in enumerate(x.axes) if not (i in drop and shape[i] == 1)))

    def unsqueeze(self, x: _Value, dim: int) -> _Value:
        rank = len(self.graph.tensors[x.name].shape)
        free = [a for a in range(rank) if a not in x.axes]
        if not free:
            raise self.refuse(f"unsqueeze of shape {self.shape(x)} beyond {rank} dimensions")
        at = dim % (len(x.axes) + 1)
        return _Value(x.name, (*x.axes[:at], free[0], *x.axes[at:]))

    def flatten(self, x: _Value, start: int = 0, end: int = -1) -> _Value:
        shape = self.shape(x)
        if start % len(shape) != 1 or end % len(shape) != len(shape) - 1:
            raise self.refuse(f"a flatten of dimensions {start} to {end} of shape {shape}; only of all but the batch")
        return self.reshape(x, (1, math.prod(shape[1:])))

    def reshape(self, x: _Value, target: Sequence[int]) -> _Value:
        shape = self.shape(x)
        known = -math.prod(target)
        target = tuple(math.prod(shape) // known if n == -1 else n for n in target)
        if target == shape:
            return x
        if len(target) != 2 or target[0] != 1:
            raise self.refuse(f"a reshape from {shape} to {target}; only to (1, features)")
        return self.move(x, target, tuple(range(len(shape))), (0, 1))


def _pair(value: Any) -> tuple[int, int]:
    values = _list(value)
    return (values[0], values[0]) if len(values) == 1 else (values[0], values[1])


def _list(value: Any) -> list[int]:
    return [value] if isinstance(value, int) else list(value)


def _is_view(node: torch.fx.Node) -> bool:
    """Whether a node's result shares, or may share, the memory of its first argument."""
    return node.target is operator.getitem or str(node.target).partition(".")[2].partition(".")[0] in VIEWS
