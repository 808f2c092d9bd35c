"""A data set as several devices would have recorded it: every clip clean, and through measured microphones.

Each clip is written three times: as it is (device "clean"), through a microphone of the list's `train`, and through
one of its `test`, whose copies are never trained on. Which microphone a clip gets is dealt in turn in the order of a
hash of the clips' names, so it depends on no class and no fold. The list's `bank` stays free for augmentation.

In a data set with one official split only the test clips are written through a microphone of `test`: the others' copies
could neither be trained nor tested on.
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
from collections import defaultdict
from collections.abc import Callable
from itertools import cycle
from pathlib import Path

import numpy as np
import soundfile

from tinyasc.audio import read_segments
from tinyasc.data.csvlist import SPLITS
from tinyasc.data.devices import CLEAN, DeviceList, read_responses, through
from tinyasc.data.extract import file_mark
from tinyasc.data.lists import listed
from tinyasc.data.table import Clip, ClipTable
from tinyasc.errors import InputError
from tinyasc.files import locked, remove_unfinished, write_atomic

RECORD = "through.json"
COLUMNS = ("filename", "label", "device", "fold", "split", "group")


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

    Copies that are there are kept, so that a killed command goes on; the list is written last. through.json, written
    first, says what they are copies of.

    Args:
        table: clips of one device, or of none that is named, with folds or with one official split.
        devices: the microphones.
        response_root: the folder of their impulse responses.
        folder: where the copies go: clips.csv, FOLD/CLIP-DEVICE.flac and bank.txt, the list's bank for `augment.dirs`.
        sample_rate: of the copies, Hz.
        progress: called with clips done and clips in all.

    Returns:
        The list's path.

    Raises:
        InputError: clips without labels, of several devices or of one of the microphones, two clips of one name, a clip
            or response that cannot be read, a rate that FLAC cannot state, or a folder with copies at another rate,
            through other microphones or of other files, or in which another process writes.
    """
    if not table.labels:
        raise InputError(
            f"data set {table.name}: its clips have no labels, so no list for training or testing can be written"
        )
    _check_devices(table, devices)
    # In the header that every decoder reads (RFC 9639, section 9.1.2).
    if sample_rate > 65535 and sample_rate % 10:
        raise InputError(f"--rate {sample_rate}: above 65,535 Hz FLAC states rates in steps of 10 Hz; choose another")
    kept = {part: read_responses(getattr(devices, part), response_root, sample_rate) for part in ("train", "test")}
    names = [f"{clip.fold}/{clip.path.stem}{_part(clip)}" for clip in table.clips]
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise InputError(f"data set {table.name}: two clips are named {twice}; rename one")
    _claim(folder, sample_rate, devices, kept, dict(zip(names, table.clips, strict=True)))
    # Fold 0 is only ever trained on: then the table has a split in place of folds.
    by_split = any(clip.fold == 0 for clip in table.clips)
    fold_of = {name: clip.fold for name, clip in zip(names, table.clips, strict=True)}
    dealt: dict[str, dict[str, str]] = defaultdict(dict)
    turns = {part: cycle(sorted(responses)) for part, responses in kept.items()}
    for name in sorted(names, key=lambda name: hashlib.blake2b(name.encode()).digest()):
        for part, turn in turns.items():
            if part == "train" or not by_split or fold_of[name] == SPLITS["test"]:
                dealt[name][part] = next(turn)
    split_of = {fold: split for split, fold in SPLITS.items()}
    with locked(folder):
        remove_unfinished(folder, ".flac")
        rows: list[tuple[str, ...]] = []
        for done, (clip, name) in enumerate(zip(table.clips, names, strict=True), start=1):
            heard: dict[str, np.ndarray | None] = {CLEAN: None}
            heard |= {device: kept[part][device] for part, device in dealt[name].items()}
            samples = None
            for device, response in heard.items():
                file = folder / f"{name}-{device}.flac"
                if not file.is_file():
                    if samples is None:
                        (samples,) = read_segments(clip.path, sample_rate, [clip.segment])
                    _write(file, samples if response is None else through(samples, response), sample_rate)
                path = file.relative_to(folder).as_posix()
                if by_split:
                    fold, split = "", split_of[clip.fold]
                else:
                    fold, split = str(clip.fold), "test" if clip.test_only or device in kept["test"] else ""
                rows.append((path, clip.scene, device, fold, split, clip.location))
            if progress:
                progress(done, len(names))
        bank = [str((response_root / file).absolute()) for file in devices.bank]
        write_atomic(folder / "bank.txt", "".join(f"{line}\n" for line in bank))
        text = io.StringIO()
        csv.writer(text, lineterminator="\n").writerows([COLUMNS, *rows])
        write_atomic(folder / "clips.csv", text.getvalue())
        return folder / "clips.csv"


def _check_devices(table: ClipTable, devices: DeviceList) -> None:
    """Refuses clips whose device would be lost, as every clip is written as "clean" or as a microphone."""
    recorded = {clip.device for clip in table.clips}
    if heard := [name for name in devices.stems("train", "bank", "test") if name in recorded]:
        raise InputError(
            f"data set {table.name}: its clips are already recorded through {heard[0]}, a microphone of "
            f"{devices.name}; give them as they were before"
        )
    if len(recorded) > 1:
        raise InputError(
            f"data set {table.name}: its clips are of several devices "
            f"({listed(name or 'unnamed' for name in sorted(recorded))}), which the copies would not tell apart; "
            "list the clips of one in a CSV file"
        )


def _claim(
    folder: Path,
    sample_rate: int,
    devices: DeviceList,
    responses: dict[str, dict[str, np.ndarray]],
    sources: dict[str, Clip],
) -> None:
    """Notes what a folder's copies are made of, or checks it."""
    digest = hashlib.blake2b(digest_size=16)
    for part, files in responses.items():
        for name, response in sorted(files.items()):
            digest.update(f"{part}\n{name}\n{len(response)}\n".encode())
            digest.update(response.tobytes())
    marks = {name: file_mark(clip.path) for name, clip in sources.items()}
    if gone := [name for name, mark in marks.items() if mark is None]:
        raise InputError(f"{sources[gone[0]].path}: no such audio file; check the path")
    # A copy of the data set has other inodes.
    now = {name: [mark.size, mark.changed_ns] for name, mark in marks.items() if mark is not None}
    stated = {
        "rate": sample_rate,
        "list": devices.name,
        "responses": digest.hexdigest(),
        "sources": now,
    }
    file, another = folder / RECORD, "name another folder with --out"
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
        rate, microphones, before = found["rate"], found["responses"], dict(found["sources"])
    except FileNotFoundError:
        if folder.is_dir() and (strange := [p.name for p in folder.iterdir() if not p.name.startswith(".")]):
            raise InputError(f"{folder}: holds {strange[0]} and no {RECORD}; {another}") from None
        folder.mkdir(parents=True, exist_ok=True)
        write_atomic(file, json.dumps(stated, indent=1))
        return
    except (OSError, ValueError, KeyError, TypeError):
        raise InputError(f"{file}: damaged, so its copies are not known; {another}") from None
    if rate != sample_rate:
        raise InputError(f"{folder}: holds copies made at {rate} Hz, not {sample_rate}; {another}")
    if microphones != stated["responses"]:
        raise InputError(f"{folder}: holds copies made through other microphones than {devices.name}'s; {another}")
    if other := sorted(name for name in {*before, *now} if before.get(name) != now.get(name)):
        raise InputError(
            f"{folder}: holds copies of other audio files ({other[0]} has changed, was added or is gone); {another}"
        )


def _part(clip: Clip) -> str:
    return "" if clip.segment is None else f"-{clip.segment[0]:g}-{clip.segment[1]:g}"


def _write(file: Path, samples: np.ndarray, sample_rate: int) -> None:
    # Equal level can mean higher peaks; what would be cut off is made quieter as a whole.
    peak = float(np.abs(samples).max(initial=0))
    buffer = io.BytesIO()
    soundfile.write(buffer, samples / max(1.0, peak), sample_rate, format="FLAC", subtype="PCM_24")
    file.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(file, buffer.getvalue())
