"""What a data set holds: counts per set, class and device, files that are missing or unreadable, sample rates."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from tinyasc.audio import read_info
from tinyasc.data.lists import missing_files
from tinyasc.data.table import Clip, ClipTable, Split
from tinyasc.errors import InputError

Progress = Callable[[int, int], None]
SHOWN = 3


def counts(table: ClipTable, split: Split | None) -> dict[str, Any]:
    """Counts from the lists alone, as plain values that JSON holds.

    Args:
        table: the clips.
        split: its three sets; None for clips without labels, which are counted as one set, "all".

    Returns:
        "data", "synthetic", "notes", "labels", "clips", "files", "sets" (per set: clips, locations, scenes, devices)
        and "unseen_devices".
    """
    sets = {"all": table.clips} if split is None else dict(split)
    return {
        "data": table.name,
        "synthetic": table.synthetic,
        "notes": list(table.notes),
        "labels": list(table.labels),
        "clips": len(table.clips),
        "files": len({clip.path for clip in table.clips}),
        "sets": {part: _counts_of(clips) for part, clips in sets.items()},
        "unseen_devices": list(split.unseen_devices) if split else [],
    }


def audio(clips: Sequence[Clip], progress: Progress | None = None) -> dict[str, Any]:
    """Looks for every audio file and reads its header; no samples are decoded.

    Returns:
        "missing" and "unreadable" (each with "count" and the "first" few), "sample_rates" and "channels" (value ->
        number of files), and "too_short" (parts that end after their file does, as above).
    """
    paths = list(dict.fromkeys(clip.path for clip in clips))
    ends: dict[Path, float] = {}
    for clip in clips:
        if clip.segment:
            ends[clip.path] = max(clip.segment[1], ends.get(clip.path, 0.0))
    missing = missing_files(paths)
    absent = set(missing)
    rates: Counter[int] = Counter()
    channels: Counter[int] = Counter()
    unreadable: list[str] = []
    short: list[str] = []
    for done, path in enumerate(paths, start=1):
        if path not in absent:
            try:
                info = read_info(path)
            except InputError as error:
                unreadable.append(str(error))
            else:
                rates[info.sample_rate] += 1
                channels[info.channels] += 1
                if round(ends.get(path, 0.0) * info.sample_rate) > info.frames:
                    short.append(f"{path}: holds {info.seconds:.3f} s, a part of it ends at {ends[path]:g} s")
        if progress:
            progress(done, len(paths))
    return {
        "missing": _first(map(str, missing)),
        "unreadable": _first(unreadable),
        "too_short": _first(short),
        "sample_rates": {str(rate): n for rate, n in sorted(rates.items())},
        "channels": {str(number): n for number, n in sorted(channels.items())},
    }


def _counts_of(clips: Sequence[Clip]) -> dict[str, Any]:
    return {
        "clips": len(clips),
        "locations": len({clip.location for clip in clips if clip.location}),
        "scenes": dict(sorted(Counter(clip.scene for clip in clips if clip.scene).items())),
        "devices": dict(sorted(Counter(clip.device for clip in clips if clip.device).items())),
    }


def _first(lines: Any) -> dict[str, Any]:
    found = list(lines)
    return {"count": len(found), "first": found[:SHOWN]}
