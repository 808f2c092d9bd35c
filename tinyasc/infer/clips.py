"""Which files a command is to answer: clips, folders that are searched, lists of either."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterable
from pathlib import Path

from tinyasc.errors import InputError

SUFFIXES = (".wav", ".flac", ".ogg", ".mp3")
STANDARD_INPUT = "-"


def find_clips(named: Iterable[Path], complain: Callable[[str], None]) -> list[Path]:
    """The clips among the paths named, in their order, folders searched; each once, where it is named first.

    Args:
        named: audio files, which may be missing, and folders.
        complain: is told, in one line, of every folder that holds no clip or cannot be read.
    """
    found: dict[Path, None] = {}
    for path in named:
        try:
            found.update(dict.fromkeys(audio_files(path, complain)))
        except InputError as error:
            complain(str(error))
    return list(found)


def audio_files(clip: Path, complain: Callable[[str], None] | None = None) -> list[Path]:
    """The clip itself, or the audio files below a folder in the order of their names, hidden ones left out.

    Args:
        clip: a file, there or not, or a folder.
        complain: is told of folders inside that cannot be read; without it they are refused.

    Raises:
        InputError: a folder without any, or one that cannot be read.
    """
    if not os.path.isdir(clip):  # unlike `Path.is_dir`, False for what the system will not look at; reading says why
        return [clip]
    unread: list[str] = []
    found = [
        Path(folder, name)
        for folder, _, names in os.walk(clip, onerror=lambda error: unread.append(_unread(error)))
        for name in names
        if name.lower().endswith(SUFFIXES) and not name.startswith(".")
    ]
    if unread and (complain is None or not found):
        raise InputError(unread[0])
    for line in unread:
        assert complain is not None
        complain(line)
    if not found:
        raise InputError(f"{clip}: this folder holds no wav, flac, ogg or mp3 file")
    return sorted(found)


def read_list(path: Path) -> list[Path]:
    """The paths in a list, one a line, or divided by NUL as `find -print0` writes them; empty lines are left out.

    Args:
        path: the list, in UTF-8; "-" is standard input. The paths in it are relative to the current folder, as those
            on the command line are.

    Raises:
        InputError: it cannot be read, is an audio file, or names nothing.
    """
    if path.name.lower().endswith(SUFFIXES):
        raise InputError(f"--list {path}: is an audio file; give it without --list")
    try:
        if str(path) != STANDARD_INPUT:
            content = path.read_bytes()
        elif sys.stdin is None:  # its descriptor was closed when Python began
            raise InputError("--list -: standard input is closed; pipe paths into it")
        else:
            content = sys.stdin.buffer.read()
    except (OSError, ValueError) as error:  # ValueError: a NUL in the name
        reason = getattr(error, "strerror", None) or str(error)
        raise InputError(f"--list {path}: cannot read this list: {reason}") from None
    if content.startswith((b"\xff\xfe", b"\xfe\xff")):  # its bytes of zero would cut it into names of one letter
        raise InputError(f"--list {path}: is UTF-16, as Windows writes it; save it as UTF-8")
    # Names of files are bytes; those that are no UTF-8 are kept as they are.
    content = content.removeprefix(b"\xef\xbb\xbf")
    lines = content.split(b"\0") if b"\0" in content else [line.removesuffix(b"\r") for line in content.split(b"\n")]
    names = [os.fsdecode(line) for line in lines if line.strip()]
    if not names:
        raise InputError(f"--list {path}: names no clip; write one path a line")
    return [Path(name) for name in names]


def _unread(error: OSError) -> str:
    return f"{error.filename}: cannot search this folder: {error.strerror}; give the right to read it"
