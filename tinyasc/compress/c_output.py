"""Writes a folder of C over an earlier one: what the earlier writing left and the new net does not use is removed."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from tinyasc.files import file_hash, write_folder_atomic
from tinyasc_export.c99 import CSource
from tinyasc_export.c99.folder import BUNDLE, written_files


@dataclass(frozen=True)
class WrittenC:
    """What writing a folder of C did beside the files that it wrote, by name.

    Args:
        removed: files of an earlier export that the net does not have.
        left: C files and headers that are somebody else's, or an earlier export's that was changed since.
    """

    removed: tuple[str, ...]
    left: tuple[str, ...]


def write_c(folder: Path, source: CSource) -> WrittenC:
    """Writes a folder of C, whole, or file by file into one that is there.

    A file is removed only where the bundle.json that lies there says that an export wrote it, and it still has that
    content. The new bundle.json comes last: after a kill the next call knows what is to be removed.

    Raises:
        OSError: it cannot be written.
    """
    if not folder.exists():
        write_folder_atomic(folder, source.files)
        return WrittenC((), ())
    try:
        before = written_files((folder / BUNDLE).read_bytes())
    except OSError:
        before = {}
    write_folder_atomic(folder, {name: text for name, text in source.files.items() if name != BUNDLE})
    removed = []
    for name, content in sorted(before.items()):
        file = folder / name
        if name not in source.files and file.is_file() and not file.is_symlink() and file_hash(file) == content:
            file.unlink()
            removed.append(name)
    write_folder_atomic(folder, {BUNDLE: source.files[BUNDLE]})
    code = {file.name for end in "ch" for file in folder.glob(f"*.{end}")}
    return WrittenC(tuple(removed), tuple(sorted(code - set(source.files))))
