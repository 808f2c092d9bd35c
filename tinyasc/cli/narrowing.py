"""How `tinyasc compress --narrow` shows what it compared."""

from __future__ import annotations

from tinyasc.compress.narrow import Narrowed


def narrowing_table(narrowed: Narrowed) -> list[str]:
    """Lines: both sides with validation score and bytes, then which was kept and why."""
    size = f"{narrowed.plan.precision} bytes"
    lines = [f"{'':8}  {'from ' + narrowed.plan.option:>24}  {narrowed.monitor:>20}  {size:>17}  kept"]
    for side in (narrowed.pruned, narrowed.dense):
        score = f"{side.mean:.4f}" + ("" if side.sd is None else f" +- {side.sd:.4f}")
        low, high = (f"{f(side.parameter_bytes):,}" for f in (min, max))
        size = low if low == high else f"{low}-{high}"
        kept = "yes" if side.kind == narrowed.kept else ""
        lines.append(f"{side.kind:8}  {side.width:>24g}  {score:>20}  {size:>17}  {kept}".rstrip())
    lines.append(f"kept: {narrowed.kept}, since {narrowed.why}; {narrowed.epochs} epochs each")
    return lines
