"""Which clips a model was trained and chosen on: kept with the run, so that none of them is ever its test."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tinyasc.data import Clip, ClipTable, Split
from tinyasc.errors import InputError
from tinyasc.evaluate.clips import clip_names
from tinyasc.files import write_atomic

FILE = "heard.json"


@dataclass(frozen=True)
class Heard:
    """The names (see `clip_names`) and the recording places of a run's clips, sorted."""

    train: tuple[str, ...] = ()
    validation: tuple[str, ...] = ()
    train_locations: tuple[str, ...] = ()
    validation_locations: tuple[str, ...] = ()

    @classmethod
    def of(cls, table: ClipTable, split: Split) -> Heard:
        """What a model is trained and validated on by a split of a table."""
        parts = (split.train, split.validation)
        names = (tuple(sorted(clip_names(table, part))) for part in parts)
        places = (tuple(sorted({clip.location for clip in part} - {""})) for part in parts)
        return cls(*names, *places)

    @property
    def digest(self) -> str:
        """A hash of the cut: equal wherever the data set lies, another one when any clip moves to another set."""
        return hashlib.blake2b(json.dumps([self.train, self.validation]).encode(), digest_size=16).hexdigest()

    def known(self, table: ClipTable, clips: Sequence[Clip], *, validation: bool) -> list[str]:
        """The names of those clips that training heard, or heard the place of; with `validation` validation too."""
        names = {*self.train, *(self.validation if validation else ())}
        places = {*self.train_locations, *(self.validation_locations if validation else ())}
        found = zip(clip_names(table, clips), clips, strict=True)
        return [name for name, clip in found if name in names or clip.location in places]

    def save(self, folder: Path) -> None:
        """Writes heard.json."""
        write_atomic(folder / FILE, json.dumps(dataclasses.asdict(self), indent=0))

    @classmethod
    def load(cls, folder: Path) -> Heard | None:
        """What `save` wrote; None where a run has none.

        Raises:
            InputError: damaged.
        """
        try:
            values = json.loads((folder / FILE).read_text(encoding="utf-8"))
            return cls(**{key: tuple(map(str, value)) for key, value in values.items()})
        except FileNotFoundError:
            return None
        except (OSError, ValueError, TypeError, AttributeError):
            raise InputError(f"{folder / FILE}: damaged, so it is not known what was trained on; train again") from None
