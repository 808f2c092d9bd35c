"""A model file's seal: a hash of the whole file that stands inside it, where neither runtime nor reader minds it.

The hash is BLAKE2b over the file with the seal's own digits as zeros. It is found by its marker, so that one function
reads it from either format before anything of the file is parsed. It tells of accidents, a bad copy or a bad card;
whoever changes a file on purpose can seal it again (docs/decisions/0027-model-files-are-checked-first.md).
"""

from __future__ import annotations

import hashlib
import re

from tinyasc_export.errors import ModelFileError

MARKER = b"tinyasc-blake2b:"
DIGITS = 32
UNSEALED = (MARKER + b"0" * DIGITS).decode("ascii")  # what a writer puts where the seal is to stand

_SEAL = re.compile(re.escape(MARKER) + b"(.{%d})" % DIGITS, re.DOTALL)


def seal(data: bytes) -> bytes:
    """The file with its hash in place of the digits of `UNSEALED`.

    Args:
        data: the whole file, in which `UNSEALED` stands; the first counts.

    Raises:
        ValueError: it does not stand there.
    """
    at = data.index(UNSEALED.encode("ascii")) + len(MARKER)
    return data[:at] + _digest(data, at) + data[at + DIGITS :]


def check_seal(data: bytes, where: str) -> str | None:
    """Makes sure that a sealed file is as it was written.

    Args:
        data: the whole file.
        where: the file's name, for the error line.

    Returns:
        The seal's 32 hexadecimal digits; None for a file without one, written by others or by an earlier version.

    Raises:
        ModelFileError: the file is sealed and was changed since.
    """
    # A label may look like a seal: one that is right is enough.
    found = [match.start(1) for match in _SEAL.finditer(data)]
    for at in found:
        if data[at : at + DIGITS] == _digest(data, at):
            return data[at : at + DIGITS].decode("ascii")
    if found:
        raise ModelFileError(
            f"{where}: damaged, it is not as it was written (its hash differs); copy or export it again"
        )
    return None


def _digest(data: bytes, at: int) -> bytes:
    """The hash of the file, whose seal has its digits at byte `at`."""
    state = hashlib.blake2b(data[:at], digest_size=DIGITS // 2)
    state.update(b"0" * DIGITS)
    state.update(data[at + DIGITS :])
    return state.hexdigest().encode("ascii")
