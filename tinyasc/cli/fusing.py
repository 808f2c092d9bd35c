"""`tinyasc evaluate --fuse`: a model of scenes and a model of their groups, measured as one."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path

from tinyasc.cli.candidates import Candidate
from tinyasc.cli.measuring import Measured, Settings, measure_all
from tinyasc.errors import InputError
from tinyasc.evaluate import summary
from tinyasc.evaluate.groups import fuse, group_scores
from tinyasc.training.run import Run

COSTS = ("parameters", "parameter_bytes", "file_bytes", "macs")


def check_group_run(run: Path) -> None:
    """Makes sure that a run can be fused with, before anything is measured.

    Raises:
        InputError: no finished run, or one that was not trained on groups.
    """
    if (Run(run).record()["recipe"].get("data") or {}).get("target") != "group":
        raise InputError(f"--fuse {run}: was not trained on groups of scenes; name a run of data.target: group")


def fused(
    measured: Sequence[Measured], group_run: Path, name: str | None, root: str | None, settings: Settings
) -> list[Measured]:
    """Every measured model with a run that was trained on groups: p(scene) * p(its group), normalised.

    Raises:
        InputError: other groups than a model's own, or other clips.
    """
    others = measure_all((group_run,), name, root, settings, beside=True)
    partner = others[0].candidate
    if len(others) > 1 or partner is None:
        raise InputError(f"--fuse {group_run}: holds several models or none; name a run of `tinyasc train`")
    return [_fused(m, others[0], partner) for m in measured]


def _fused(m: Measured, other: Measured, partner: Candidate) -> Measured:
    groups = {name: list(scenes) for name, scenes in partner.trained_on["groups"].items()}
    own = m.record.get("groups", {}).get("scenes")
    if own is not None and {k: set(v) for k, v in own.items()} != {k: set(v) for k, v in groups.items()}:
        raise InputError(f"--fuse {other.name}: has other groups than {m.name}; train both with the same data.groups")
    try:
        joint = fuse(m.predictions, other.predictions, groups)
    except InputError as error:
        raise InputError(f"--fuse {other.name}, with {m.name}: {error}") from None
    record = m.record | summary.evaluate(joint)
    record |= {"fused_with": other.name, "groups": group_scores(joint, groups, other.predictions.probabilities)}
    candidate = m.candidate
    if candidate is not None:
        costs = {key: _sum(getattr(candidate, key), getattr(partner, key)) for key in COSTS}
        record |= costs
        candidate = dataclasses.replace(
            candidate, name=f"{m.name} x {other.name}", system=f"{candidate.system} x {partner.system}", budget=None,
            **costs,
        )  # fmt: skip
    return Measured(f"{m.name} x {other.name}", joint, record, candidate)


def _sum(first: int | None, second: int | None) -> int | None:
    return None if first is None or second is None else first + second
