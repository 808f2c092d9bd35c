"""The clip table: which recordings a data set has, and how they fall into three disjoint sets."""

from __future__ import annotations

import dataclasses
import hashlib
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from tinyasc.data.lists import listed, missing_files
from tinyasc.errors import InputError


# Slots: the largest set has 230,350 of them.
@dataclass(frozen=True, slots=True)
class Clip:
    """One recording, or a part of one.

    Args:
        path: the audio file, absolute.
        scene: the label; "" where it is unknown.
        device: the recording device, "" where the data set names none.
        location: where it was recorded, or the longer recording that it was cut from. Clips of one location
            sound alike, so a location never lies in two sets.
        fold: the fold in which this clip is tested; 0 for a clip that is only ever trained on.
        segment: (start, end) in seconds where the clip is a part of its file; None is the whole file.
        test_only: never trained nor validated on, for devices that are kept for testing.
    """

    path: Path
    scene: str
    device: str
    location: str
    fold: int
    segment: tuple[float, float] | None = None
    test_only: bool = False


@dataclass(frozen=True)
class Split:
    """Three disjoint sets of clips."""

    train: tuple[Clip, ...]
    validation: tuple[Clip, ...]
    test: tuple[Clip, ...]

    def __iter__(self) -> Iterator[tuple[str, tuple[Clip, ...]]]:
        """Yields ("train", clips), ("validation", clips), ("test", clips)."""
        return iter((field.name, getattr(self, field.name)) for field in dataclasses.fields(self))

    def trained_on(self, final: bool) -> tuple[Clip, ...]:
        """The training clips, or with `final` the training and then the validation clips."""
        return (*self.train, *self.validation) if final else self.train

    @property
    def unseen_devices(self) -> tuple[str, ...]:
        """Devices that only the test clips have, sorted: what a model has to generalise to."""
        known = {clip.device for clip in (*self.train, *self.validation)}
        return tuple(sorted({clip.device for clip in self.test} - known))


@dataclass(frozen=True)
class ClipTable:
    """The clips of a data set.

    Args:
        name: as given to `load_table`.
        labels: all scenes, sorted: class index i is labels[i]; empty for clips without labels.
        clips: in the order of the data set's own list.
        validation_by: how validation is cut from the training part: whole locations, or one whole fold.
        synthetic: the audio is generated, so accuracies on it say nothing about real rooms.
        notes: what a user should know of this set, a sentence each.
    """

    name: str
    labels: tuple[str, ...]
    clips: tuple[Clip, ...]
    validation_by: Literal["location", "fold"] = "location"
    synthetic: bool = False
    notes: tuple[str, ...] = ()

    @property
    def folds(self) -> tuple[int, ...]:
        """The folds that can be tested on, sorted."""
        return tuple(sorted({clip.fold for clip in self.clips} - {0}))

    def split(self, *, test_fold: int | None = 1, validation_fold: int | None = None) -> Split:
        """Cuts the table into training, validation and test clips.

        Args:
            test_fold: the fold to test on; None leaves the test set empty.
            validation_fold: the fold to validate on; None is the one after the test fold, cyclic; the first
                one where nothing is tested. Only for tables whose validation is a fold.

        Raises:
            InputError: clips without labels, an unknown fold, a location that would lie in two sets, or a class of the
                test set that no training clip has.
        """
        if not self.labels:
            raise InputError(
                f"data set {self.name}: its clips have no labels, so nothing can be trained or measured on them; "
                "name their scenes with tinyasc infer"
            )
        if test_fold is not None and test_fold not in self.folds:
            raise InputError(f"data set {self.name}: no test fold {test_fold}; its folds are {listed(self.folds)}")
        test = tuple(clip for clip in self.clips if clip.fold == test_fold)
        rest = tuple(clip for clip in self.clips if clip.fold != test_fold and not clip.test_only)
        if self.validation_by == "fold":
            train, validation = self._cut_fold(rest, test_fold=test_fold, validation_fold=validation_fold)
        elif validation_fold is not None:
            raise InputError(
                f"data set {self.name}: validation is cut by location, not by fold; leave the validation fold out"
            )
        else:
            train, validation = cut_by_location(rest)
        split = Split(train=train, validation=validation, test=test)
        check_disjoint(split, self.name, tested=test_fold is not None)
        if strange := sorted({clip.scene for clip in test} - {clip.scene for clip in train}):
            raise InputError(
                f"data set {self.name}: test fold {test_fold} has the class {strange[0]!r} and the training set has "
                "not, so no model can learn it; add training clips of it, or take its clips off the list"
            )
        return split

    def _cut_fold(
        self, clips: Sequence[Clip], *, test_fold: int | None, validation_fold: int | None
    ) -> tuple[tuple[Clip, ...], tuple[Clip, ...]]:
        if validation_fold is None:
            following = 0 if test_fold is None else self.folds.index(test_fold) + 1
            validation_fold = self.folds[following % len(self.folds)]
        if validation_fold not in self.folds or validation_fold == test_fold:
            others = [fold for fold in self.folds if fold != test_fold]
            raise InputError(
                f"data set {self.name}: cannot validate on fold {validation_fold} "
                f"while testing on {'none' if test_fold is None else f'fold {test_fold}'}; "
                f"choose one of {listed(others)}"
            )
        return cut_by_fold(clips, validation_fold=validation_fold)


def cut_by_fold(clips: Sequence[Clip], *, validation_fold: int) -> tuple[tuple[Clip, ...], tuple[Clip, ...]]:
    """Gives (training, validation), where validation is one whole fold."""
    train = tuple(clip for clip in clips if clip.fold != validation_fold)
    return train, tuple(clip for clip in clips if clip.fold == validation_fold)


def cut_by_location(clips: Sequence[Clip], *, share: float = 0.175) -> tuple[tuple[Clip, ...], tuple[Clip, ...]]:
    """Gives (training, validation), where validation is `share` of every scene's locations, at least one.

    Locations are ranked by a hash of "0", scene and name: the cut depends on no order of rows and no random
    generator, and another location in the data set moves few of the others.

    Raises:
        InputError: a scene with a single location, which cannot be in both sets.
    """
    by_scene: dict[str, set[str]] = defaultdict(set)
    for clip in clips:
        by_scene[clip.scene].add(clip.location)
    chosen: set[str] = set()
    for scene, locations in sorted(by_scene.items()):
        wanted = max(1, round(share * len(locations))) - len(locations & chosen)
        ranked = sorted(locations - chosen, key=lambda name: _rank(f"0\n{scene}\n{name}"))
        chosen.update(ranked[: max(0, wanted)])
    for scene, locations in sorted(by_scene.items()):
        if locations <= chosen:
            raise InputError(
                f"scene {scene!r}: {len(locations)} training location(s) are too few to set one aside for "
                "validation; add recordings from another place"
            )
    train = tuple(clip for clip in clips if clip.location not in chosen)
    return train, tuple(clip for clip in clips if clip.location in chosen)


def check_disjoint(split: Split, name: str = "split", *, tested: bool = True) -> None:
    """Makes sure that the three sets are non-empty and that no location or file is in two of them.

    Args:
        split: the three sets.
        name: of the data set, for error lines.
        tested: the test set must not be empty either.

    Raises:
        InputError: an empty set, or the first location or file in two sets.
    """
    for attribute in ("location", "path"):
        home: dict[str, str] = {}
        for part, clips in split:
            if not clips and (tested or part != "test"):
                raise InputError(f"data set {name}: the {part} set is empty; check the folds in its lists")
            for value in {str(getattr(clip, attribute)) for clip in clips}:
                if home.setdefault(value, part) != part:
                    raise InputError(
                        f"data set {name}: {attribute} {value!r} is in the {home[value]} and the {part} set, "
                        "which makes scores too good; give its clips one fold"
                    )


def without(table: ClipTable, names: Sequence[str]) -> ClipTable:
    """The table without the clips of some audio files.

    Args:
        table: of a data set.
        names: of files, without folder and suffix.

    Raises:
        InputError: a name that no file has, or that files in several folders have.
    """
    for name in names:
        found = sorted({str(clip.path) for clip in table.clips if clip.path.stem == name})
        if len(found) != 1:
            which = "no audio file is called so" if not found else f"{found[0]} and {found[1]} are called so"
            raise InputError(f"data.leave_out: {name!r}: {which}; name files of {table.name} without folder and suffix")
    return dataclasses.replace(table, clips=tuple(clip for clip in table.clips if clip.path.stem not in names))


def check_audio(clips: Sequence[Clip], name: str) -> None:
    """Makes sure that every clip's file is there.

    Raises:
        InputError: the audio folder is missing, or some files are: their count and the first three.
    """
    paths = list({str(clip.path): clip.path for clip in clips}.values())
    if not (missing := missing_files(paths)):
        return
    if len(missing) == len(paths) and not (folder := missing[0].parent).is_dir():
        raise InputError(f"data set {name}: no folder {folder}; download the audio and unpack it there")
    more = ", ..." if len(missing) > 3 else ""
    raise InputError(
        f"data set {name}: {len(missing)} of {len(paths)} audio files are missing: "
        f"{', '.join(map(str, missing[:3]))}{more}; unpack every part of the audio, or download the rest"
    )


def _rank(text: str) -> bytes:
    return hashlib.blake2b(text.encode(), digest_size=8).digest()
