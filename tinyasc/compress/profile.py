"""What a deployed graph costs: per operator, per module, in all, and under every rule."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from tinyasc.compress.rules import judge, shipped_rules, weight_types
from tinyasc.compress.stored import Stored, read_graph
from tinyasc.compress.torchinfo_count import fused_count
from tinyasc.data.cache import load_features
from tinyasc.errors import InputError
from tinyasc.frontend import normalize
from tinyasc.training.features import cache_folder, open_data
from tinyasc.training.progress import progress
from tinyasc.training.recipe_parts import Data
from tinyasc_export.count import count, per_module, per_op
from tinyasc_export.drift import Drift, drift
from tinyasc_export.memory import plan


def profile(stored: Stored) -> dict[str, Any]:
    """All counts of one model, as plain values that JSON holds.

    Returns:
        "totals" (parameters, parameter_bytes, quantization_bytes, file_bytes, macs, tool_macs, macs_per_second,
        clip_seconds, arena_bytes, arena_pools_apart_bytes, arena_lower_bound), "operators" and "modules" (one entry
        each), "rules" (one entry per preset).
    """
    graph, seconds = stored.graph, stored.clip_seconds
    counts, arena = count(graph, stored.file_bytes), plan(graph)
    totals: dict[str, Any] = {
        "parameters": counts.parameters,
        "parameter_bytes": counts.parameter_bytes,
        "parameters_x_width": counts.parameters * max(np.dtype(t).itemsize for t in weight_types(graph)),
        "quantization_bytes": counts.quantization_bytes,
        "file_bytes": counts.file_bytes,
        "macs": counts.macs,
        "tool_macs": fused_count(graph),
        "clip_seconds": seconds,
        "macs_per_second": counts.macs / seconds,
        "arena_bytes": arena.peak,
        "arena_pools_apart_bytes": plan(graph, pools_in_place=False).peak,
        "arena_lower_bound": arena.lower_bound,
    }
    operators = [asdict(row) | {"live_bytes": b} for row, b in zip(per_op(graph), arena.live_bytes, strict=True)]
    verdicts = [judge(graph, rule, seconds) for rule in shipped_rules()]
    return {
        "model": str(stored.path),
        "precision": stored.precision,
        "totals": totals,
        "operators": operators,
        "modules": [asdict(row) for row in per_module(graph)],
        "rules": [
            {
                "rule": v.rule.name,
                "memory": v.memory,
                "memory_counts": v.rule.memory.counts,
                "memory_limit": v.rule.memory.limit,
                "macs_per_second": v.macs_per_second,
                "tool_macs_per_second": totals["tool_macs"] / seconds,
                "macs_limit": v.rule.macs_per_second,
                "met": v.met,
                "reasons": list(v.reasons),
            }
            for v in verdicts
        ],
    }


def measure_drift(stored: Stored, data: Data, *, clips: int) -> list[Drift]:
    """Drift of a quantised graph on validation clips, evenly taken; the worst tensor first.

    Raises:
        InputError: a float graph, or no float graph beside it, or data that cannot be read.
    """
    if not stored.graph.tensors[stored.graph.input].quantized:
        raise InputError(f"{stored.path}: a {stored.precision} model does not drift; name a quantised one")
    folder: Path = stored.path if stored.path.is_dir() else stored.path.absolute().parent
    exact = read_graph(folder, "fp32")
    _, split = open_data(data)
    picked = np.linspace(0, len(split.validation) - 1, min(clips, len(split.validation))).round().astype(int)
    with progress("features") as report:
        mel = load_features([split.validation[i] for i in picked], stored.front_end, cache_folder(), progress=report)
    return drift(exact.graph, stored.graph, np.moveaxis(normalize(mel, stored.front_end), 1, -1))
