"""ESC-50 and its subset ESC-10 (Piczak, "ESC: Dataset for Environmental Sound Classification", ACM MM 2015).

Two layouts, told apart by looking: the official download (`audio/`, `meta/esc50.csv`), and a folder whose
`meta.csv` has a column `fs_group` (ESC-10 alone, with a path in every row).
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path

from tinyasc.data.lists import check_label, clip_path, parse_fold, read_rows
from tinyasc.data.table import Clip, ClipTable
from tinyasc.errors import InputError

# Position is the official target number.
CATEGORIES = (
    *("dog", "rooster", "pig", "cow", "frog", "cat", "hen", "insects", "sheep", "crow"),
    *("rain", "sea_waves", "crackling_fire", "crickets", "chirping_birds"),
    *("water_drops", "wind", "pouring_water", "toilet_flush", "thunderstorm"),
    *("crying_baby", "sneezing", "clapping", "breathing", "coughing"),
    *("footsteps", "laughing", "brushing_teeth", "snoring", "drinking_sipping"),
    *("door_wood_knock", "mouse_click", "keyboard_typing", "door_wood_creaks", "can_opening"),
    *("washing_machine", "vacuum_cleaner", "clock_alarm", "clock_tick", "glass_breaking"),
    *("helicopter", "chainsaw", "siren", "car_horn", "engine"),
    *("train", "church_bells", "airplane", "fireworks", "hand_saw"),
)
ESC10 = (
    *("chainsaw", "clock_tick", "crackling_fire", "crying_baby", "dog"),
    *("helicopter", "rain", "rooster", "sea_waves", "sneezing"),
)


def load(root: Path, *, esc10: bool = False) -> ClipTable:
    """Reads ESC-50, or its ten-class subset, under `root` in either layout.

    Args:
        root: the folder with meta/esc50.csv, or with meta.csv.
        esc10: take the rows of the subset alone.

    Raises:
        InputError: no such data set there, or a row that cannot be used (file and row).
    """
    name = "esc10" if esc10 else "esc50"
    labels = tuple(sorted(ESC10 if esc10 else CATEGORIES))
    if (official := root / "meta" / "esc50.csv").is_file():
        clips = _read_official(official, root / "audio", esc10=esc10)
    elif (flat := root / "meta.csv").is_file():
        if not esc10:
            raise InputError(f"data set {name}: {flat} lists ESC-10 alone; ask for esc10, or download ESC-50")
        clips = _read_flat(flat, root)
    else:
        raise InputError(
            f"data set {name}: neither {official} nor {flat} is there; "
            "give the folder that was unpacked from github.com/karolpiczak/ESC-50"
        )
    count = Counter(clip.scene for clip in clips)
    if empty := [label for label in labels if not count[label]]:
        raise InputError(f"data set {name}: no clips of {empty[0]!r} under {root}; download the data set again")
    return ClipTable(name=name, labels=labels, clips=clips, validation_by="fold")


def _read_official(meta: Path, audio: Path, *, esc10: bool) -> tuple[Clip, ...]:
    """Rows of meta/esc50.csv: filename, fold, target, category, esc10, src_file, take."""
    clips: dict[Path, Clip] = {}
    columns = ("filename", "fold", "target", "category", "esc10", "src_file")
    for number, (filename, fold, target, category, subset, source) in read_rows(meta, columns, delimiter=","):
        where = f"{meta}: row {number}"
        scene = check_label(category, CATEGORIES, where)
        if target != (right := str(CATEGORIES.index(scene))):
            raise InputError(f"{where} gives {scene!r} the target {target!r}, not {right}; mend that row")
        if subset not in ("True", "False") or (subset == "True") != (scene in ESC10):
            raise InputError(f"{where} says esc10={subset!r} of {scene!r}; mend that row")
        _add(clips, Clip(clip_path(audio, filename, where), scene, "", source, parse_fold(fold, where)), where)
    return tuple(clip for clip in clips.values() if not esc10 or clip.scene in ESC10)


def _read_flat(meta: Path, root: Path) -> tuple[Clip, ...]:
    """Rows of a meta.csv with filename (relative to root), fold, label, fs_group."""
    clips: dict[Path, Clip] = {}
    rows = read_rows(meta, ("filename", "fold", "label", "fs_group"), delimiter=",")
    for number, (filename, fold, label, group) in rows:
        where = f"{meta}: row {number}"
        scene = check_label(label, ESC10, where)
        _add(clips, Clip(clip_path(root, filename, where), scene, "", group, parse_fold(fold, where)), where)
    return tuple(clips.values())


def _add(clips: dict[Path, Clip], clip: Clip, where: str) -> None:
    if clip.path in clips:
        raise InputError(f"{where} lists {clip.path.name} a second time; remove one of the rows")
    clips[clip.path] = clip
