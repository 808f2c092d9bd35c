"""Boards that a student may have to fit: flash, RAM and processor, as data in configs/boards/*.yaml."""

from __future__ import annotations

import difflib
from importlib import resources
from pathlib import Path
from typing import Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from tinyasc_export.errors import InputError


class Processor(BaseModel):
    """What it takes to link, run and time an image for a board's processor.

    Args:
        chip: the part's name, which `--board` takes too.
        clock_hz: the highest frequency of the core.
        fpu: floating-point unit, as compilers name it; "none" where there is none.
        dsp: whether it has the DSP instructions (SMLAD and the like).
        flash_origin: address of the first byte of flash that a program may use.
        ram_origin: address of the largest piece of RAM.
        wait_state_factor: cycles of the board for one cycle of the core's model, which knows no wait states.
        factor_source: of that factor.
        source: of the rest.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    chip: str = Field(min_length=1)
    clock_hz: int = Field(gt=0)
    fpu: Literal["none", "fpv4-sp-d16", "fpv5-sp-d16", "fpv5-d16"] = "none"
    dsp: bool = False
    flash_origin: int = Field(ge=0, lt=2**32)
    ram_origin: int = Field(ge=0, lt=2**32)
    wait_state_factor: float = Field(gt=0)
    factor_source: str = Field(min_length=1)
    source: str = Field(min_length=1)


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
        processor: None where no compiler and emulator for it come along.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    key: str
    name: str
    core: str
    flash_bytes: int = Field(gt=0)
    ram_bytes: int = Field(gt=0)
    largest_block_bytes: int | None = Field(None, gt=0)
    source: str = Field(min_length=1)
    processor: Processor | None = None

    @property
    def block_bytes(self) -> int:
        """Bytes of the largest piece of RAM."""
        return self.largest_block_bytes or self.ram_bytes

    @model_validator(mode="after")
    def _block_fits(self) -> Board:
        if self.block_bytes > self.ram_bytes:
            raise ValueError("largest_block_bytes is more than ram_bytes")
        return self


def boards_folder() -> Path:
    """Where the shipped boards lie."""
    # An installed wheel holds the recipes inside the package tinyasc, a checkout beside it.
    inside = Path(str(resources.files("tinyasc"))) / "configs"
    return (inside if inside.is_dir() else inside.parent.parent / "configs") / "boards"


def shipped_boards() -> list[Board]:
    """Every board, the one with the least RAM first."""
    boards = [_read(file) for file in boards_folder().glob("*.yaml")]
    return sorted(boards, key=lambda board: (board.ram_bytes, board.key))


def load_board(name: str) -> Board:
    """A board by its name, or by its chip's ("stm32l4r5" finds the board with an STM32L4R5ZI).

    Raises:
        InputError: there is none of that name, several bear that chip, or its file is damaged.
    """
    files = {file.stem: file for file in boards_folder().glob("*.yaml")}
    if name in files:
        return _read(files[name])
    boards = [_read(file) for _, file in sorted(files.items())]
    chips = [b for b in boards if b.processor and name and b.processor.chip.lower().startswith(name.lower())]
    if len(chips) == 1:
        return chips[0]
    if chips:
        raise InputError(f"board {name!r}: several bear such a chip: {', '.join(b.key for b in chips)}; name one")
    near = difflib.get_close_matches(name, files, n=1)
    hint = f"did you mean {near[0]!r}?" if near else f"choose one of: {', '.join(sorted(files))}"
    raise InputError(f"board {name!r} is unknown; {hint}")


def _read(file: Path) -> Board:
    try:
        return Board.model_validate({"key": file.stem} | yaml.safe_load(file.read_text(encoding="utf-8")))
    except (OSError, TypeError, ValueError, yaml.YAMLError, ValidationError) as error:
        raise InputError(f"{file}: no valid board ({str(error).splitlines()[0]})") from None
