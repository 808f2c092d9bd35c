"""Boards that a student may have to fit: flash and RAM, as data in configs/boards/*.yaml."""

from __future__ import annotations

import difflib
from pathlib import Path

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from tinyasc.errors import InputError
from tinyasc.training.recipe import configs_folder


class Board(BaseModel):
    """One board.

    Args:
        key: its file's name, as `--board` takes it.
        name: as its maker writes it.
        core: of the processor.
        flash_bytes: for code and constants.
        ram_bytes: for data, all pieces together.
        largest_block_bytes: the largest piece of RAM with addresses in a row, which an arena needs; by default all.
        source: of the figures.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    key: str
    name: str
    core: str
    flash_bytes: int = Field(gt=0)
    ram_bytes: int = Field(gt=0)
    largest_block_bytes: int | None = Field(None, gt=0)
    source: str = Field(min_length=1)

    @property
    def block_bytes(self) -> int:
        """Bytes of the largest piece of RAM."""
        return self.largest_block_bytes or self.ram_bytes

    @model_validator(mode="after")
    def _block_fits(self) -> Board:
        if self.block_bytes > self.ram_bytes:
            raise ValueError("largest_block_bytes is more than ram_bytes")
        return self


def shipped_boards() -> list[Board]:
    """Every board, the one with the least RAM first."""
    boards = [load_board(file.stem) for file in (configs_folder() / "boards").glob("*.yaml")]
    return sorted(boards, key=lambda board: (board.ram_bytes, board.key))


def load_board(name: str) -> Board:
    """A board by its name.

    Raises:
        InputError: there is none of that name, or its file is damaged.
    """
    folder = configs_folder() / "boards"
    file: Path = folder / f"{name}.yaml"
    known = sorted(f.stem for f in folder.glob("*.yaml"))
    if name not in known:
        near = difflib.get_close_matches(name, known, n=1)
        hint = f"did you mean {near[0]!r}?" if near else f"choose one of: {', '.join(known)}"
        raise InputError(f"board {name!r} is unknown; {hint}")
    try:
        return Board.model_validate({"key": name} | yaml.safe_load(file.read_text(encoding="utf-8")))
    except (OSError, TypeError, ValueError, yaml.YAMLError, ValidationError) as error:
        raise InputError(f"{file}: no valid board ({str(error).splitlines()[0]})") from None
