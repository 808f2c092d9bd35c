"""Clips without labels, to predict: a challenge's evaluation set, or any folder of audio files.

An evaluation set in TAU's layout lists its file names in `evaluation_setup/fold1_test.csv` (2018: `test.txt`, without
a header); these lists name no scene, no place, and from 2020 no device.
"""

from __future__ import annotations

from pathlib import Path

from tinyasc.data.lists import clip_path, find_audio, read_rows
from tinyasc.data.table import Clip, ClipTable
from tinyasc.errors import InputError

LISTS = (
    "evaluation_setup/fold1_test.csv",
    "evaluation_setup/fold1_evaluation.csv",
    "evaluation_setup/test.csv",
    "evaluation_setup/test.txt",
)


def load(root: Path) -> ClipTable:
    """Reads an evaluation set's list, in its order; without one every audio file under `root`, sorted.

    Raises:
        InputError: a row that cannot be used (file and row), or a folder without audio.
    """
    source = next((root / name for name in LISTS if (root / name).is_file()), None)
    paths: dict[Path, None] = {}
    if source is None:
        paths = dict.fromkeys(find_audio(root))
    else:
        rows = read_rows(source, ("filename",), delimiter="\t", header=source.suffix == ".csv")
        for number, (filename,) in rows:
            path = clip_path(root, filename, f"{source}: row {number}")
            if path in paths:
                raise InputError(f"{source}: row {number} lists {filename} a second time; remove one of the rows")
            paths[path] = None
    note = f"names from {source}" if source else "every audio file in the folder"
    clips = tuple(Clip(path, "", "", "", 1) for path in paths)
    return ClipTable(name="unlabelled", labels=(), clips=clips, notes=(note,))
