"""A folder per class: `root/class_name/*.wav`, or `root/class_name/group/*.wav` where recordings belong together.

There are no lists, so the folds are made here: the groups of each class are ordered by a hash of their names and dealt
out to the folds in turn; five folds, or as many as the smallest class has groups, at least three. The same files give
the same folds on every machine; new files may move others. A group is the folder below the class; a file that lies in
the class folder itself is a group of its own. Groups of one name in several classes are one place, and lie in one fold.
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Iterable, Mapping
from pathlib import Path

from tinyasc.data.lists import find_audio
from tinyasc.data.table import Clip, ClipTable
from tinyasc.errors import InputError

MAX_FOLDS, MIN_FOLDS = 5, 3  # one fold each for training, validation and test
FOLDS_NOTE = "the folds are made here, by a hash of the groups' names: they are no official ones"


def load(root: Path) -> ClipTable:
    """Reads a folder with a folder of audio files for each class.

    Raises:
        InputError: audio files beside the class folders, fewer than two classes, or a class with too few groups.
    """
    scenes: dict[Path, str] = {}
    groups: dict[Path, str] = {}
    for path in find_audio(root):
        relative = path.relative_to(root)
        if len(relative.parts) == 1:
            raise InputError(
                f"data set folders: {path} lies in no class folder; sort the files into {root}/CLASS/, or take "
                "`unlabelled` for files without classes"
            )
        scene, *middle, name = relative.parts
        scenes[path] = scene
        groups[path] = "/".join(middle) if middle else f"{scene}/{name}"
    folds = deal_folds({(scenes[path], groups[path]) for path in scenes}, where=f"data set folders: {root}")
    clips = tuple(Clip(path, scenes[path], "", groups[path], folds[groups[path]]) for path in scenes)
    labels = tuple(sorted(set(scenes.values())))
    return ClipTable(name="folders", labels=labels, clips=clips, validation_by="fold", notes=(FOLDS_NOTE,))


def deal_folds(members: Iterable[tuple[str, str]], *, where: str) -> Mapping[str, int]:
    """Deals groups out to folds, so that every class is in every fold.

    Args:
        members: (class, group) pairs.
        where: begins the message.

    Returns:
        group -> fold, from 1 up.

    Raises:
        InputError: fewer than two classes, or a class with fewer groups than training, validation and test need.
    """
    groups: dict[str, set[str]] = defaultdict(set)
    for scene, group in members:
        groups[scene].add(group)
    if len(groups) < 2:
        raise InputError(f"{where} has the class {min(groups)!r} alone; a classifier needs two or more")
    smallest = min(sorted(groups), key=lambda scene: len(groups[scene]))
    if len(groups[smallest]) < MIN_FOLDS:
        raise InputError(
            f"{where}: class {smallest!r} has {len(groups[smallest])} group(s) of recordings, too few for training, "
            f"validation and test, which need {MIN_FOLDS}; add recordings"
        )
    n_folds = min(MAX_FOLDS, len(groups[smallest]))
    folds: dict[str, int] = {}
    for _, names in sorted(groups.items()):
        used = [folds[name] for name in names if name in folds]
        for name in sorted(names - folds.keys(), key=lambda name: hashlib.blake2b(name.encode()).digest()):
            # The fold with the fewest groups of this class; on a tie the lowest.
            folds[name] = min(range(1, n_folds + 1), key=used.count)
            used.append(folds[name])
    return folds
