"""Answers for audio files of any length, without holding more of them than some windows."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from tinyasc.audio import read_audio, read_blocks, read_info, resampled_length
from tinyasc.errors import InputError
from tinyasc.frontend import FrontEnd
from tinyasc.infer.runner import Model, Plan, Prediction
from tinyasc.infer.tta import Copy, parse_tta
from tinyasc.infer.windows import hop_samples, starts

# Values (frames x channels) up to which a file is read at once: 16 MiB as float32, 131 s of one channel at 32 kHz.
WHOLE_VALUES = 1 << 22


def predict_file(
    model: Model,
    path: Path | str,
    *,
    tta: Any = None,
    seed: int = 0,
    device: str = "",
    stop_early: bool = False,
    window_hop: float | None = None,
    aggregate: str = "mean",
) -> Prediction:
    """Classifies one audio file of any rate, channels and width; the answer is `Model.predict`'s of its samples.

    A file of more than `WHOLE_VALUES` values is read piece by piece. Held of it are then the blocks (1 MiB each
    in the file) that one window spans, and one window for every test-time copy, however long it is.

    Args:
        model: from `tinyasc.infer.runner.load`.
        path: the file.
        tta: as `Model.predict`, and all below.
        seed: of the copies.
        device: of the recording.
        stop_early: see there.
        window_hop: seconds.
        aggregate: of windows.

    Raises:
        InputError: as `tinyasc.audio.read_audio` and `Model.predict`, with the file's name.
        ModelFileError: the model answers with NaN or infinity.
    """
    front_end = model.front_end
    plan = Plan(parse_tta(tta), seed, stop_early, hop_samples(window_hop, front_end), aggregate)
    info = read_info(path)
    total = resampled_length(info.frames, info.sample_rate, front_end.sample_rate)
    if info.frames * info.channels > WHOLE_VALUES and total > front_end.clip_samples:
        clip = LongClip(path, front_end, total, plan)
        return model.answer(plan, total, clip.heard, device)
    samples = read_audio(path, front_end.sample_rate, stereo=front_end.stereo)
    try:
        return model.predict(
            samples,
            tta=plan.tta,
            seed=seed,
            device=device,
            stop_early=stop_early,
            window_hop=window_hop,
            aggregate=aggregate,
        )
    except InputError as error:  # of the samples, which know nothing of their file
        raise InputError(f"{path}: {error}") from None


class LongClip:
    """A file that is longer than a model's input, read once and piece by piece.

    The windows of the plain clip are given as they pass. Every other copy is one window of the clip
    (`tinyasc.infer.tta`), known by its place beforehand; it is kept when it passes, and heard in its turn.

    Args:
        path: the file.
        front_end: of the model.
        total: samples of the file at the front end's rate, more than `clip_samples`.
        plan: which copies and windows.
    """

    def __init__(self, path: Path | str, front_end: FrontEnd, total: int, plan: Plan) -> None:
        self._path, self._front_end, self._total, self._hop = path, front_end, total, plan.hop
        copies = plan.tta.draw(total, front_end, plan.seed)
        self._kept = {copy: _Kept(copy, front_end, total) for copy in copies if copy.cut is not None}
        self._read = False

    def heard(self, copy: Copy) -> Iterator[np.ndarray]:
        """The windows of a copy, (..., clip_samples) each.

        Raises:
            InputError: as `tinyasc.audio.read_blocks`, or the file changed while it was read.
        """
        if copy.cut is None:
            yield from self._windows()
            return
        if not self._read:
            for _ in self._blocks():
                pass
        yield copy.amplify(self._kept[copy].samples)

    def _windows(self) -> Iterator[np.ndarray]:
        clip_samples = self._front_end.clip_samples
        blocks = self._blocks()
        held, first, end = [], 0, 0  # blocks from sample `first` to `end`
        for start in starts(self._total, clip_samples, self._hop):
            while held and first + held[0].shape[-1] <= start:
                first += held.pop(0).shape[-1]
            while end < start + clip_samples:
                block = next(blocks)
                end += block.shape[-1]
                held.append(block)
                if end <= start:  # a hop that is longer than a window passes whole blocks over
                    first = end
                    held.clear()
            joined = np.concatenate(held, axis=-1)
            yield joined[..., start - first : start - first + clip_samples]
        for _ in blocks:  # to its end, where a change of the file is found
            pass

    def _blocks(self) -> Iterator[np.ndarray]:
        """The file's blocks, of which every kept copy takes its part. Raises InputError unless they hold `total`."""
        at = 0
        for block in read_blocks(self._path, self._front_end.sample_rate, stereo=self._front_end.stereo):
            if at + block.shape[-1] > self._total:
                break
            for kept in self._kept.values():
                kept.take(block, at)
            at += block.shape[-1]
            yield block
        else:
            if at == self._total:
                self._read = True
                return
        raise InputError(f"{self._path}: changed while it was read; wait until it is complete, and try again")


class _Kept:
    """One window of a clip, collected while its blocks pass; it may wrap from the clip's end to its beginning."""

    def __init__(self, copy: Copy, front_end: FrontEnd, total: int) -> None:
        assert copy.cut is not None
        cut, n = copy.cut, front_end.clip_samples
        self.samples = np.empty((2, n) if front_end.stereo else n, np.float32)
        start = cut.base + cut.phase
        # (first sample in the clip, one after the last, where in the window the first goes)
        self._parts = [(start, min(start + n, total), 0), (0, start + n - total, total - start)]

    def take(self, block: np.ndarray, at: int) -> None:
        """Takes what is wanted of a block (..., samples) that begins with sample `at`."""
        for first, end, to in self._parts:
            low, high = max(first, at), min(end, at + block.shape[-1])
            if low < high:
                self.samples[..., to + low - first : to + high - first] = block[..., low - at : high - at]
