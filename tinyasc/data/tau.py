"""TAU Urban Acoustic Scenes development sets, 2018 to 2025 (Mesaros, Heittola and Virtanen, DCASE 2018, 2020).

Layout: `audio/*.wav`, and the tab-separated lists `meta.csv` (filename, scene_label, identifier, source_label),
`evaluation_setup/fold1_train.*` and `evaluation_setup/fold1_evaluate.*`. Of the clips in meta.csv the official set-up
trains on one part and tests on another; clips in neither are left out. What differs between the years is in
`tau_years.py`.

The 1-second clips of 2022 and later are seconds 0 to 9 of the 10-second recordings of 2020. Where those recordings are
there in place of the segments, the segments are read from within them; 2020's own lists serve too, each row as ten.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from sys import intern

from tinyasc.data.lists import check_label, clip_path, nearest, read_rows
from tinyasc.data.table import Clip, ClipTable
from tinyasc.data.tau_years import TauYear
from tinyasc.errors import InputError

SEGMENTS_PER_RECORDING = 10
# In a recording's name, scene-city-place-recording-device.wav; a segment has its second before the device.
_DASHES = 4


def load(root: Path, year: TauYear) -> ClipTable:
    """Reads the lists under `root`. Audio is looked for only to tell 1-second files from 10-second recordings.

    Args:
        root: the folder with meta.csv.
        year: what to expect there.

    Raises:
        InputError: no such data set there, or a row that cannot be used (file and row).
    """
    return read_lists(root / "meta.csv", _first(root, year.train), _first(root, year.test), root=root, year=year)


def read_lists(meta: Path, train: Path, test: Path, *, root: Path, year: TauYear) -> ClipTable:
    """Reads the three lists, wherever they lie. Training clips get fold 0, test clips fold 1."""
    known, of_recordings = _read_meta(meta, year)
    cut = year.segments and (of_recordings or _is_cut(root, next(iter(known))))
    recordings: dict[str, Path] = {}
    clips: list[Clip] = []
    listed: set[str] = set()
    for path, fold in ((train, 0), (test, 1)):
        rows = read_rows(path, ("filename",), optional=("scene_label",), delimiter="\t", header=year.header)
        for number, filename, (label,) in _segment_rows(rows, year):
            if filename in listed:
                raise InputError(f"{path}: row {number} lists {filename} a second time; a clip belongs to one set only")
            if filename not in known:
                raise InputError(f"{path}: row {number} lists {filename}, which {meta} does not; mend that row")
            scene, device, location = known[filename]
            if label and label != scene:
                raise InputError(
                    f"{path}: row {number} calls {filename} {label!r}, {meta} calls it {scene!r}; mend one"
                )
            listed.add(filename)
            if cut:
                if (part := _recording_of(filename)) is None:
                    raise InputError(
                        f"{path}: row {number} names {filename}, not scene-city-place-recording-second-device.wav; "
                        "mend that row, or put the 1-second files in place of the recordings"
                    )
                recording, second = part
                if recording not in recordings:
                    recordings[recording] = clip_path(root, recording, f"{path}: row {number}")
                segment = (float(second), second + 1.0)
                clips.append(Clip(recordings[recording], scene, device, location, fold, segment))
            else:
                clips.append(Clip(clip_path(root, filename, f"{path}: row {number}"), scene, device, location, fold))
    scenes = {clip.scene for clip in clips} if year.scenes is None else year.scenes
    return ClipTable(
        name=year.name,
        labels=tuple(sorted(scenes)),
        clips=tuple(clips),
        synthetic=is_synthetic(root),
        notes=tuple(_notes(year, clips, cut=cut)),
    )


def is_synthetic(root: Path) -> bool:
    """Whether the marker file dataset.json says that the audio under `root` is generated."""
    marker = root / "dataset.json"
    try:
        values = json.loads(marker.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return False
    except (OSError, ValueError) as error:
        raise InputError(f"{marker}: cannot be read as JSON ({error}); remove it or write the data set again") from None
    return isinstance(values, dict) and bool(values.get("synthetic"))


def _read_meta(meta: Path, year: TauYear) -> tuple[dict[str, tuple[str, str, str]], bool]:
    """File name -> (scene, device, location) of every row; and whether the rows are 10-second recordings."""
    scenes = None if year.scenes is None else frozenset(year.scenes)
    devices = None if year.devices is None else frozenset(year.devices)
    rows = read_rows(meta, ("filename", "scene_label", "source_label", "identifier"), delimiter="\t")
    of_recordings = rows[0][1][0].count("-") == _DASHES
    known: dict[str, tuple[str, str, str]] = {}
    for number, filename, values in _segment_rows(rows, year):
        if filename in known:
            raise InputError(f"{meta}: row {number} lists {filename} a second time; remove one of the rows")
        scene, device, location = values
        if scenes is not None and scene not in scenes:
            check_label(scene, scenes, f"{meta}: row {number}")
        if devices is not None and device not in devices:
            raise InputError(f"{meta}: row {number} has the unknown device {device!r}; {nearest(device, devices)}")
        # One string for all clips of a device, scene or place.
        known[filename] = (intern(scene), intern(device), intern(location))
    return known, of_recordings


def _segment_rows(
    rows: Iterable[tuple[int, tuple[str, ...]]], year: TauYear
) -> Iterator[tuple[int, str, tuple[str, ...]]]:
    """Yields (row number, file name, other values); a 10-second recording in a list of segments as its ten segments."""
    for number, values in rows:
        filename, rest = values[0], values[1:]
        if year.segments and filename.count("-") == _DASHES:
            stem, _, device = filename.rpartition("-")
            for second in range(SEGMENTS_PER_RECORDING):
                yield number, f"{stem}-{second}-{device}", rest
        else:
            yield number, filename, rest


def _recording_of(filename: str) -> tuple[str, int] | None:
    """The 10-second recording of a segment, and which of its seconds it is; None for any other name."""
    if filename.count("-") != _DASHES + 1:
        return None
    stem, second, device = filename.rsplit("-", 2)
    return (f"{stem}-{device}", int(second)) if second.isascii() and second.isdigit() else None


def _is_cut(root: Path, filename: str) -> bool:
    """Whether the segment's own file is absent and the recording that it is a part of is there."""
    part = _recording_of(filename)
    return part is not None and not (root / filename).exists() and (root / part[0]).exists()


def _notes(year: TauYear, clips: Iterable[Clip], *, cut: bool) -> Iterator[str]:
    if year.unchecked:
        yield year.unchecked
    if cut:
        yield "the 1-second clips are read from the 10-second recordings"
    count = Counter(clip.fold for clip in clips)
    for part, fold, official in (("training", 0, year.n_train), ("test", 1, year.n_test)):
        if official is not None and count[fold] != official:
            yield f"{count[fold]:,} {part} clips where the official set has {official:,}"


def _first(root: Path, places: tuple[str, ...]) -> Path:
    """The first place where there is a file; else the first place, for the message."""
    return next((root / place for place in places if (root / place).is_file()), root / places[0])
