"""What the front end before a net took on an emulated board."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class FrontEndReport:
    """The front end before a net: samples to features. Instructions and bytes are counted, cycles estimated.

    Args:
        arithmetic: "device" or "fixed".
        frames: of one window.
        instructions: of one window: every push of its samples, and forgetting the sound before.
        cycles: likewise.
        hand_over_instructions: of laying the window out for the net and of copying its scores.
        hand_over_cycles: likewise.
        table_bytes: of flash: window, twiddle factors, bands.
        state_bytes: of RAM: last samples, working memory, the window's frames.
        equal: whether every feature of every input is that of the numpy specification.
        scores_equal: whether every score is that of the specification and the reference, from samples on.
    """

    arithmetic: str
    frames: int
    instructions: int
    cycles: float
    hand_over_instructions: int
    hand_over_cycles: float
    table_bytes: int
    state_bytes: int
    equal: bool
    scores_equal: bool

    def to_dict(self) -> dict[str, Any]:
        """Plain values; what is counted and what is estimated lie under different keys."""
        return {
            "arithmetic": self.arithmetic,
            "features_equal": self.equal,
            "scores_equal": self.scores_equal,
            "counted": {
                "frames": self.frames,
                "instructions": self.instructions,
                "instructions_per_frame": round(self.instructions / self.frames),
                "hand_over_instructions": self.hand_over_instructions,
                "table_bytes": self.table_bytes,
                "state_bytes": self.state_bytes,
            },
            "estimated": {"cycles": round(self.cycles), "hand_over_cycles": round(self.hand_over_cycles)},
        }
