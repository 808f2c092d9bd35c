"""What a student takes from its teacher: data, front end, and answers to learn from."""

from __future__ import annotations

import io
from dataclasses import replace
from pathlib import Path

import numpy as np

from tinyasc.errors import InputError
from tinyasc.files import write_atomic
from tinyasc.training.features import Prepared, prepare
from tinyasc.training.fit import logits
from tinyasc.training.heard import Heard
from tinyasc.training.recipe import Recipe
from tinyasc.training.run import Run, Trained
from tinyasc.training.start import heard_by


def complete(student: Recipe, teacher: Recipe, root: str | None) -> Recipe:
    """The student's recipe with what it leaves out taken from the teacher's.

    Raises:
        InputError: other sets of clips than the teacher's, whose training clips would then be tested on.
    """
    assert teacher.data is not None, "a teacher's recipe has data"
    data = student.data or teacher.data
    if data.model_copy(update={"root": None}) != teacher.data.model_copy(update={"root": None}):
        raise InputError(
            f"{student.name}: its data part is not the teacher's ({teacher.data}); leave it out of the student's recipe"
        )
    if root is not None:
        data = data.model_copy(update={"root": str(Path(root).expanduser().absolute())})
    taken = {
        "data": data,
        "front_end": student.front_end or teacher.front_end,
        "decision_weights": student.decision_weights or teacher.decision_weights,
    }
    return student.model_copy(update=taken)


def with_what_it_heard(data: Prepared, teacher: Trained) -> Prepared:
    """The data, having heard what the teacher heard, since the student learns from that.

    Raises:
        InputError: other labels than the teacher's.
    """
    if data.labels != teacher.labels:
        raise InputError(
            f"{teacher.path}: the teacher knows {_some(teacher.labels)}, the data has {_some(data.labels)}; "
            "use the data that it was trained on"
        )
    return replace(data, heard=data.heard.joined(heard_by(teacher.path) or Heard()))


def teacher_logits(run: Run, teacher: Trained, student: Recipe, data: Prepared) -> np.ndarray:
    """The teacher's logits on the clean clips that the student is trained on, computed once and cached.

    A teacher that is conditioned on the recording device is told the true one; the student never is.
    """
    file = run.path / "teacher_logits.npy"
    if file.is_file():
        try:
            cached = np.load(file, allow_pickle=False)
        except (ValueError, EOFError):
            cached = np.empty(0)  # damaged: computed again
        if cached.shape == (len(data.trained_on(student.training.final).labels), len(data.labels)):
            return cached
    assert student.data is not None
    same = data.front_end == teacher.front_end
    seen = data if same else prepare(student.data, teacher.front_end)
    final = student.training.final
    devices = [clip.device for clip in seen.split.trained_on(final)]
    answers = logits(teacher, seen.trained_on(final).features, devices)
    buffer = io.BytesIO()
    np.save(buffer, answers, allow_pickle=False)
    write_atomic(file, buffer.getvalue())
    return answers


def _some(labels: tuple[str, ...]) -> str:
    return f"{len(labels)} labels ({', '.join(labels[:3])}, ...)"
