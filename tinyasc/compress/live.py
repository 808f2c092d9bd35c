"""Teachers that answer every batch of a student's training: what must agree for both to hear the same sound."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from tinyasc.errors import InputError
from tinyasc.frontend import FrontEnd
from tinyasc.training.attention_transfer import check_maps
from tinyasc.training.features import Prepared
from tinyasc.training.recipe import Recipe
from tinyasc.training.run import Trained
from tinyasc.training.teaching import LiveTeacher, LiveTeachers

# Transforms of one front end's features, and what does the same to waveforms. Mixup is none of them: it mixes the same
# clips by the same shares in the features of each.
OF_FEATURES = {
    "roll": "wave_roll_seconds does that to waveforms",
    "roll_sigma": "wave_roll_seconds does that to waveforms",
    "crop_frames": "wave_crop does that to waveforms",
    "gain_db": "wave_gain_db does that to waveforms",
    "filter_db": "impulse responses, dir_prob, do that to waveforms",
    "mixstyle_p": "nothing does that to waveforms",
    "time_mask": "nothing does that to waveforms",
    "freq_mask": "nothing does that to waveforms",
}


def shared_rate(student: Recipe, data: Prepared, teachers: Sequence[Trained]) -> int | None:
    """The sample rate of waveforms that the student and all teachers can hear; None where all read the same features.

    Raises:
        InputError: front ends that cannot hear the same, or transforms that change the features of one alone.
    """
    own = data.front_end
    others = [teacher for teacher in teachers if teacher.front_end != own]
    if not others:
        return None
    where = f"distill.teacher_on: augmented: {others[0].path} has a front end of its own, so both hear waveforms"
    for key, instead in OF_FEATURES.items():
        if getattr(student.augment, key):
            raise InputError(
                f"{where}, and augment.{key} changes the student's features alone; leave it out ({instead})"
            )
    for teacher in others:
        if own.stereo or teacher.front_end.stereo:
            raise InputError(
                f"distill.teacher_on: augmented: waveforms have one channel, and the front ends of {teacher.path} and "
                "the student differ, one of them stereo; take the same front end, or teacher_on: clean"
            )
        if abs(_seconds(teacher.front_end) - _seconds(own)) > 0.5 / own.sample_rate:
            raise InputError(
                f"distill.teacher_on: augmented: {teacher.path} hears clips of {_seconds(teacher.front_end):g} s and "
                f"the student of {_seconds(own):g} s; make them equal, or take teacher_on: clean"
            )
    return max(own.sample_rate, *(teacher.front_end.sample_rate for teacher in others))


def live_teachers(student: Recipe, data: Prepared, teachers: Sequence[Trained], rate: int | None) -> LiveTeachers:
    """The teachers of a student's batches.

    Args:
        student: its recipe, which distils.
        data: its data, with the front end's normalisation.
        teachers: in the order of their sum.
        rate: as `shared_rate` gives it.

    Raises:
        InputError: several teachers or unknown layers where features are distilled, or a teacher that cannot take the
            student's crops there.
    """
    assert student.distill is not None, "teachers are for a recipe that distils"
    crop, layers = student.augment.crop_frames, [layer for _, layer in student.distill.feature_layers]
    whole = bool(crop) and any(t.front_end == data.front_end and not _takes(t, crop) for t in teachers)
    if layers and len(teachers) > 1:
        raise InputError(f"distill.features: its layers are those of one teacher, and {len(teachers)} are named")
    if layers:
        check_maps(teachers[0].module, layers, teachers[0].front_end.shape, "teacher")
    if layers and whole:
        raise InputError(
            f"distill.features: {teachers[0].path} cannot take the {crop} frames of augment.crop_frames, so that its "
            "maps are not of the student's crop; leave one of the two out"
        )
    live = [LiveTeacher(t.module, None if t.front_end == data.front_end else t.front_end, t.devices) for t in teachers]
    return LiveTeachers(live, devices=data.devices, sample_rate=rate, whole=whole)


def _seconds(front_end: FrontEnd) -> float:
    return front_end.clip_samples / front_end.sample_rate


def _takes(teacher: Trained, frames: int) -> bool:
    try:
        with torch.inference_mode():
            teacher.module(torch.zeros(1, *teacher.front_end.shape[:2], frames))
    except (RuntimeError, InputError):
        return False
    return True
