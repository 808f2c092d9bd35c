"""From a torch module to the deployed graph, by way of `torch.export`.

This file walks the exported program and refuses what the graph cannot hold, by name and place; what each operator
becomes is in `capture_operators`.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch.fx.node import map_arg

from tinyasc_export.capture_operators import NCHW, Value, _Operators
from tinyasc_export.errors import CaptureError
from tinyasc_export.graph import Graph, Tensor

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


# What evaluation mode makes an identity.
IDENTITIES = ("dropout", "dropout_", "feature_dropout", "alpha_dropout", "contiguous", "clone", "detach", "alias")
# What may stand between the flattening of a map and the linear layer that takes its order in.
ON_FEATURES = ("linear", "batch_norm", "relu", "relu_", "sigmoid", "hardswish", "hardswish_", *IDENTITIES)


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
    values = (*module.parameters(), *module.buffers())
    first = next((v for v in values if v.is_floating_point()), torch.zeros(0))
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


BINARY = ("aten.add", "aten.mul", "aten.maximum")


class _Capture(_Operators):
    def __init__(self, program: torch.export.ExportedProgram, dtype: str) -> None:
        super().__init__(dtype)
        self.program = program
        self.values: dict[str, Any] = {}
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
            "aten.rsqrt": lambda x: self.unary("rsqrt", x),
            "aten.pow": self.power,
            "aten.square": self.power,
            "aten.maximum": self.maximum,
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
        for name in IDENTITIES:
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
            return np.array(state[sources[node.name]].detach().cpu())  # a copy: the module may train on
        n, c, h, w = node.meta["val"].shape
        self.graph.input = "x"
        self.graph.tensors["x"] = Tensor("x", (n, h, w, c), self.dtype)
        return Value("x", NCHW)

    def call(self, node: torch.fx.Node) -> Any:
        stack = node.meta.get("nn_module_stack") or {}
        self.module = list(stack.values())[-1][0].removeprefix("L['self'].") if stack else ""
        args: Any = map_arg(node.args, lambda n: self.values[n.name])
        kwargs: Any = map_arg(node.kwargs, lambda n: self.values[n.name])
        if node.target is operator.getitem:
            return args[0][args[1]]
        name = str(node.target).rsplit(".", 1)[0] if str(node.target).count(".") > 1 else str(node.target)
        if str(node.target) == "aten.max.other":
            name = "aten.maximum"
        if name not in self.handlers:
            raise self.refuse(f"operator {name} is not one that the deployed graph has")
        self.check(node, name, args)
        try:
            return self.handlers[name](*args, **kwargs)
        except TypeError as error:
            raise self.refuse(f"operator {name} is used with arguments that are not supported ({error})") from error

    def check(self, node: torch.fx.Node, name: str, args: Any) -> None:
        """Refuses computed weights, arithmetic on parameters, and changes in place that another value would see."""
        main, others = (args[:2], args[2:]) if name in BINARY else (args[:1], args[1:])
        if name == "aten.cat":
            main = args[0] if all(isinstance(part, Value) for part in args[0]) else ()
        if not any(isinstance(value, Value) for value in main):
            raise self.refuse(f"operator {name} works on a parameter or constant, which the deployed graph does not")
        if any(isinstance(value, Value) for value in others):
            raise self.refuse(f"operator {name} has weights that are computed from the input")
        values = [value for value in (*main, *others) if isinstance(value, Value)]
        if any(v.order is not None for v in values) and name.removeprefix("aten.") not in ON_FEATURES:
            raise self.refuse(f"a flattened map goes into {name}; only norms, activations and a linear may follow")
        if name in ("aten.relu_", "aten.hardswish_"):
            changed = node.args[0]
            shared = isinstance(changed, torch.fx.Node) and any(_is_view(user) for user in changed.users)
            while isinstance(changed, torch.fx.Node) and _is_view(changed) and not shared:
                changed = changed.args[0]
                shared = isinstance(changed, torch.fx.Node) and len(changed.users) > 1
            if shared:
                raise self.refuse(f"operator {name} changes a value in place that is also read under another shape")

    def finish(self, outputs: Any) -> None:
        if len(outputs) != 1 or not isinstance(value := self.values[outputs[0].name], Value):
            raise CaptureError(f"a student returns one tensor of logits, this module returns {len(outputs)} values")
        shape = self.shape(value)
        if len(shape) != 2:
            raise CaptureError(f"a student returns logits of shape (1, classes), this module returns {shape}")
        if value.order is not None:
            raise CaptureError("a student returns logits, this module returns a flattened map")
        self.graph.output = self.matrix(value).name
        self.graph.prune()


def _is_view(node: torch.fx.Node) -> bool:
    """Whether a node's result shares, or may share, the memory of its first argument."""
    return node.target is operator.getitem or str(node.target).partition(".")[2].partition(".")[0] in VIEWS
