"""A folder that `tinyasc export --to c` wrote, as a model: what it says of itself, and its code."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

from tinyasc.infer.backends.base import read_model, unreadable
from tinyasc_export.bundle import Bundle
from tinyasc_export.c99.folder import BUNDLE, Called, read_bundle_json
from tinyasc_export.errors import ModelFileError


@dataclass(frozen=True)
class CFolder:
    """A folder of C, read as a whole.

    Args:
        path: the folder.
        bundle: labels, front end and card.
        called: how its net is called.
        files: bundle.json, the C files that it lists and all headers: content by name.
    """

    path: Path
    bundle: Bundle
    called: Called
    files: dict[str, bytes]

    @property
    def size(self) -> int:
        """Bytes of all files."""
        return sum(map(len, self.files.values()))

    @property
    def blake2b(self) -> str:
        """Hash of all names and contents, 32 hexadecimal characters."""
        return _hash(self.files)

    @property
    def code_blake2b(self) -> str:
        """The same of what a compiler sees."""
        return _hash({name: content for name, content in self.files.items() if name != BUNDLE})


def _hash(files: dict[str, bytes]) -> str:
    state = hashlib.blake2b(digest_size=16)
    for name, content in sorted(files.items()):
        state.update(f"{name}\0{len(content)}\0".encode() + content)
    return state.hexdigest()


def read_c_folder(path: Path) -> CFolder:
    """Reads a folder of C; nothing of it is compiled or run.

    Raises:
        ModelFileError: another folder, or one that is damaged or lacks a file.
    """
    where = path / BUNDLE
    if not where.exists():
        raise ModelFileError(
            f"{path}: cannot read this model file: it is a folder, and has no {BUNDLE}; name a .tflite or .onnx file, "
            "or a folder that `tinyasc export --to c` wrote"
        )
    content, _ = read_model(where)
    bundle, called = read_bundle_json(content, str(where))
    try:
        headers = sorted(file.name for file in path.glob("*.h"))
    except OSError as error:
        raise unreadable(path, error) from None
    files = {name: read_model(path / name)[0] for name in (*called.sources, *headers)}
    return CFolder(path, bundle, called, files | {BUNDLE: content})
