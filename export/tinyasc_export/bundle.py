"""What travels inside a model file beside its graph: the front-end record, the labels and the card.

A bundle is JSON under the key `tinyasc` in the metadata of a .tflite or .onnx file. It is data, read and checked, never
executed.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any

from tinyasc_export.errors import ModelFileError

METADATA_KEY = "tinyasc"
FORMAT_VERSION = 1


@dataclass(frozen=True)
class Bundle:
    """Labels, front end and card of one model file.

    Args:
        labels: class names in the order of the logits.
        front_end: the front-end record as plain values (`tinyasc.frontend.FrontEnd.to_dict`).
        card: how the model was made and what was measured of it, as plain JSON values.
    """

    labels: tuple[str, ...]
    front_end: dict[str, Any]
    card: dict[str, Any] = field(default_factory=dict)

    def to_json(self) -> str:
        """The bundle as JSON with sorted keys, so that equal bundles give equal bytes."""
        content = {
            "format": FORMAT_VERSION,
            "labels": list(self.labels),
            "front_end": self.front_end,
            "card": self.card,
        }
        return json.dumps(content, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False)

    @classmethod
    def from_json(cls, text: str | bytes, where: str) -> Bundle:
        """Reads a bundle.

        Args:
            text: the JSON.
            where: the file's name, for the error line.

        Raises:
            ModelFileError: not JSON (NaN and infinity are none), another format version, a part missing or of another
                type, or a label that is there twice or cannot be written as UTF-8.
        """
        try:
            content = json.loads(text)
            json.dumps(content, allow_nan=False)  # Python reads NaN and 1e999, which `tinyasc show --json` cannot say
        except (ValueError, RecursionError):
            raise ModelFileError(
                f"{where}: its tinyasc metadata is damaged (not JSON); export the model again"
            ) from None
        if not isinstance(content, dict) or content.get("format") != FORMAT_VERSION:
            raise ModelFileError(
                f"{where}: its tinyasc metadata is not of format {FORMAT_VERSION}; export it again with this version"
            )
        labels, front_end, card = content.get("labels"), content.get("front_end"), content.get("card")
        if not isinstance(labels, list) or not labels or not all(isinstance(label, str) for label in labels):
            raise ModelFileError(f"{where}: its tinyasc metadata holds no list of labels; export the model again")
        if len(set(labels)) < len(labels) or not all(map(_is_utf8, labels)):
            raise ModelFileError(
                f"{where}: its tinyasc metadata names a label twice, or one that is no text; export the model again"
            )
        if not isinstance(front_end, dict) or not isinstance(card, dict):
            raise ModelFileError(
                f"{where}: its tinyasc metadata lacks the front end or the card; export the model again"
            )
        return cls(tuple(labels), front_end, card)


def _is_utf8(text: str) -> bool:
    """Whether a text can be written to a file: JSON may hold half of a surrogate pair."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
