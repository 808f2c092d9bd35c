"""Writes an integer graph as a folder of C99: features in, logits out, in one static arena.

    NAME.h             what an application includes
    NAME.c             the arena, the operators' arguments and the order in which they run
    NAME_weights.c/.h  constant arrays, for flash
    tinyasc_*.c/.h     the kernels that this net calls, one function per file
    Makefile README.md

The answers are those of the numpy reference bit for bit. The code takes `stdint.h` and nothing else: no allocation, no
libm, no recursion.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from importlib import resources
from string import Template

import numpy as np

from tinyasc_export import __version__
from tinyasc_export.bundle import Bundle
from tinyasc_export.c99.calls import Call, Context, calls
from tinyasc_export.c99.constants import Constants, initializer
from tinyasc_export.c99.kernels import VALUE_TYPES
from tinyasc_export.count import macs_per_op
from tinyasc_export.errors import InputError
from tinyasc_export.graph import Graph, Tensor
from tinyasc_export.memory import ALIGNMENT, Plan, plan
from tinyasc_export.rounding import ROUNDINGS
from tinyasc_export.tflite_rules import check_integer_graph


@dataclass(frozen=True)
class Step:
    """One operator as it was written: what a profile or a comparison with the reference needs of it.

    Args:
        index: of the operator in the graph, and the argument of `NAME_run_operator`.
        kind: of the operator.
        module: that it came from.
        kernels: the C functions that it calls, in order; none for a view.
        macs: as `count.macs_per_op` counts them.
        output: name of the tensor that it writes.
        offset: of that tensor in the arena, in bytes; it holds until a later operator writes over it.
        nbytes: of that tensor.
    """

    index: int
    kind: str
    module: str
    kernels: tuple[str, ...]
    macs: int
    output: str
    offset: int
    nbytes: int


@dataclass(frozen=True)
class CSource:
    """A net in C.

    Args:
        name: the prefix of its public names: `NAME_invoke`, `NAME_arena`.
        files: text by file name, all in one folder.
        arena_bytes: of the static arena, the kernels' scratch memory included.
        constant_bytes: of all constant arrays: weights, biases, rescaling, tables.
        steps: its operators.
        state_bytes: of the static RAM beside the arena; 0 without a front end (`stream.with_front_end`).
    """

    name: str
    files: dict[str, str]
    arena_bytes: int
    constant_bytes: int
    steps: tuple[Step, ...]
    state_bytes: int = 0

    @property
    def sources(self) -> list[str]:
        """Names of the files that a compiler is given; the example program is none of them."""
        return sorted(name for name in self.files if name.endswith(".c") and name != self.example)

    @property
    def example(self) -> str:
        """Name of the example program, where there is one (`folder.complete`)."""
        return f"{self.name}_example.c"


def to_c(graph: Graph, bundle: Bundle | None = None, *, name: str = "model", rounding: str = "tflite") -> CSource:
    """The C source of an integer graph.

    Args:
        graph: int8 throughout, or int16x8, with a batch of one.
        bundle: labels that become `NAME_labels`.
        name: a C identifier, the prefix of the net's names.
        rounding: "tflite" or "single" (`tinyasc_export.rounding`).

    Raises:
        InputError: a graph in floating point, a name that is no C identifier, an accumulator that may overflow, or a
            shape that no kernel walks.
        GraphError: a graph that breaks the rules of integer graphs.
    """
    if graph.tensors[graph.input].dtype not in ("int8", "int16"):
        raise InputError("C is written from integer graphs: choose the precision int8 or int16x8")
    if not re.fullmatch(r"[A-Za-z][A-Za-z0-9_]*", name) or name.startswith("tinyasc_"):
        raise InputError(f"{name!r} cannot begin C names: letters, digits and underscores, a letter first")
    if rounding not in ROUNDINGS:
        raise InputError(f"rounding {rounding!r} is not one of {', '.join(ROUNDINGS)}")
    graph.validate()
    check_integer_graph(graph)
    return _Net(graph, bundle, name, rounding).source()


class _Net:
    def __init__(self, graph: Graph, bundle: Bundle | None, name: str, rounding: str) -> None:
        self.graph, self.bundle, self.name = graph, bundle, name
        self.plan: Plan = plan(graph)
        self.constants = Constants(name)
        self.context = Context(graph, self.constants, rounding)
        self.itemsize = np.dtype(graph.tensors[graph.input].dtype).itemsize
        self.calls: list[list[Call]] = [
            [] if op.output in self.plan.views else calls(self.context, op) for op in graph.ops
        ]
        self.scratch = [self._live_end(i) for i in range(len(graph.ops))]
        ends = [at + c.scratch * self.itemsize for at, part in zip(self.scratch, self.calls, strict=True) for c in part]
        self.arena_bytes = max(self.plan.peak, *ends, 0)

    def _live_end(self, step: int) -> int:
        """The first aligned byte behind everything that lives at an operator."""
        plan = self.plan
        live = [name for name, life in plan.lives.items() if life.first <= step <= life.last]
        return -(-max(plan.offsets[name] + plan.sizes[name] for name in live) // ALIGNMENT) * ALIGNMENT

    def source(self) -> CSource:
        network, header = self._network(), self._header()
        kernels: dict[str, str] = {}
        for part in self.calls:
            for call in part:
                kernels |= call.kernel.files()
        weights = f'#include "{self.name}_weights.h"\n\n{self.constants.definitions()}'
        files = {
            f"{self.name}.h": header,
            f"{self.name}.c": network,
            f"{self.name}_weights.h": _guarded(f"{self.name}_weights", self.constants.declarations()),
            f"{self.name}_weights.c": weights,
            **{name: kernels[name] for name in sorted(kernels)},
        }
        files["Makefile"] = makefile(self.name, files)
        files["README.md"] = self._readme()
        macs = macs_per_op(self.graph)
        steps = tuple(
            Step(
                i,
                op.kind,
                op.module,
                tuple(call.kernel.symbol for call in self.calls[i]),
                macs[i],
                op.output,
                self.plan.offsets[op.output],
                self.plan.sizes[op.output],
            )
            for i, op in enumerate(self.graph.ops)
        )
        return CSource(self.name, files, self.arena_bytes, self.constants.nbytes, steps)

    def _header(self) -> str:
        graph = self.graph
        x, y = graph.tensors[graph.input], graph.tensors[graph.output]
        return template(
            "net.h",
            name=self.name,
            upper=self.name.upper(),
            value=VALUE_TYPES[self.context.values],
            rounding=self.context.rounding,
            input=self._described(x),
            output=self._described(y),
            input_size=str(int(np.prod(x.shape))),
            output_size=str(int(np.prod(y.shape))),
            arena_bytes=str(self.arena_bytes),
            operators=str(len(graph.ops)),
            labels=self._labels_declared(),
        )

    def _readme(self) -> str:
        graph, bundle = self.graph, self.bundle
        x, y = graph.tensors[graph.input], graph.tensors[graph.output]
        details = ""
        if bundle is not None:
            labels = "".join(f"{i}. {label}\n" for i, label in enumerate(bundle.labels))
            # Values per band are long, and no page for people.
            front_end = "".join(f"    {k} = {v}\n" for k, v in bundle.front_end.items() if not isinstance(v, list))
            details = f"\n## Classes, by output\n\n{labels}\n## The features' front end\n\n{front_end}"
        return template(
            "README.md",
            name=self.name,
            upper=self.name.upper(),
            version=__version__,
            input=self._described(x),
            output=self._described(y),
            precision="int8" if x.dtype == "int8" else "int16x8 (16-bit activations, 8-bit weights)",
            rounding=self.context.rounding,
            arena_bytes=f"{self.arena_bytes:,}",
            constant_bytes=f"{self.constants.nbytes:,}",
            macs=f"{sum(macs_per_op(graph)):,}",
            details=details,
        )

    def _described(self, t: Tensor) -> str:
        assert t.scale is not None and t.zero_point is not None
        shape = " x ".join(map(str, t.shape[1:]))
        return f"{shape} values q, each {np.float32(t.scale.flat[0])!s} * (q {-int(t.zero_point.flat[0]):+d})"

    def _labels_declared(self) -> str:
        if self.bundle is None:
            return ""
        return f"\n/* Class names in the order of the outputs. */\nextern const char *const {self.name}_labels[];\n"

    def _network(self) -> str:
        graph, name = self.graph, self.name
        arguments, cases, includes = [], [], set()
        for i, (op, part) in enumerate(zip(graph.ops, self.calls, strict=True)):
            statements = []
            for j, call in enumerate(part):
                args = f"operator_{i}" + (f"_{j}" if len(part) > 1 else "")
                fields = "".join(f"    .{key} = {initializer(item)},\n" for key, item in call.args.items())
                arguments.append(f"static const {call.kernel.symbol}_args {args} = {{\n{fields}}};\n")
                includes.add(call.kernel.symbol)
                statements.append(f"        {call.kernel.symbol}({', '.join(self._operands(i, call, args))});\n")
            what = f"{op.kind}, {op.module}" if op.module else op.kind
            view = "" if statements else ": its bytes are its input's"
            cases.append(f"    case {i}: /* {_comment(what)}{view} */\n{''.join(statements)}        break;\n")
        x, y = graph.tensors[graph.input], graph.tensors[graph.output]
        return template(
            "net.c",
            name=name,
            upper=name.upper(),
            includes="".join(f'#include "{symbol}.h"\n' for symbol in sorted(includes)),
            arguments="\n".join(arguments),
            arena_values=str(-(-self.arena_bytes // self.itemsize)),
            cases="".join(cases),
            input_at=str(self.plan.offsets[x.name] // self.itemsize),
            output_at=str(self.plan.offsets[y.name] // self.itemsize),
            labels=self._labels_defined(),
        )

    def _operands(self, step: int, call: Call, args: str) -> list[str]:
        operands = [f"&{args}", *(self._address(name, call.start) for name in call.inputs)]
        operands.append(self._address(call.output, call.at))
        if call.scratch:
            operands.append(f"arena.values + {self.scratch[step] // self.itemsize}")
        if call.positions:
            operands.append(str(call.positions))
        return operands

    def _address(self, name: str, at: int) -> str:
        t = self.graph.tensors[name]
        if t.data is not None:
            array = self.constants.add(t.data, t.dtype).name
            return f"{array} + {at}" if at else array
        return f"arena.values + {self.plan.offsets[name] // self.itemsize + at}"

    def _labels_defined(self) -> str:
        if self.bundle is None:
            return ""
        labels = "".join(f"    {_text(label)},\n" for label in self.bundle.labels)
        return f"\nconst char *const {self.name}_labels[] = {{\n{labels}}};\n"


def makefile(name: str, files: Iterable[str]) -> str:
    """The Makefile of a folder with these files."""
    objects = " \\\n".join(f"    {n[:-2]}.o" for n in files if n.endswith(".c"))
    return template("Makefile", name=name, objects=objects, headers=" ".join(n for n in files if n.endswith(".h")))


def template(file: str, **words: str) -> str:
    """A file of `templates/`, its words filled in."""
    text = (resources.files("tinyasc_export.c99") / "templates" / file).read_text(encoding="utf-8")
    return Template(text).substitute(words)


def _guarded(name: str, body: str) -> str:
    guard = f"{name.upper()}_H"
    return f"#ifndef {guard}\n#define {guard}\n\n#include <stdint.h>\n\n{body}\n#endif\n"


def _comment(text: str) -> str:
    """Text that cannot end a comment."""
    return text.replace("*/", "* /").replace("\n", " ")


def _text(label: str) -> str:
    """A string literal of plain ASCII; octal escapes have three digits, so that no digit behind joins them."""
    plain = (chr(b) if 32 <= b < 127 and chr(b) not in '"\\?' else f"\\{b:03o}" for b in label.encode("utf-8"))
    return f'"{"".join(plain)}"'
