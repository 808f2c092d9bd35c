"""Files that are written whole or not at all."""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tinyasc.errors import InputError


def write_atomic(path: Path, content: str | bytes) -> None:
    """Writes to a temporary name in the same folder, then renames. The folder is made when it is not there."""
    data = content.encode("utf-8") if isinstance(content, str) else content
    with naming(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            os.chmod(temporary, 0o644)
            os.replace(temporary, path)
        except BaseException:
            Path(temporary).unlink(missing_ok=True)
            raise


def write_folder_atomic(folder: Path, files: dict[str, str]) -> None:
    """Writes a folder of files under a temporary name, then renames it; into a folder that is there, file by file.

    Args:
        folder: what else it holds stays as it is.
        files: text by file name.
    """
    if folder.exists():
        for name, text in files.items():
            write_atomic(folder / name, text)
        return
    with naming(folder):
        folder.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f".{folder.name}."))
    try:
        for name, text in files.items():
            write_atomic(temporary / name, text)
        with naming(folder):
            os.chmod(temporary, 0o755)
            os.rename(temporary, folder)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """Lets every OSError inside name the file that was to be written: a full disk's names none, or a temporary one."""
    try:
        yield
    except OSError as error:
        error.filename, error.filename2 = str(path), None
        raise


def check_writable(folder: Path, option: str) -> None:
    """Makes sure that a folder can be written, or made, and leaves nothing.

    Args:
        folder: what is to be written to.
        option: of the command line, which names another one.

    Raises:
        InputError: it cannot.
    """
    there = next(place for place in (folder.absolute(), *folder.absolute().parents) if place.exists())
    try:
        # Tried, since rights alone do not tell: /proc lets root write, and has no files to make.
        tempfile.TemporaryFile(dir=there).close()
    except OSError:
        raise InputError(f"{option} {folder}: {there} is no folder that can be written to; name another") from None


class InUseError(InputError):
    """Another process holds a folder."""


@contextmanager
def locked(folder: Path, what: str = "folder") -> Iterator[None]:
    """Holds a folder that is there against a second process.

    Raises:
        InUseError: another process holds it.
    """
    with open(folder / ".lock", "w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise InUseError(f"{folder}: another process works in this {what}; wait for it or end it") from None
        yield


def remove_unfinished(folder: Path, suffix: str, *, apart: str = "") -> None:
    """Removes what `write_atomic` left under a folder where it was killed; nothing else may be writing there.

    Args:
        folder: searched with all that is in it.
        suffix: of the files' names.
        apart: a folder inside it that is left alone.
    """
    # mkstemp's names end in eight characters.
    for file in folder.rglob(f".*{suffix}.????????"):
        if file.relative_to(folder).parts[0] != apart:
            file.unlink(missing_ok=True)


def file_hash(file: Path) -> str:
    """BLAKE2b of a file, 32 hexadecimal characters."""
    return hashlib.blake2b(file.read_bytes(), digest_size=16).hexdigest()
