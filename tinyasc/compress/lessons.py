"""What a student is trained on: clips, and what its teachers say of them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from torch import nn

from tinyasc.training.features import Prepared
from tinyasc.training.fit import fit
from tinyasc.training.recipe import Recipe
from tinyasc.training.run import Run, Trained
from tinyasc.training.teaching import LiveTeachers


@dataclass(frozen=True)
class Lessons:
    """Of every training of one compression.

    Args:
        data: clips as the student hears them, or both it and its teachers do.
        answers: (clips, K) the teachers' logits on clean clips; None where nothing asks for them.
        live: teachers that answer every batch in place of these, or None.
    """

    data: Prepared
    answers: np.ndarray | None
    live: LiveTeachers | None

    def fit(self, recipe: Recipe, run: Run, *, title: str, module: nn.Module | None = None) -> Trained:
        """Trains, as `tinyasc.training.fit.fit` does.

        Raises:
            InputError: as there.
        """
        stored = self.answers if self.live is None else None
        return fit(recipe, run, self.data, teacher=stored, teachers=self.live, title=title, module=module)
