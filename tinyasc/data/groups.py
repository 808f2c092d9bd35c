"""Coarse classes of scenes (indoor, outdoor, transport), to train on in their place or beside them."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

from tinyasc.data.lists import nearest
from tinyasc.data.table import ClipTable
from tinyasc.errors import InputError

Groups = Mapping[str, Sequence[str]]


def parents(labels: Sequence[str], groups: Groups) -> tuple[int, ...]:
    """The index of every label's group among the sorted groups; () without groups.

    Raises:
        InputError: a scene in no group or in two, a group without scenes, or a group's scene that the data does not
            have.
    """
    if not groups:
        return ()
    names = sorted(groups)
    found: dict[str, int] = {}
    for i, name in enumerate(names):
        if not groups[name]:
            raise InputError(f"data.groups: {name} has no scenes; name some, or take it out")
        for scene in groups[name]:
            if scene not in labels:
                raise InputError(f"data.groups: {name}: the data has no scene {scene!r}; {nearest(scene, labels)}")
            if scene in found:
                raise InputError(f"data.groups: {scene!r} stands in {names[found[scene]]} and {name}; take one out")
            found[scene] = i
    if missing := [label for label in labels if label not in found]:
        raise InputError(f"data.groups: no group has the scene {missing[0]!r}; add it to one")
    return tuple(found[label] for label in labels)


def by_group(table: ClipTable, groups: Groups) -> ClipTable:
    """The table with every clip labelled by its group.

    Raises:
        InputError: as `parents`.
    """
    names = tuple(sorted(groups))
    group_of = {label: names[i] for label, i in zip(table.labels, parents(table.labels, groups), strict=True)}
    clips = tuple(dataclasses.replace(clip, scene=group_of[clip.scene]) for clip in table.clips)
    return dataclasses.replace(table, labels=names, clips=clips)
