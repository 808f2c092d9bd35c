"""What a student takes from its teachers: data, front end, and answers on clean clips to learn from."""

from __future__ import annotations

import hashlib
import io
import zipfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from tinyasc.errors import InputError
from tinyasc.files import file_hash, write_atomic
from tinyasc.training.features import Prepared, prepare
from tinyasc.training.fit import logits
from tinyasc.training.heard import Heard
from tinyasc.training.recipe import Recipe
from tinyasc.training.recipe_parts import Data
from tinyasc.training.run import Run, Trained
from tinyasc.training.start import heard_by
from tinyasc.training.teaching import join_logits

# The folder of their answers, inside the run.
ANSWERS = "teachers"


def load_teachers(runs: Sequence[Run]) -> list[Trained]:
    """The teachers of one student, in the order given: of any families and front ends, on the same clips and labels.

    Raises:
        InputError: a run that is not finished, one named twice, or two of other labels, data or cuts.
    """
    teachers = [run.load() for run in runs]
    hashes: dict[str, Path] = {}
    heard: list[tuple[str, Path]] = []
    first = teachers[0]
    for teacher in teachers:
        weights = weights_hash(teacher)
        if weights in hashes:
            raise InputError(f"--teacher {teacher.path}: the same model as --teacher {hashes[weights]}; name it once")
        hashes[weights] = teacher.path
        if teacher.labels != first.labels:
            raise InputError(
                f"--teacher {teacher.path}: knows {_some(teacher.labels)}, and --teacher {first.path} "
                f"{_some(first.labels)}; teachers of one student know the same"
            )
        if differ := _difference(_data(teacher), _data(first)):
            raise InputError(
                f"--teacher {teacher.path}: its data part has {differ[0]}, and that of --teacher {first.path} "
                f"{differ[1]}; teachers of one student are trained on the same clips, so that none heard its test clips"
            )
        if (own := heard_by(teacher.path)) is not None:
            heard.append((own.digest, teacher.path))
    for digest, path in heard:
        if digest != heard[0][0]:
            raise InputError(
                f"--teacher {path}: was trained on other clips than --teacher {heard[0][1]} (heard.json says which); "
                "train it again on the same ones"
            )
    return teachers


def weights_hash(teacher: Trained) -> str:
    """Of a teacher's weights."""
    return file_hash(teacher.path / "model.safetensors")


def in_order(teachers: Sequence[Trained]) -> list[Trained]:
    """The same teachers in an order that does not depend on the command line's, since sums of floats do."""
    return sorted(teachers, key=weights_hash)


def front_ends_differ(teachers: Sequence[Trained]) -> bool:
    """Whether the recipes of some teachers have other front ends than others'."""
    return any(teacher.recipe.front_end != teachers[0].recipe.front_end for teacher in teachers)


def complete(student: Recipe, teachers: Sequence[Trained], root: str | None) -> Recipe:
    """The student's recipe with what it leaves out taken from the first teacher's.

    Groups of scenes and decision weights come from whichever teachers have any.

    Raises:
        InputError: other sets of clips than the teachers', whose training clips would then be tested on, or teachers
            with other decision weights each.
    """
    first = _data(teachers[0])
    data = student.data
    if data is None:
        groups = [one for teacher in teachers if (one := _data(teacher).groups)]
        agreed = groups[0] if groups and all(one == groups[0] for one in groups) else {}
        data = first.model_copy(update={"groups": agreed})
    elif differ := _difference(data, first):
        raise InputError(
            f"{student.name}: its data part is not the teacher's: {differ[0]}, and {teachers[0].path} has {differ[1]}; "
            "leave it out of the student's recipe"
        )
    if root is not None:
        data = data.model_copy(update={"root": str(Path(root).expanduser().absolute())})
    weights = [teacher.recipe.decision_weights for teacher in teachers if teacher.recipe.decision_weights]
    if not student.decision_weights and any(one != weights[0] for one in weights):
        raise InputError(f"{student.name}: its teachers' decision_weights differ; name its own in its recipe")
    taken = {
        "data": data,
        "front_end": student.front_end or teachers[0].recipe.front_end,
        "decision_weights": student.decision_weights or (weights[0] if weights else {}),
    }
    return student.model_copy(update=taken)


def with_what_they_heard(data: Prepared, teachers: Sequence[Trained]) -> Prepared:
    """The data, having heard what the teachers heard, since the student learns from that.

    Raises:
        InputError: other labels than the teachers'.
    """
    heard = data.heard
    for teacher in teachers:
        if data.labels != teacher.labels:
            raise InputError(
                f"{teacher.path}: the teacher knows {_some(teacher.labels)}, the data has {_some(data.labels)}; "
                "use the data that it was trained on"
            )
        heard = heard.joined(heard_by(teacher.path) or Heard())
    return replace(data, heard=heard)


def teacher_logits(run: Run, teachers: Sequence[Trained], student: Recipe, data: Prepared) -> np.ndarray:
    """The teachers' joined logits (clips, K) on the clean clips that the student is trained on.

    Each teacher's own are computed once and kept in the run folder. A teacher that is conditioned on the recording
    device is told the true one; the student never is.
    """
    assert student.distill is not None, "answers are for a recipe that distils"
    answers = [_answers(run, teacher, student, data) for teacher in teachers]
    return join_logits(torch.from_numpy(np.stack(answers)), student.distill).numpy()


def _answers(run: Run, teacher: Trained, student: Recipe, data: Prepared) -> np.ndarray:
    final = student.training.final
    clips = data.split.trained_on(final)
    devices = [clip.device for clip in clips]
    weights = weights_hash(teacher)
    told: list[Any] = [weights, teacher.recipe.model, teacher.front_end, teacher.devices, data.identity, final, devices]
    key = hashlib.blake2b(repr(told).encode(), digest_size=16).hexdigest()
    file = run.path / ANSWERS / f"{weights[:16]}.npz"
    cached = _cached(file, key)
    if cached is not None and cached.shape == (len(clips), len(data.labels)):
        return cached
    assert student.data is not None
    same = data.front_end == teacher.front_end
    seen = data if same else prepare(student.data, teacher.front_end)
    answers = logits(teacher, seen.trained_on(final).features, devices)
    buffer = io.BytesIO()
    np.savez(buffer, logits=answers, key=np.array(key))
    write_atomic(file, buffer.getvalue())
    return answers


def _cached(file: Path, key: str) -> np.ndarray | None:
    """Answers that were kept under a key; None where there are none, they are others, or they are damaged."""
    try:
        with np.load(file, allow_pickle=False) as kept:  # its checksums are compared as it is read
            return kept["logits"] if str(kept["key"]) == key else None
    except (OSError, ValueError, EOFError, KeyError, TypeError, AttributeError, zipfile.BadZipFile):
        return None


def _data(teacher: Trained) -> Data:
    assert teacher.recipe.data is not None, "a teacher's recipe has data"
    return teacher.recipe.data


def _difference(own: Data, other: Data) -> tuple[str, str] | None:
    """What two data parts say otherwise of which clips, the first key as both have it; where they lie plays no part."""
    for key in Data.model_fields:
        # Groups of the scenes change no clip: some teachers learn them beside the scenes.
        if key == "root" or (key == "groups" and own.target == other.target == "scene"):
            continue
        if getattr(own, key) != getattr(other, key):
            return f"{key} {getattr(own, key)}", f"{key} {getattr(other, key)}"
    return None


def _some(labels: tuple[str, ...]) -> str:
    return f"{len(labels)} labels ({', '.join(labels[:3])}, ...)"
