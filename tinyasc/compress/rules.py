"""What each year's competition rule asks of a model, and whether a deployed graph meets it.

The rules are data: configs/budgets/*.yaml. What they count, whatever one thinks of it: `parameters` (each value is one,
zeros included), `bytes` (of all constants at their stored width) or `nonzero_bytes` (zeros are free). MACs are the
graph's true ones per second of sound, as `tinyasc_export.count` counts them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from tinyasc.errors import InputError
from tinyasc.training.recipe import configs_folder
from tinyasc_export.count import macs, nonzero_bytes, parameter_bytes, parameters
from tinyasc_export.graph import WEIGHTED, Graph

COUNTS: dict[str, Callable[[Graph], int]] = {
    "parameters": parameters,
    "bytes": parameter_bytes,
    "nonzero_bytes": nonzero_bytes,
}


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Memory(_Part):
    """What counts as memory, its limit, and the precision that the rule fixes, if it fixes one."""

    counts: Literal["parameters", "bytes", "nonzero_bytes"]
    limit: int = Field(gt=0)
    precision: Literal["int8"] | None = None


class Rule(_Part):
    """One preset."""

    name: str
    memory: Memory
    macs_per_second: int | None = Field(default=None, gt=0)
    note: str = ""


@dataclass(frozen=True)
class Verdict:
    """One graph under one rule.

    Args:
        rule: the rule.
        memory: what the rule counts of the graph.
        macs_per_second: of sound; None when the clip's length is unknown.
        reasons: what is broken or cannot be judged, a line each; none when the rule is met.
        met: None when nothing is broken but something cannot be judged.
    """

    rule: Rule
    memory: int
    macs_per_second: float | None
    reasons: tuple[str, ...]
    met: bool | None


def shipped_rules() -> list[Rule]:
    """Every preset, by name."""
    return [load_rule(file.stem) for file in sorted((configs_folder() / "budgets").glob("*.yaml"))]


def load_rule(name: str) -> Rule:
    """A preset by its name.

    Raises:
        InputError: there is none of that name, or its file is damaged.
    """
    folder = configs_folder() / "budgets"
    file: Path = folder / f"{name}.yaml"
    known = sorted(f.stem for f in folder.glob("*.yaml"))
    if name not in known:
        raise InputError(f"rule {name!r} is unknown; choose one of: {', '.join(known)}")
    try:
        return Rule.model_validate(yaml.safe_load(file.read_text(encoding="utf-8")))
    except (OSError, ValueError, yaml.YAMLError, ValidationError) as error:
        raise InputError(f"{file}: no valid rule ({str(error).splitlines()[0]})") from None


def judge(graph: Graph, rule: Rule, clip_seconds: float | None) -> Verdict:
    """Holds a graph against a rule.

    Args:
        graph: as it is written to disk.
        rule: the preset.
        clip_seconds: of sound per inference; None when it is unknown.
    """
    broken, unknown = [], []
    memory = COUNTS[rule.memory.counts](graph)
    unit = "parameters" if rule.memory.counts == "parameters" else "bytes"
    if memory > rule.memory.limit:
        broken.append(f"{memory:,} {unit} of {rule.memory.limit:,}")
    widths = weight_types(graph)
    if rule.memory.precision is not None and widths - {rule.memory.precision}:
        broken.append(f"weights are {', '.join(sorted(widths))}, the rule wants {rule.memory.precision}")
    rate = None if clip_seconds is None else macs(graph) / clip_seconds
    if rule.macs_per_second is not None:
        if rate is None:
            unknown.append("MACs per second unknown: the file names no clip length")
        elif rate > rule.macs_per_second:
            broken.append(f"{rate:,.0f} MACs per second of {rule.macs_per_second:,}")
    met = False if broken else None if unknown else True
    return Verdict(rule, memory, rate, (*broken, *unknown), met)


def weight_types(graph: Graph) -> set[str]:
    """The types of the weights of convolutions and linear layers."""
    return {graph.tensors[op.inputs[1]].dtype for op in graph.ops if op.kind in WEIGHTED}
