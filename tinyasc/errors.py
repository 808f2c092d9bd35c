"""Errors that reach the user as one line: what is wrong, where, and how to mend it.

The classes live with the deployed graph, which may import nothing from here.
"""

from tinyasc_export.errors import CaptureError, GraphError, InputError, ModelFileError, TinyascError

FIRMWARE = ("simulate", "boards")  # commands that need no torch

__all__ = ["CaptureError", "GraphError", "InputError", "MissingExtraError", "ModelFileError", "TinyascError"]


class MissingExtraError(TinyascError):
    """A command of the workshop half was called in a bare install."""

    def __init__(self, command: str, missing: str) -> None:
        extra = "firmware" if command.rpartition(" ")[2] in FIRMWARE else "train"
        super().__init__(
            f"`{command}` needs {missing}, which the bare install leaves out; "
            f"install it with: pip install 'tinyasc[{extra}]'"
        )
