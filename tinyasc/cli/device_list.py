"""Which list of microphones a name means."""

from __future__ import annotations

from pathlib import Path

from tinyasc.training.recipe import configs_folder


def shipped_or_own(name: str) -> Path:
    """A file of that name, else the shipped list of that name ("devices/micirp")."""
    file = Path(name)
    if file.is_file():
        return file
    shipped = configs_folder() / f"{name.removeprefix('configs/').removesuffix('.yaml')}.yaml"
    return shipped if shipped.is_file() else file
