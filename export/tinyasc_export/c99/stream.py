"""Joins a front end and a net in C: samples are pushed, class scores come out (`NAME_stream.h`)."""

from __future__ import annotations

import dataclasses

import numpy as np

from tinyasc_export.c99.frontend import front_end_to_c
from tinyasc_export.c99.writer import CSource, makefile, template
from tinyasc_export.errors import InputError
from tinyasc_export.frontend_plan import FrontEndPlan
from tinyasc_export.graph import Graph
from tinyasc_export.memory import plan as memory_plan

# Three words beside the ring of frames.
STREAM_BYTES = 12
INT32_MAX = 2**31 - 1


def with_front_end(
    source: CSource, graph: Graph, plan: FrontEndPlan, *, arithmetic: str, window_hop: int | None = None
) -> CSource:
    """A net in C together with its front end.

    Args:
        source: the net, from `to_c`.
        graph: that it was written from.
        plan: of the front end, for the graph's input.
        arithmetic: "device" or "fixed".
        window_hop: frames from one scored window to the next; by default half a window, as `tinyasc infer` hops.

    Raises:
        InputError: a front end that does not fit the net's input, or a hop below 1 or beyond 32 bits.
    """
    x, y = graph.tensors[graph.input], graph.tensors[graph.output]
    if x.shape != (1, plan.n_mels, plan.n_frames, 1) or x.dtype != plan.dtype:
        raise InputError(
            f"the front end gives {plan.dtype} of {plan.n_mels} bands x {plan.n_frames} frames, "
            f"the net takes {x.dtype} of {' x '.join(map(str, x.shape[1:]))}"
        )
    hop = max(1, plan.n_frames // 2) if window_hop is None else window_hop
    if hop < 1:
        raise InputError(f"windows have to advance by at least one frame, got {hop}")
    if hop > INT32_MAX:
        raise InputError(f"windows advance by at most {INT32_MAX} frames, which C counts in 32 bits, got {hop}")
    assert y.scale is not None and y.zero_point is not None
    itemsize = np.dtype(plan.dtype).itemsize
    front_end = front_end_to_c(plan, arithmetic=arithmetic, name=source.name)
    state_bytes = front_end.state_bytes + plan.n_mels * plan.n_frames * itemsize + STREAM_BYTES
    words = {
        "name": source.name,
        "upper": source.name.upper(),
        "sample_rate": str(plan.sample_rate),
        "n_frames": str(plan.n_frames),
        "window_samples": str(plan.n_fft + (plan.n_frames - 1) * plan.hop_length),
        "window_hop": str(hop),
        "hop_samples": str(hop * plan.hop_length),
        "state_bytes": str(state_bytes),
        "table_bytes": str(front_end.constant_bytes),
        "scale": str(np.float32(y.scale.flat[0])),
        "minus_zero_point": f"{-int(y.zero_point.flat[0]):+d}",
        "input_at": str(memory_plan(graph).offsets[graph.input] // itemsize),
    }
    name = source.name
    files = source.files | front_end.files
    files |= {f"{name}_stream.{end}": template(f"stream.{end}", **words) for end in "hc"}
    files["Makefile"] = makefile(name, files)
    files["README.md"] = source.files["README.md"] + template("stream.md", arithmetic=arithmetic, **words)
    constant_bytes = source.constant_bytes + front_end.constant_bytes
    return dataclasses.replace(source, files=files, constant_bytes=constant_bytes, state_bytes=state_bytes)
