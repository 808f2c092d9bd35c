"""From a recipe's data part to normalised features of training and validation clips."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from tinyasc.data import Clip, ClipTable, Split, load_table, split_table
from tinyasc.data.cache import load_features, sample_rates
from tinyasc.data.groups import by_group, parents
from tinyasc.data.lists import nearest
from tinyasc.data.scenes import write_scenes
from tinyasc.data.table import without
from tinyasc.data.tau import is_synthetic
from tinyasc.errors import InputError
from tinyasc.evaluate.clips import clip_names
from tinyasc.frontend import FrontEnd, normalize
from tinyasc.training.distributed import rank, world_size
from tinyasc.training.heard import Heard
from tinyasc.training.progress import progress
from tinyasc.training.recipe_parts import Data

DEMO_ROOT = Path("demo-scenes")
CLIPS_AT_ONCE = 1000


@dataclass(frozen=True)
class Part:
    """Features (clips, channels, bands, frames) float32, class and device indices (clips,) of one set.

    A device is -1 where no training clip has it; there are none where the data names no devices.
    """

    features: np.ndarray
    labels: np.ndarray
    devices: np.ndarray | None = None

    def batch(self, index: list[int]) -> dict[str, Tensor]:
        """Features (batch, channels, bands, frames), label and device (batch,) of some clips."""
        return {"features": torch.from_numpy(self.features[index]), **self.targets(index)}

    def targets(self, index: list[int]) -> dict[str, Tensor]:
        """Label and, where the data names devices, device (batch,) of some clips."""
        label = {"label": torch.from_numpy(self.labels[index])}
        return label if self.devices is None else label | {"device": torch.from_numpy(self.devices[index])}

    def followed_by(self, other: Part) -> Part:
        """The clips of both, in a part of this one's kind."""
        features, labels = np.concatenate([self.features, other.features]), np.concatenate([self.labels, other.labels])
        if self.devices is None or other.devices is None:
            return Part(features, labels)
        return Part(features, labels, np.concatenate([self.devices, other.devices]))


@dataclass(frozen=True)
class Prepared:
    """Training and validation features, labels, and the front end with its normalisation. No test clip is read.

    `identity` is a hash of the features before normalisation, of the classes and of the cut: two data sets of one name
    differ in it. `devices` are the names of the training clips' devices, sorted, `parents` the groups of the classes,
    `test_names` the test clips' (see `clip_names`), `sample_rates` Hz -> how many of the files that were read have it.
    """

    train: Part
    validation: Part
    labels: tuple[str, ...]
    front_end: FrontEnd
    split: Split
    synthetic: bool
    identity: str
    heard: Heard = field(default_factory=Heard)
    devices: tuple[str, ...] = ()
    parents: tuple[int, ...] = ()
    test_names: tuple[str, ...] = ()
    sample_rates: Mapping[int, int] = field(default_factory=dict)

    def trained_on(self, final: bool) -> Part:
        """The training set, or with `final` the training and then the validation set."""
        return self.train.followed_by(self.validation) if final else self.train


def open_data(data: Data) -> tuple[ClipTable, Split]:
    """The clip table of a recipe's data part and its three sets; the demo set is generated when it is not there.

    Raises:
        InputError: no root given for a data set that has to be downloaded, or what `load_table` refuses.
    """
    root = data.root
    # A folder that was named may hold scenes of other sizes, from `tinyasc data demo`.
    # A file is left to `load_table`, which says what is wrong with it.
    if data.name == "demo" and (root is None or not (Path(root).is_file() or is_synthetic(Path(root)))):
        root = root or str(DEMO_ROOT)
        with progress("synthetic scenes") as report:
            write_scenes(Path(root), progress=report)
    if root is None:
        raise InputError(f"data set {data.name}: where is it? name its folder with --root DIR")
    table = load_table(data.name, root)
    if data.leave_out:
        table = without(table, data.leave_out)
    if data.target == "group":
        table = by_group(table, data.groups)
    split = split_table(table, test_fold=data.test_fold, validation_fold=data.validation_fold)
    return table, _of_devices(split, data.devices) if data.devices else split


def _of_devices(split: Split, devices: Sequence[str]) -> Split:
    train, validation = (tuple(c for c in part if c.device in devices) for part in (split.train, split.validation))
    known = sorted({clip.device for clip in (*split.train, *split.validation)})
    if unknown := [device for device in devices if device not in known]:
        raise InputError(f"data.devices: no training clip is of device {unknown[0]!r}; {nearest(unknown[0], known)}")
    if not train or not validation:
        raise InputError(f"data.devices: {', '.join(devices)} left no clips to train or to validate on; name more")
    return Split(train, validation, split.test)


def cache_folder() -> Path:
    """Where features are cached: $TINYASC_CACHE, or .tinyasc/features in the current folder."""
    return Path(os.environ.get("TINYASC_CACHE", ".tinyasc/features"))


def prepare(data: Data, front_end: FrontEnd) -> Prepared:
    """Features of the training and validation sets.

    Args:
        data: which clips.
        front_end: its per-band normalisation is used; one without any is given the training set's mean and deviation in
            every channel's bands.

    Raises:
        InputError: as `open_data` and `load_features`.
    """
    table, split = open_data(data)
    clips = [*split.train, *split.validation]
    with progress("features") as report:
        mel = load_features(clips, front_end, cache_folder(), progress=report)
    cut = len(split.train)
    parts = (split.train, split.validation)
    classes = [class_indices(part, table.labels) for part in parts]
    devices = tuple(sorted({clip.device for clip in split.train} - {""}))
    heard = [device_indices(part, devices) if devices else None for part in parts]
    digest = hashlib.blake2b(repr((table.labels, mel.shape, cut)).encode(), digest_size=16)
    for values in (mel, *classes):
        digest.update(np.ascontiguousarray(values).data)
    if not front_end.band_scale:
        mean, deviation = _mean_and_deviation(mel[:cut])
        # A band that does not change is not blown up: 1e-3 dB, or the power that counts as none.
        scale = 1 / np.maximum(deviation, 1e-3 if front_end.log else front_end.amin)
        front_end = front_end.with_normalization(scale, -mean * scale)
    # In place, which changes no file of the cache: a data set may fill more than half of the memory.
    mel = np.asarray(mel)
    for start in range(0, len(mel), CLIPS_AT_ONCE):
        mel[start : start + CLIPS_AT_ONCE] = normalize(mel[start : start + CLIPS_AT_ONCE], front_end)
    return Prepared(
        Part(mel[:cut], classes[0], heard[0]),
        Part(mel[cut:], classes[1], heard[1]),
        table.labels,
        front_end,
        split,
        table.synthetic,
        digest.hexdigest(),
        Heard.of(table, split),
        devices,
        parents(table.labels, data.groups) if data.target == "scene" else (),
        tuple(clip_names(table, split.test)),
        sample_rates(clips, cache_folder()),
    )


def _mean_and_deviation(mel: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean and standard deviation of every channel's bands, (channels, bands) float64, of (clips, ..., frames).

    In two passes of float64 sums over some clips at a time: numpy's own deviation holds all of them in float64.
    """
    parts = [mel[start : start + CLIPS_AT_ONCE] for start in range(0, len(mel), CLIPS_AT_ONCE)]
    count = mel.shape[0] * mel.shape[3]
    mean = sum(part.sum(axis=(0, 3), dtype=np.float64) for part in parts) / count
    squares = sum(np.square(part - mean[:, :, None]).sum(axis=(0, 3)) for part in parts)
    return mean, np.sqrt(squares / count)


def class_indices(clips: Sequence[Clip], labels: Sequence[str]) -> np.ndarray:
    """(clips,) int64 positions of the clips' scenes among the labels."""
    index = {label: i for i, label in enumerate(labels)}
    return np.array([index[c.scene] for c in clips], np.int64)


def device_indices(clips: Sequence[Clip], devices: Sequence[str]) -> np.ndarray:
    """(clips,) int64 positions of the clips' devices among the names; -1 for others."""
    index = {device: i for i, device in enumerate(devices)}
    return np.array([index.get(c.device, -1) for c in clips], np.int64)


class BatchesByEpoch(Sampler[list[int]]):
    """Batches of nearly equal size, shuffled by (seed, epoch) alone, so that a resumed run sees the same ones."""

    def __init__(self, n: int, batch_size: int, seed: int | None, processes: int = 1) -> None:
        self.n, self.seed, self.epoch = n, seed, 0
        self.batches = -(-n // batch_size)
        if n // self.batches < processes:
            raise InputError(
                f"training: {n} clips in batches of at most {batch_size} do not give each of {processes} processes a "
                "clip in every batch; raise training.batch_size or start fewer"
            )

    def set_epoch(self, epoch: int) -> None:
        """Called by Lightning at the start of every epoch."""
        self.epoch = epoch

    def __len__(self) -> int:
        return self.batches

    def __iter__(self) -> Iterator[list[int]]:
        order = np.arange(self.n)
        if self.seed is not None:
            np.random.default_rng((self.seed, self.epoch)).shuffle(order)
        for batch in np.array_split(order, self.batches):
            yield batch.tolist()


class _Batches(Dataset[dict[str, Tensor]]):
    """Whole batches by index lists: one gather instead of one call per clip.

    Among several processes each gives its own share of the batch, and `weight`, a number with which the mean over
    processes of the means over their shares is the mean over the batch.
    """

    def __init__(self, part: Part, teacher: np.ndarray | None) -> None:
        self.part, self.teacher = part, teacher

    def __getitem__(self, index: list[int]) -> dict[str, Tensor]:
        processes, whole = world_size(), len(index)
        index = index[rank() :: processes]
        batch = self.part.batch(index)
        if self.teacher is not None:
            batch["teacher"] = torch.from_numpy(self.teacher[index])
        if processes > 1:
            batch["weight"] = torch.tensor(len(index) * processes / whole)
        return batch


def loader(
    part: Part, batch_size: int, *, seed: int | None, teacher: np.ndarray | None = None
) -> DataLoader[dict[str, Tensor]]:
    """Batches of features (batch, channels, bands, frames), label (batch,) and teacher (batch, K).

    Without a seed in order.

    Raises:
        InputError: fewer clips in a batch than processes.
    """
    sampler = BatchesByEpoch(len(part.labels), batch_size, seed, world_size())
    return DataLoader(_Batches(part, teacher), sampler=sampler, batch_size=None)
