"""Static memory plan of a graph: where in one arena every activation lies, and how large the arena must be.

A tensor lives from the operator that writes it to the last one that reads it. Three kinds of storage are shared:

* *views*: a reshape, a slice that is one contiguous block, and a concatenation of blocks that are written where they
  are wanted, need no code: their output's bytes are their input's;
* *in place*: element-wise operators (`ELEMENTWISE`) write over an operand that has the output's shape and dies there;
* *behind the reader*: a pool without padding in front writes over its own input, which dies there. It holds for kernels
  that compute outputs in the order of their addresses: element k is read from addresses that are not before its own, so
  no write reaches a value that is still to be read. `Plan.raster` lists the operators that rely on it.

Tensors that share storage form a rigid block; blocks are placed one after the other at the lowest offset where nothing
that lives at the same time is hit, in several orders, and the best is kept.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from tinyasc_export.graph import Graph, Op, Tensor

ALIGNMENT = 16
ELEMENTWISE = ("relu", "sigmoid", "hardswish", "rsqrt", "add", "mul", "maximum")
POOLS = ("max_pool", "average_pool")


@dataclass(frozen=True)
class Life:
    """When a tensor holds a value: from the operator that writes it to the last that reads it, both included."""

    first: int
    last: int


@dataclass(frozen=True)
class Plan:
    """Where every activation lies in one arena.

    Args:
        offsets: first byte of every activation by tensor name, the graph's input included; multiples of 16.
        sizes: bytes of every activation.
        lives: when each is live, in indices of `graph.ops`.
        views: outputs whose bytes are their operator's inputs, so that the operator needs no code.
        in_place: output -> the operand that it is written over.
        raster: those of `in_place` whose kernel must compute outputs in the order of their addresses.
        live_bytes: per operator, the bytes of all tensors live at it, shared bytes once.
        peak: bytes of the arena.
    """

    offsets: dict[str, int]
    sizes: dict[str, int]
    lives: dict[str, Life]
    views: frozenset[str]
    in_place: dict[str, str]
    raster: frozenset[str]
    live_bytes: tuple[int, ...]
    peak: int

    @property
    def lower_bound(self) -> int:
        """No plan with this sharing is smaller: the most bytes that are live at one operator."""
        return max(self.live_bytes, default=self.peak)


def plan(graph: Graph, *, pools_in_place: bool = True) -> Plan:
    """Plans the arena of a graph.

    Args:
        graph: valid; its order of operators is kept.
        pools_in_place: let pools write over their input, for kernels that keep the order (see above).

    Returns:
        The smallest plan found.
    """
    lives = liveness(graph)
    # Sharing ties tensors together, and a rigid block may fit worse than its tensors would alone.
    kinds = {frozenset(), frozenset(ELEMENTWISE), frozenset(ELEMENTWISE + POOLS if pools_in_place else ELEMENTWISE)}
    choices = [_share(graph, lives, in_place) for in_place in sorted(kinds, key=len)]
    plans = [_place(graph, lives, sharing, order) for sharing in choices for order in _ORDERS]
    return min(plans, key=lambda p: p.peak)


def unshared_bytes(graph: Graph) -> int:
    """The most bytes alive at one operator where every activation has a place of its own, each rounded up to 16.

    So it is in TensorFlow Lite Micro, which copies views and writes nothing in place: its arena is this and scratch
    buffers of its kernels, and what it keeps of tensors and operators.
    """
    lives = liveness(graph)
    sizes = {name: -(-graph.tensors[name].nbytes // ALIGNMENT) * ALIGNMENT for name in lives}
    steps = range(max(len(graph.ops), 1))
    return max(sum(sizes[name] for name, life in lives.items() if life.first <= i <= life.last) for i in steps)


def liveness(graph: Graph) -> dict[str, Life]:
    """When each activation is live. The input is there from the first operator, the output until the last."""
    first = {graph.input: 0} | {op.output: i for i, op in enumerate(graph.ops)}
    last = dict(first)
    for i, op in enumerate(graph.ops):
        for name in op.inputs:
            if name in last:
                last[name] = i
    last[graph.output] = max(len(graph.ops) - 1, 0)
    return {name: Life(first[name], last[name]) for name in first}


@dataclass
class _Sharing:
    """Which block a tensor belongs to, where in it, and why it is there."""

    block: dict[str, str]
    within: dict[str, int]
    views: set[str]
    in_place: dict[str, str]
    raster: set[str]


def _share(graph: Graph, lives: dict[str, Life], kinds: frozenset[str]) -> _Sharing:
    """Views, and the operators of `kinds` in place where that is possible."""
    s = _Sharing({graph.input: graph.input}, {graph.input: 0}, set(), {}, set())
    for i, op in enumerate(graph.ops):
        s.block[op.output], s.within[op.output] = op.output, 0
        at = _view_offset(graph, op)
        if at is not None:
            _join(s, op.output, op.inputs[0], at)
            s.views.add(op.output)
            continue
        if op.kind == "concat" and _join_parts(graph, lives, s, op):
            s.views.add(op.output)
            continue
        allowed = op.kind in kinds and (op.kind not in POOLS or _reads_ahead(op))
        candidates = op.inputs if allowed else []
        for name in candidates:
            if _may_overwrite(graph, lives, s, i, op, name):
                _join(s, op.output, name, 0)
                s.in_place[op.output] = name
                if op.kind in POOLS:
                    s.raster.add(op.output)
                break
    return s


def _join(s: _Sharing, output: str, operand: str, at: int) -> None:
    s.block[output], s.within[output] = s.block[operand], s.within[operand] + at


def _view_offset(graph: Graph, op: Op) -> int | None:
    """Where in its input an operator's output lies unchanged, in bytes; None when it has to be copied."""
    x = graph.tensors[op.inputs[0]]
    if x.constant:
        return None
    if op.kind == "reshape":
        return 0
    if op.kind != "slice":
        return None
    begin, size = op.attrs["begin"], op.attrs["size"]
    # One block: full axes at the end, at most one cut axis before them, length one further out.
    cut = next((i for i in range(len(size)) if size[i] > 1), len(size))
    if any(size[i] != x.shape[i] for i in range(cut + 1, len(size))):
        return None
    at = int(np.ravel_multi_index(tuple(begin), x.shape)) * np.dtype(x.dtype).itemsize
    return at if at % ALIGNMENT == 0 else None


def _join_parts(graph: Graph, lives: dict[str, Life], s: _Sharing, op: Op) -> bool:
    """Lets the inputs of a concatenation be written into its output, when nothing that lives there is hit."""
    y = graph.tensors[op.output]
    if any(n != 1 for n in y.shape[: op.attrs["axis"] % len(y.shape)]):
        return False
    shift: dict[str, int] = {op.output: 0}
    at = 0
    for name in op.inputs:
        t = graph.tensors[name]
        # A block can be moved once: two inputs of one block would have to lie there rightly already.
        if t.constant or at % ALIGNMENT or s.block[name] in shift:
            return False
        shift[s.block[name]] = at - s.within[name]
        at += t.nbytes
    moved = {name: s.within[name] + shift[block] for name, block in s.block.items() if block in shift}
    for a in moved:
        for b in moved:
            if s.block[a] == s.block[b] or {a, b} <= {op.output, *op.inputs}:
                continue
            if _hit(graph, lives, a, moved[a], b, moved[b]):
                return False
    for name, within in moved.items():
        s.block[name], s.within[name] = op.output, within
    return True


def _hit(graph: Graph, lives: dict[str, Life], a: str, at_a: int, b: str, at_b: int) -> bool:
    """Whether two tensors live at one time and have a byte in common."""
    in_time = lives[a].first <= lives[b].last and lives[b].first <= lives[a].last
    return in_time and at_a < at_b + graph.tensors[b].nbytes and at_b < at_a + graph.tensors[a].nbytes


def _reads_ahead(op: Op) -> bool:
    """Whether no output of a pool is read from an address before its own: true without padding in front."""
    top, bottom, left, right = op.attrs["padding"]
    return top == left == bottom == right == 0


def _may_overwrite(graph: Graph, lives: dict[str, Life], s: _Sharing, i: int, op: Op, name: str) -> bool:
    """Whether operator `i` may write its output over operand `name`."""
    x, y = graph.tensors[name], graph.tensors[op.output]
    if x.constant or lives[name].last != i or name == graph.output:
        return False
    if x.dtype != y.dtype or x.nbytes < y.nbytes or (op.kind in ELEMENTWISE and x.shape != y.shape):
        return False
    low, high = s.within[name], s.within[name] + y.nbytes
    for other, block in s.block.items():
        if other in (name, op.output) or block != s.block[name] or not lives[other].first <= i <= lives[other].last:
            continue
        start = s.within[other]
        if start < high and low < start + graph.tensors[other].nbytes:
            return False  # another view of these bytes is still to be read
    return True


_Order = Callable[[list[Tensor], dict[str, Life]], tuple[int, ...]]


def _largest_first(block: list[Tensor], lives: dict[str, Life]) -> tuple[int, ...]:
    return (-max(t.nbytes for t in block), min(lives[t.name].first for t in block))


def _longest_first(block: list[Tensor], lives: dict[str, Life]) -> tuple[int, ...]:
    return (-sum(t.nbytes * (lives[t.name].last - lives[t.name].first + 1) for t in block),)


def _first_first(block: list[Tensor], lives: dict[str, Life]) -> tuple[int, ...]:
    return (min(lives[t.name].first for t in block), -max(t.nbytes for t in block))


_ORDERS: tuple[_Order, ...] = (_largest_first, _longest_first, _first_first)


def _place(graph: Graph, lives: dict[str, Life], s: _Sharing, order: _Order) -> Plan:
    blocks: dict[str, list[Tensor]] = {}
    for name, block in s.block.items():
        blocks.setdefault(block, []).append(graph.tensors[name])
    placed: list[tuple[int, int, Life]] = []
    offsets: dict[str, int] = {}
    for block in sorted(blocks.values(), key=lambda b: order(b, lives)):
        base = _lowest(block, s, lives, placed)
        for t in block:
            offsets[t.name] = base + s.within[t.name]
            placed.append((offsets[t.name], offsets[t.name] + t.nbytes, lives[t.name]))
    names = [graph.input, *(op.output for op in graph.ops)]
    sizes = {name: graph.tensors[name].nbytes for name in names}
    steps = range(max(len(graph.ops), 1))
    return Plan(
        offsets={name: offsets[name] for name in names},
        sizes=sizes,
        lives=lives,
        views=frozenset(s.views),
        in_place=dict(s.in_place),
        raster=frozenset(s.raster),
        live_bytes=tuple(_covered(names, offsets, sizes, lives, step) for step in steps),
        peak=max((end for _, end, _ in placed), default=0),
    )


def _lowest(block: list[Tensor], s: _Sharing, lives: dict[str, Life], placed: list[tuple[int, int, Life]]) -> int:
    """The lowest aligned offset at which no tensor of a block hits a placed one that lives at the same time."""
    forbidden = []  # a base in (low, high) would hit
    for t in block:
        life, at = lives[t.name], s.within[t.name]
        for start, end, other in placed:
            if life.first <= other.last and other.first <= life.last:
                forbidden.append((start - at - t.nbytes, end - at))
    base = max(0, *(-s.within[t.name] for t in block))
    for low, high in sorted(forbidden):
        if low < base < high:
            base = -(-high // ALIGNMENT) * ALIGNMENT
    return base


def _covered(
    names: list[str], offsets: dict[str, int], sizes: dict[str, int], lives: dict[str, Life], step: int
) -> int:
    """Bytes of the arena that hold live values at one operator."""
    total, reached = 0, 0
    ranges = sorted((offsets[n], offsets[n] + sizes[n]) for n in names if lives[n].first <= step <= lives[n].last)
    for start, end in ranges:
        total += max(0, end - max(start, reached))
        reached = max(reached, end)
    return total
