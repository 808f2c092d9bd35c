"""What a student is trained on: clips, and what its teachers say of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from lightning.pytorch.callbacks import Callback
from torch import nn

from tinyasc.compress.live import live_teachers, shared_rate
from tinyasc.compress.teachers import teacher_logits, with_what_they_heard
from tinyasc.training.features import Prepared, prepare
from tinyasc.training.fit import fit
from tinyasc.training.recipe import Recipe
from tinyasc.training.run import Run, Trained
from tinyasc.training.teaching import LiveTeachers
from tinyasc.training.waveforms import with_waveforms


@dataclass(frozen=True)
class Clips:
    """The clips of one student.

    Args:
        data: as the student hears them.
        shared: as it and live teachers of other front ends hear them; else the same.
        live: teachers that answer every batch, or None.
    """

    data: Prepared
    shared: Prepared
    live: LiveTeachers | None

    @classmethod
    def of(cls, student: Recipe, teachers: Sequence[Trained]) -> Clips:
        """Features, and waveforms where the recipe asks for them.

        Args:
            student: complete.
            teachers: in the order of their sum.

        Raises:
            InputError: other data than the teachers', or teachers that cannot answer the student's batches.
        """
        assert student.data is not None and student.front_end is not None, "a complete recipe has both"
        prepared = with_what_they_heard(prepare(student.data, student.front_end.record()), teachers)
        data = with_waveforms(prepared, student)
        if student.distill is None or student.distill.teacher_on == "clean":
            return cls(data, data, None)
        rate = shared_rate(student, prepared, teachers)
        live = live_teachers(student, prepared, teachers, rate)
        return cls(data, data if rate is None else with_waveforms(prepared, student, rate), live)

    def lessons(self, student: Recipe, run: Run, teachers: Sequence[Trained]) -> Lessons:
        """With the teachers' answers on clean clips where something asks for them, kept in the run folder."""
        answers = None
        by_gradient = student.narrow is not None and student.narrow.importance == "taylor"
        if student.distill is not None and (self.live is None or by_gradient):
            answers = teacher_logits(run, teachers, student, self.data)
        return Lessons(self.shared, answers, self.live)


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

    def fit(
        self,
        recipe: Recipe,
        run: Run,
        *,
        title: str,
        module: nn.Module | None = None,
        callbacks: Sequence[Callback] = (),
    ) -> Trained:
        """Trains, as `tinyasc.training.fit.fit` does.

        Raises:
            InputError: as there.
        """
        stored = self.answers if self.live is None else None
        return fit(
            recipe, run, self.data, teacher=stored, teachers=self.live, title=title, module=module, callbacks=callbacks
        )
