"""A data set as several devices would have recorded it: every clip clean, and through measured microphones.

Each clip is written three times: as it is (device "clean"), through a microphone of the list's `train`, and through
one of its `test`, whose copies are never trained on. Which microphone a clip gets is dealt in turn in the order of a
hash of the clips' names, so it depends on no class and no fold. The list's `bank` stays free for augmentation.
"""

from __future__ import annotations

import csv
import hashlib
import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
import soundfile

from tinyasc.audio import read_segments
from tinyasc.data.devices import DeviceList, read_responses, through
from tinyasc.data.table import Clip, ClipTable
from tinyasc.errors import InputError
from tinyasc.files import write_atomic

COLUMNS = ("filename", "label", "device", "fold", "split", "group")
CLEAN = "clean"


def write_devices(
    table: ClipTable,
    devices: DeviceList,
    response_root: Path,
    folder: Path,
    *,
    sample_rate: int,
    progress: Callable[[int, int], None] | None = None,
) -> Path:
    """Writes the copies as 24-bit FLAC with a list that the data set `csv` reads.

    Copies that are there are kept, so that a killed command goes on; the list is written last.

    Args:
        table: clips with folds.
        devices: the microphones.
        response_root: the folder of their impulse responses.
        folder: where the copies go: clips.csv, FOLD/CLIP-DEVICE.flac and bank.txt, the list's bank for `augment.dirs`.
        sample_rate: of the copies, Hz.
        progress: called with clips done and clips in all.

    Returns:
        The list's path.

    Raises:
        InputError: the folder holds another list, two clips of one name, a clip or response that cannot be read.
    """
    kept = {part: read_responses(getattr(devices, part), response_root, sample_rate) for part in ("train", "test")}
    names = [f"{clip.fold}/{clip.path.stem}{_part(clip)}" for clip in table.clips]
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise InputError(f"data set {table.name}: two clips are named {twice}; rename one")
    rank = {name: i for i, name in enumerate(sorted(names, key=lambda n: hashlib.blake2b(n.encode()).digest()))}
    rows: list[tuple[str, ...]] = []
    for done, (clip, name) in enumerate(zip(table.clips, names, strict=True), start=1):
        heard: dict[str, np.ndarray | None] = {CLEAN: None}
        for responses in kept.values():
            device = sorted(responses)[rank[name] % len(responses)]
            heard[device] = responses[device]
        samples = None
        for device, response in heard.items():
            file = folder / f"{name}-{device}.flac"
            if not file.is_file():
                if samples is None:
                    (samples,) = read_segments(clip.path, sample_rate, [clip.segment])
                _write(file, samples if response is None else through(samples, response), sample_rate)
            split = "test" if device in kept["test"] else ""
            path = file.relative_to(folder).as_posix()
            rows.append((path, clip.scene, device, str(clip.fold), split, clip.location))
        if progress:
            progress(done, len(names))
    bank = [str((response_root / file).absolute()) for file in devices.bank]
    write_atomic(folder / "bank.txt", "".join(f"{line}\n" for line in bank))
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows([COLUMNS, *rows])
    write_atomic(folder / "clips.csv", text.getvalue())
    return folder / "clips.csv"


def _part(clip: Clip) -> str:
    return "" if clip.segment is None else f"-{clip.segment[0]:g}-{clip.segment[1]:g}"


def _write(file: Path, samples: np.ndarray, sample_rate: int) -> None:
    # Equal level can mean higher peaks; what would be cut off is made quieter as a whole.
    peak = float(np.abs(samples).max(initial=0))
    buffer = io.BytesIO()
    soundfile.write(buffer, samples / max(1.0, peak), sample_rate, format="FLAC", subtype="PCM_24")
    file.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(file, buffer.getvalue())
