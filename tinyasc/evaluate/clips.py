"""Measures a model on clips, through the same runner that `tinyasc infer` uses."""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from itertools import groupby
from pathlib import Path

import numpy as np

from tinyasc.audio import read_segments
from tinyasc.data import Clip, ClipTable
from tinyasc.data.devices import CLEAN, through
from tinyasc.errors import InputError
from tinyasc.evaluate.predictions import NEITHER, SEEN, UNSEEN, Predictions
from tinyasc.infer.runner import Model

Progress = Callable[[int, int], None]


def probabilities(
    model: Model,
    clips: Sequence[Clip],
    *,
    tta: int = 1,
    seed: int = 0,
    progress: Progress | None = None,
) -> np.ndarray:
    """Class probabilities of clips, (clips, K) float64.

    Args:
        model: from `tinyasc.infer.runner.load`.
        clips: whole files, or parts of them; their labels do not matter, their devices to models that are told them.
        tta: test-time copies of each clip whose probabilities are averaged.
        seed: of the copies.
        progress: called with clips done and clips in all.

    Raises:
        InputError: a clip that cannot be read.
    """
    answers = []
    for clip, samples in zip(clips, _samples(model, clips), strict=True):
        answers.append(model.predict(samples, tta=tta, seed=seed, device=clip.device).probabilities)
        if progress:
            progress(len(answers), len(clips))
    return np.stack(answers)


def measure(
    model: Model,
    table: ClipTable,
    clips: Sequence[Clip],
    *,
    heard: Collection[str],
    fold: int,
    run_seed: int = 0,
    tta: int = 1,
    seed: int = 0,
    progress: Progress | None = None,
) -> Predictions:
    """Answers on labelled clips.

    Args:
        model: its labels are the table's.
        table: of the data set.
        clips: to be measured on.
        heard: devices of the training clips, which count as seen; "" among them is an unknown one, so that no other
            device can be called unseen.
        fold: noted with every row.
        run_seed: of the training, noted with every row.
        tta: as in `probabilities`.
        seed: as in `probabilities`.
        progress: as in `probabilities`.

    Raises:
        InputError: clips without labels, other labels than the model's, or a clip that cannot be read.
    """
    labels = check_labels(model, table, clips)
    p = probabilities(model, clips, tta=tta, seed=seed, progress=progress)
    devices = [clip.device for clip in clips]
    other = NEITHER if "" in heard else UNSEEN
    seen = [NEITHER if not device else SEEN if device in heard else other for device in devices]
    return _rows(table, clips, labels, devices, seen, p, fold=fold, run_seed=run_seed)


def measure_views(
    model: Model,
    table: ClipTable,
    clips: Sequence[Clip],
    *,
    seen: Mapping[str, np.ndarray],
    unseen: Mapping[str, np.ndarray],
    fold: int,
    run_seed: int = 0,
    tta: int = 1,
    seed: int = 0,
    progress: Progress | None = None,
) -> Predictions:
    """Answers on device views of clips: each as it is, and as every microphone hears it.

    Views are made of samples and never cached; a clip is read once for all of them.

    Args:
        model: as in `measure`.
        table: as in `measure`.
        clips: as in `measure`.
        seen: name -> impulse response, (taps,) at the model's rate, of microphones that training may hear.
        unseen: the same of microphones that are kept for testing.
        fold: as in `measure`.
        run_seed: as in `measure`.
        tta: as in `probabilities`.
        seed: as in `probabilities`.
        progress: called with views done and views in all.

    Returns:
        Rows whose device is "clean" or a microphone's name.

    Raises:
        InputError: as `measure`.
    """
    labels = check_labels(model, table, clips)
    responses = {**seen, **unseen}
    p, devices, flags = [], [], []
    total = len(clips) * (1 + len(responses))
    for clip, samples in zip(clips, _samples(model, clips), strict=True):
        for device in (CLEAN, *responses):
            clean = device == CLEAN
            view = samples if clean else through(samples, responses[device])
            told = clip.device if clean else device
            p.append(model.predict(view, tta=tta, seed=seed, device=told).probabilities)
            devices.append(device)
            flags.append(NEITHER if device == CLEAN else SEEN if device in seen else UNSEEN)
            if progress:
                progress(len(p), total)
    copies = 1 + len(responses)
    repeated = [clip for clip in clips for _ in range(copies)]
    classes = np.repeat(labels, copies)
    return _rows(table, repeated, classes, devices, flags, np.stack(p), fold=fold, run_seed=run_seed)


def check_labels(model: Model, table: ClipTable, clips: Sequence[Clip]) -> np.ndarray:
    """(clips,) int64 class indices.

    Raises:
        InputError: the model has other labels than the table, or clips have none.
    """
    if bare := sum(not clip.scene for clip in clips):
        raise InputError(
            f"data set {table.name}: {bare} of {len(clips)} clips have no label, so nothing can be scored on them; "
            "name their scenes with `tinyasc infer`"
        )
    if model.labels != table.labels:
        raise InputError(
            f"{model.where}: its labels are not those of data set {table.name}; name the right one with --data"
        )
    index = {label: i for i, label in enumerate(table.labels)}
    return np.array([index[clip.scene] for clip in clips], np.int64)


def clip_names(table: ClipTable, clips: Sequence[Clip]) -> list[str]:
    """Paths relative to the folder that all clips of the table share: the same wherever the data set lies.

    A part of a file is named as W3C's Media Fragments do it: "long.wav#t=10.0,20.0".
    """
    root = os.path.commonpath([clip.path.parent for clip in table.clips])
    parts = ["" if clip.segment is None else "#t={!r},{!r}".format(*map(float, clip.segment)) for clip in clips]
    return [Path(os.path.relpath(c.path, root)).as_posix() + part for c, part in zip(clips, parts, strict=True)]


def _samples(model: Model, clips: Sequence[Clip]) -> Iterator[np.ndarray]:
    """The samples of every clip. Parts of one recording stand together in the lists: it is decoded once for them."""
    front_end = model.front_end
    for path, parts in groupby(clips, key=lambda clip: clip.path):
        segments = [clip.segment for clip in parts]
        yield from read_segments(path, front_end.sample_rate, segments, stereo=front_end.stereo)


def _rows(
    table: ClipTable,
    clips: Sequence[Clip],
    labels: np.ndarray,
    devices: Sequence[str],
    seen: Sequence[int],
    p: np.ndarray,
    *,
    fold: int,
    run_seed: int,
) -> Predictions:
    return Predictions(
        table.labels,
        clips=np.array(clip_names(table, clips)),
        labels=labels,
        devices=np.array(devices),
        locations=np.array([clip.location for clip in clips]),
        seen=np.array(seen, np.int8),
        folds=np.full(len(clips), fold),
        seeds=np.full(len(clips), run_seed),
        probabilities=p,
    )
