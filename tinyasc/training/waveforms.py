"""Training clips as waveforms, for transforms that act on them: decoded once, then mapped from the cache."""

from __future__ import annotations

import dataclasses
import hashlib
import io
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from tinyasc.audio import read_audio
from tinyasc.augment import load_bank
from tinyasc.data import Clip
from tinyasc.data.cache import Progress
from tinyasc.data.extract import file_mark
from tinyasc.errors import InputError
from tinyasc.files import write_atomic
from tinyasc.training.augmentation import needs_waveforms, refuse_stereo
from tinyasc.training.features import Part, Prepared, cache_folder
from tinyasc.training.progress import progress
from tinyasc.training.recipe import Recipe

# Goes up when `read_audio` gives other numbers for the same file.
WAVEFORM_VERSION = 1


@dataclass(frozen=True, kw_only=True)
class WaveformPart(Part):
    """A set of clips that gives waveforms to its batches; `features` are those of the clean clips.

    Args:
        files: (clips,) cached waveforms of whole files at the front end's rate.
        spans: (clips,) the samples of the file that are the clip; None is all of them.
        dir_allowed: (clips,) bool: clips that may be given an impulse response.
    """

    files: tuple[Path, ...]
    spans: tuple[slice | None, ...]
    dir_allowed: np.ndarray

    def batch(self, index: list[int]) -> dict[str, Tensor]:
        """Waveforms (batch, longest) with zeros after each `length`, dir_allowed (batch,), and `targets`."""
        clips = [_mapped(self.files[i])[self.spans[i] or slice(None)] for i in index]
        lengths = torch.tensor([len(clip) for clip in clips])
        waveform = torch.zeros(len(clips), int(lengths.max()))
        for row, clip in zip(waveform, clips, strict=True):
            row.numpy()[: len(clip)] = clip
        return {
            "waveform": waveform,
            "length": lengths,
            "dir_allowed": torch.from_numpy(self.dir_allowed[index]),
            **self.targets(index),
        }

    def followed_by(self, other: Part) -> WaveformPart:
        """The clips of both, in a part of this one's kind."""
        assert isinstance(other, WaveformPart), "both sets are trained on from waveforms"
        both = super().followed_by(other)
        allowed = np.concatenate([self.dir_allowed, other.dir_allowed])
        files, spans = self.files + other.files, self.spans + other.spans
        return WaveformPart(both.features, both.labels, both.devices, files=files, spans=spans, dir_allowed=allowed)


def with_waveforms(data: Prepared, recipe: Recipe, sample_rate: int | None = None) -> Prepared:
    """The prepared data with waveforms for the clips to train on, where the recipe augments waveforms; else unchanged.

    With a sample rate in Hz the waveforms are held at that one, whether the recipe augments them or not. The impulse
    responses become part of the data's identity: a run cannot be resumed with others.

    Raises:
        InputError: a clip or impulse response that cannot be read, `dir_devices` that no training clip has, or a
            stereo front end.
        OSError: the cache cannot be written.
    """
    settings, sets = recipe.augment, {"train": data.split.train}
    rate = sample_rate or data.front_end.sample_rate
    if sample_rate is None and not needs_waveforms(settings):
        return data
    refuse_stereo(data.front_end)
    if recipe.training.final:
        sets["validation"] = data.split.validation
    clips = [clip for part in sets.values() for clip in part]
    devices = {clip.device for clip in clips}
    if unknown := sorted(set(settings.dir_devices) - devices):
        known = ", ".join(sorted(filter(None, devices))) or "not named in this data set; leave dir_devices out"
        raise InputError(f"augment.dir_devices: no training clip is of device {unknown[0]!r}; the devices are {known}")
    allowed = [not settings.dir_devices or clip.device in settings.dir_devices for clip in clips]
    digest = hashlib.blake2b(data.identity.encode(), digest_size=16)
    digest.update(repr((rate, allowed)).encode())
    if settings.dir_prob:
        digest.update(load_bank(settings.dirs or "", rate).numpy().data)
    paths = tuple(dict.fromkeys(clip.path for clip in clips))
    with progress("waveforms") as report:
        cached = cache_waveforms(paths, rate, cache_folder(), progress=report)
    file_of = dict(zip(paths, cached, strict=True))
    parts = {name: _part(getattr(data, name), own, file_of, recipe, rate) for name, own in sets.items()}
    return dataclasses.replace(data, **parts, identity=digest.hexdigest())


def _part(part: Part, clips: Sequence[Clip], file_of: dict[Path, Path], recipe: Recipe, rate: int) -> WaveformPart:
    # A part is cut from its resampled file, which is cached once. The feature cache cuts before it resamples:
    # where the rates differ, the first and last samples do.
    spans = tuple(clip.segment and slice(*(round(second * rate) for second in clip.segment)) for clip in clips)
    wanted = recipe.augment.dir_devices
    allowed = np.array([not wanted or clip.device in wanted for clip in clips])
    files = tuple(file_of[clip.path] for clip in clips)
    return WaveformPart(part.features, part.labels, part.devices, files=files, spans=spans, dir_allowed=allowed)


def cache_waveforms(
    paths: Sequence[Path], sample_rate: int, folder: str | Path, progress: Progress | None = None
) -> list[Path]:
    """Decodes audio files into `folder`/waveforms-RATE, one float32 .npy each; what is there is kept.

    A file is known by its path and mark (see `FileMark`): one that was moved or written again is decoded again.
    float32, not int16: the quiet bands of a loud clip may lie below 16 bits, and the features of training would then
    differ from those of validation. An hour at 32 kHz takes 461 MB.

    Raises:
        InputError: the first file that cannot be read.
        OSError: the folder cannot be written.
    """
    place = Path(folder).absolute() / f"waveforms-{sample_rate}-{WAVEFORM_VERSION}"

    def cached(path: Path) -> Path:
        if (mark := file_mark(path)) is None:
            raise InputError(f"{path}: cannot be read, or is not there; check the path")
        key = "\n".join(map(str, (path.absolute(), *mark)))
        file = place / f"{hashlib.blake2b(os.fsencode(key), digest_size=16).hexdigest()}.npy"
        try:
            _mapped(file)
        except (OSError, ValueError, EOFError):  # absent or damaged
            buffer = io.BytesIO()
            np.save(buffer, read_audio(path, sample_rate), allow_pickle=False)
            write_atomic(file, buffer.getvalue())
        return file

    files = []
    with ThreadPoolExecutor(os.cpu_count() or 1) as pool:
        try:
            for file in pool.map(cached, paths):
                files.append(file)
                if progress:
                    progress(len(files), len(paths))
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise
    return files


def _mapped(file: Path) -> np.ndarray:
    return np.load(file, mmap_mode="r", allow_pickle=False)
