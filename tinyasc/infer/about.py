"""What a model file says of itself, read without a runtime."""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tinyasc.frontend import FrontEnd
from tinyasc.infer.backends.base import file_kind, read_model
from tinyasc_export.bundle import Bundle
from tinyasc_export.onnx_metadata import read_onnx_bundle
from tinyasc_export.seal import check_seal
from tinyasc_export.tflite_metadata import read_tflite_bundle

# How `tinyasc show` calls them.
KINDS = {".tflite": "TFLite", ".onnx": "ONNX", ".npz": "graph"}


@dataclass(frozen=True)
class About:
    """A model file from outside, and what travels in it.

    Args:
        path: the file.
        kind: "TFLite", "ONNX" or "graph" (the .npz of a compression) or "C" (a folder).
        size: bytes; of a folder, of all its files.
        blake2b: of its bytes, 32 hexadecimal characters, as report.json has it; of a folder, of its files.
        bundle: labels, front end and card; None for a file without a card.
    """

    path: Path
    kind: str
    size: int
    blake2b: str
    bundle: Bundle | None

    @property
    def front_end(self) -> FrontEnd | None:
        """The front end as a record; None for a file without a card.

        Raises:
            ModelFileError: it cannot be used.
        """
        return None if self.bundle is None else FrontEnd.from_dict(self.bundle.front_end, str(self.path))

    def to_dict(self) -> dict[str, Any]:
        """All of it as plain JSON values; of a file without a card the last three are None."""
        bundle = self.bundle
        return {
            "path": str(self.path),
            "kind": self.kind,
            "bytes": self.size,
            "blake2b": self.blake2b,
            "labels": None if bundle is None else list(bundle.labels),
            "front_end": None if bundle is None else bundle.front_end,
            "card": None if bundle is None else bundle.card,
        }


def read_about(path: Path) -> About:
    """Reads a .tflite or .onnx file, the graph-*.npz of a compression, or a folder of C; nothing in it is run.

    Raises:
        ModelFileError: missing, damaged or of another kind.
    """
    if os.path.isdir(path):  # unlike `Path.is_dir`, False for what the system will not look at
        from tinyasc.infer.c_folder import read_c_folder

        folder = read_c_folder(path)
        return About(path, "C", folder.size, folder.blake2b, folder.bundle)
    data, where = read_model(path)
    check_seal(data, where)
    suffix = file_kind(path, data)
    if suffix == ".tflite":
        bundle = read_tflite_bundle(data, where)
    elif suffix == ".onnx":
        bundle = read_onnx_bundle(data, where)
    else:
        from tinyasc_export.graphfile import load_graph  # the one that needs the whole graph

        bundle = load_graph(data, where)[1]
    return About(path, KINDS[suffix], len(data), hashlib.blake2b(data, digest_size=16).hexdigest(), bundle)
