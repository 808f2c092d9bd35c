"""Training clips as waveforms, for transforms that act on them: decoded once, then mapped from the cache."""

from __future__ import annotations

import dataclasses
import hashlib
import io
import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from tinyasc.audio import read_audio
from tinyasc.augment import load_bank
from tinyasc.data import Clip
from tinyasc.data.cache import FeatureCache, Progress
from tinyasc.errors import InputError
from tinyasc.files import write_atomic
from tinyasc.training.augmentation import needs_waveforms
from tinyasc.training.features import Part, Prepared, cache_folder
from tinyasc.training.progress import progress
from tinyasc.training.recipe import Recipe

# Goes up when `read_audio` gives other numbers for the same file.
WAVEFORM_VERSION = 1


@dataclass(frozen=True)
class WaveformPart(Part):
    """A set of clips that gives waveforms to its batches; `features` are those of the clean clips.

    Args:
        files: (clips,) cached waveforms, whole and at the front end's rate.
        dir_allowed: (clips,) bool: clips that may be given an impulse response.
    """

    files: tuple[Path, ...]
    dir_allowed: np.ndarray

    def batch(self, index: list[int]) -> dict[str, Tensor]:
        """Waveforms (batch, longest) with zeros after each `length`, label and dir_allowed (batch,)."""
        clips = [_mapped(self.files[i]) for i in index]
        lengths = torch.tensor([len(clip) for clip in clips])
        waveform = torch.zeros(len(clips), int(lengths.max()))
        for row, clip in zip(waveform, clips, strict=True):
            row.numpy()[: len(clip)] = clip
        return {
            "waveform": waveform,
            "length": lengths,
            "label": torch.from_numpy(self.labels[index]),
            "dir_allowed": torch.from_numpy(self.dir_allowed[index]),
        }


def with_waveforms(data: Prepared, recipe: Recipe) -> Prepared:
    """The prepared data with waveforms for its training clips, where the recipe augments waveforms; else unchanged.

    The impulse responses become part of the data's identity: a run cannot be resumed with others.

    Raises:
        InputError: a clip or impulse response that cannot be read, or `dir_devices` that no training clip has.
        OSError: the cache cannot be written.
    """
    settings, clips = recipe.augment, data.split.train
    if not needs_waveforms(settings):
        return data
    devices = {clip.device for clip in clips}
    if unknown := sorted(set(settings.dir_devices) - devices):
        known = ", ".join(sorted(filter(None, devices))) or "not named in this data set; leave dir_devices out"
        raise InputError(f"augment.dir_devices: no training clip is of device {unknown[0]!r}; the devices are {known}")
    allowed = np.array([not settings.dir_devices or clip.device in settings.dir_devices for clip in clips])
    digest = hashlib.blake2b(data.identity.encode(), digest_size=16)
    digest.update(repr((data.front_end.sample_rate, allowed.tolist())).encode())
    if settings.dir_prob:
        digest.update(load_bank(settings.dirs or "", data.front_end.sample_rate).numpy().data)
    with progress("waveforms") as report:
        files = cache_waveforms(clips, data.front_end.sample_rate, cache_folder(), progress=report)
    train = WaveformPart(data.train.features, data.train.labels, tuple(files), allowed)
    return dataclasses.replace(data, train=train, identity=digest.hexdigest())


def cache_waveforms(
    clips: tuple[Clip, ...], sample_rate: int, folder: str | Path, progress: Progress | None = None
) -> list[Path]:
    """Decodes clips into `folder`/waveforms-RATE, one float32 .npy per audio content; what is there is kept.

    float32, not int16: a quiet band of a loud clip may lie below 16 bits, and features of training would then differ
    from those of validation. An hour at 32 kHz takes 461 MB.

    Raises:
        InputError: the first clip that cannot be read.
        OSError: the folder cannot be written.
    """
    # Its index knows the content of every file whose features have been computed.
    contents = FeatureCache(folder)
    place = Path(folder).absolute() / f"waveforms-{sample_rate}-{WAVEFORM_VERSION}"

    def cached(clip: Clip) -> Path:
        content = contents.content_of(clip.path)
        if content is None:
            raise InputError(f"{clip.path}: changed while it was read; run again when it is complete")
        file = place / f"{content}.npy"
        try:
            _mapped(file)
        except (OSError, ValueError, EOFError):  # absent or damaged
            buffer = io.BytesIO()
            np.save(buffer, read_audio(clip.path, sample_rate), allow_pickle=False)
            write_atomic(file, buffer.getvalue())
        return file

    files = []
    with ThreadPoolExecutor(os.cpu_count() or 1) as pool:
        try:
            for file in pool.map(cached, clips):
                files.append(file)
                if progress:
                    progress(len(files), len(clips))
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise
    return files


def _mapped(file: Path) -> np.ndarray:
    return np.load(file, mmap_mode="r", allow_pickle=False)
