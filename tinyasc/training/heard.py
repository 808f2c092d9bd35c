"""Which clips a model was trained and chosen on: kept with the run, so that none of them is ever its test."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tinyasc.data import Clip, ClipTable, Split
from tinyasc.errors import InputError
from tinyasc.evaluate.clips import clip_names
from tinyasc.files import write_atomic

FILE = "heard.json"


@dataclass(frozen=True)
class Heard:
    """What a model was trained and validated on, and the models that it started from or learnt from.

    Clips by name (see `clip_names`), their recording places, and their devices, among them "" where some are not known.
    Impulse responses that augmented training are devices of it. All sorted. `cut` keeps the digest of what was joined.
    """

    train: tuple[str, ...] = ()
    validation: tuple[str, ...] = ()
    train_locations: tuple[str, ...] = ()
    validation_locations: tuple[str, ...] = ()
    train_devices: tuple[str, ...] = ("",)
    validation_devices: tuple[str, ...] = ("",)
    cut: str = field(default="", kw_only=True)

    @classmethod
    def of(cls, table: ClipTable, split: Split) -> Heard:
        """What a model is trained and validated on by a split of a table."""
        parts = (split.train, split.validation)
        names = (tuple(sorted(clip_names(table, part))) for part in parts)
        places = (tuple(sorted({clip.location for clip in part} - {""})) for part in parts)
        devices = (tuple(sorted({clip.device for clip in part})) for part in parts)
        return cls(*names, *places, *devices)

    @property
    def digest(self) -> str:
        """A hash of the own cut: equal wherever the data set lies, another one when any clip moves to another set."""
        text = json.dumps([self.train, self.validation])
        return self.cut or hashlib.blake2b(text.encode(), digest_size=16).hexdigest()

    def trained_on(self, final: bool) -> Heard:
        """The same, or with `final` the validation clips as training clips too."""
        if not final:
            return self
        return self.joined(
            Heard(self.validation, (), self.validation_locations, (), self.validation_devices, self.validation_devices)
        )

    def joined(self, other: Heard) -> Heard:
        """What one of two heard, with this one's cut."""
        own, more = dataclasses.asdict(self), dataclasses.asdict(other)
        both = {key: tuple(sorted({*own[key], *more[key]})) for key in own if key != "cut"}
        return Heard(**both, cut=self.digest)

    def about(self, final: bool) -> dict[str, Any]:
        """What a model file says of it."""
        return {"split_blake2b": self.digest, "devices_heard": list(self.trained_on(final).train_devices)}

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
            cut = str(values.pop("cut", ""))
            return cls(**{key: tuple(map(str, value)) for key, value in values.items()}, cut=cut)
        except FileNotFoundError:
            return None
        except (OSError, ValueError, TypeError, AttributeError):
            raise InputError(f"{folder / FILE}: damaged, so it is not known what was trained on; train again") from None
