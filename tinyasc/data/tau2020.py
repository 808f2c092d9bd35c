"""TAU Urban Acoustic Scenes 2020 Mobile, development set (Heittola et al., DCASE 2020 Task 1A).

Layout: `audio/*.wav`, and the tab-separated lists `meta.csv`, `evaluation_setup/fold1_train.csv` and
`evaluation_setup/fold1_evaluate.csv`. Of the 23,035 clips in meta.csv the official set-up trains on 13,962
and tests on 2,968; the others are in neither.
"""

from __future__ import annotations

import json
from collections.abc import Collection
from pathlib import Path

from tinyasc.data.table import Clip, ClipTable, check_audio, check_label, clip_path, nearest, read_rows
from tinyasc.errors import InputError

SCENES = (
    "airport",
    "bus",
    "metro",
    "metro_station",
    "park",
    "public_square",
    "shopping_mall",
    "street_pedestrian",
    "street_traffic",
    "tram",
)
DEVICES = ("a", "b", "c", "s1", "s2", "s3", "s4", "s5", "s6")


def load(
    root: Path,
    *,
    name: str = "tau2020",
    scenes: Collection[str] | None = SCENES,
    devices: Collection[str] | None = DEVICES,
) -> ClipTable:
    """Reads the data set under `root`.

    Args:
        root: the folder with meta.csv.
        name: the table's name, also in messages.
        scenes: the labels that may occur; None takes those of meta.csv.
        devices: the devices that may occur; None takes those of meta.csv.

    Raises:
        InputError: no such data set there, a row that cannot be used (file and row), or missing audio files.
    """
    setup = root / "evaluation_setup"
    table = read_lists(
        root / "meta.csv",
        setup / "fold1_train.csv",
        setup / "fold1_evaluate.csv",
        root=root,
        name=name,
        scenes=scenes,
        devices=devices,
        synthetic=is_synthetic(root),
    )
    check_audio(table.clips, name, root / "audio")
    return table


def read_lists(
    meta: Path,
    train: Path,
    evaluate: Path,
    *,
    root: Path,
    name: str = "tau2020",
    scenes: Collection[str] | None = SCENES,
    devices: Collection[str] | None = DEVICES,
    synthetic: bool = False,
) -> ClipTable:
    """Reads the three lists without looking for the audio. Training clips get fold 0, test clips fold 1."""
    known: dict[str, tuple[str, str, str]] = {}
    for number, row in read_rows(meta, ("filename", "scene_label", "identifier", "source_label"), delimiter="\t"):
        where = f"{meta}: row {number}"
        if row["filename"] in known:
            raise InputError(f"{where} lists {row['filename']} a second time; remove one of the rows")
        if scenes is not None:
            check_label(row["scene_label"], scenes, where)
        if devices is not None and row["source_label"] not in devices:
            device = row["source_label"]
            raise InputError(f"{where} has the unknown device {device!r}; {nearest(device, devices)}")
        known[row["filename"]] = (row["scene_label"], row["source_label"], row["identifier"])
    clips: list[Clip] = []
    listed: set[str] = set()
    for path, fold in ((train, 0), (evaluate, 1)):
        for number, row in read_rows(path, ("filename", "scene_label"), delimiter="\t"):
            where, filename = f"{path}: row {number}", row["filename"]
            if filename in listed:
                raise InputError(f"{where} lists {filename} a second time; a clip belongs to one set only")
            if filename not in known:
                raise InputError(f"{where} lists {filename}, which {meta} does not; mend that row")
            scene, device, location = known[filename]
            if row["scene_label"] != scene:
                raise InputError(
                    f"{where} calls {filename} {row['scene_label']!r}, {meta} calls it {scene!r}; mend one"
                )
            listed.add(filename)
            clips.append(Clip(clip_path(root, filename, where), scene, device, location, fold))
    labels = tuple(sorted({clip.scene for clip in clips} if scenes is None else scenes))
    return ClipTable(name=name, labels=labels, clips=tuple(clips), validation_by="location", synthetic=synthetic)


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
