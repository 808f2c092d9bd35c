"""A growing file of equally shaped arrays, each found by a key: the features of one front end.

Three files in a folder. `shape.json` says what a row is. `rows` holds the rows, one after another, so that rows written
together are read back as one memory-mapped array. `keys` holds 20 bytes per row: its key and its CRC-32. A row counts
once its key is written, which happens after the row itself; what a killed process left behind a row's end is
overwritten by the next. A row whose checksum is wrong counts as absent, and is written again in its place.
"""

from __future__ import annotations

import fcntl
import json
import sys
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from tinyasc.errors import TinyascError
from tinyasc.files import write_atomic

KEY_BYTES = 16
_RECORD_BYTES = KEY_BYTES + 4


class RowStore:
    """Rows on disk. Many processes may read; one at a time writes, inside `writing`.

    Args:
        folder: made when it is not there.
        shape: of one row.
        dtype: of one row.
        about: written beside the rows for people to read.

    Raises:
        TinyascError: the folder cannot be made or written, or holds rows of another shape.
    """

    def __init__(self, folder: Path, shape: Sequence[int], dtype: np.dtype, about: dict[str, Any]) -> None:
        self.folder, self.shape, self.dtype = folder, tuple(shape), np.dtype(dtype)
        self._rows_file, self._keys_file = folder / "rows", folder / "keys"
        self._row_bytes = int(np.prod(self.shape, dtype=np.int64)) * self.dtype.itemsize
        self._place: dict[bytes, int] = {}
        self._checksums: list[int] = []
        with self._disk():
            folder.mkdir(parents=True, exist_ok=True)
            if (found := self.described(folder)) is None:
                description = {"shape": list(self.shape), "dtype": self.dtype.name, **about}
                write_atomic(folder / "shape.json", json.dumps(description))
            elif found != (self.shape, self.dtype):
                raise TinyascError(
                    f"{folder}: holds features of type {found[1]} and shape {found[0]}, not {self.dtype} and "
                    f"{self.shape}; remove that folder, it is filled again"
                )
            self._rows_file.touch()
            self._keys_file.touch()
        self.refresh()

    @staticmethod
    def described(folder: Path) -> tuple[tuple[int, ...], np.dtype] | None:
        """The shape and type of a folder's rows; None where it has no (readable) description."""
        try:
            found = json.loads((folder / "shape.json").read_bytes())
            return tuple(map(int, found["shape"])), np.dtype(found["dtype"])
        except (OSError, ValueError, KeyError, TypeError):
            return None

    def __len__(self) -> int:
        return len(self._checksums)

    def __contains__(self, key: bytes) -> bool:
        return key in self._place

    def refresh(self) -> None:
        """Takes in the keys that other processes have written."""
        with self._disk():
            data = self._keys_file.read_bytes()
            whole = min(len(data) // _RECORD_BYTES, self._rows_file.stat().st_size // self._row_bytes)
        self._checksums = []
        self._place = {}
        for i in range(whole):
            record = data[i * _RECORD_BYTES : (i + 1) * _RECORD_BYTES]
            self._place[record[:KEY_BYTES]] = i
            self._checksums.append(int.from_bytes(record[KEY_BYTES:], "little"))

    @contextmanager
    def writing(self) -> Iterator[None]:
        """Waits until no other process writes, and takes in what it wrote."""
        with self._disk():
            lock = open(self.folder / ".lock", "w")  # noqa: SIM115 (held while the caller writes)
        with lock:
            with self._disk():
                try:
                    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except BlockingIOError:
                    print(f"{self.folder}: another process fills this feature cache; waiting for it", file=sys.stderr)
                    fcntl.flock(lock, fcntl.LOCK_EX)
            self.refresh()
            yield

    def write(self, keys: Sequence[bytes], rows: np.ndarray) -> None:
        """Adds rows, or writes them again where their keys are there already. Only inside `writing`.

        Args:
            keys: `KEY_BYTES` bytes each.
            rows: (keys, *shape) of the store's type.

        Raises:
            TinyascError: the disk is full or cannot be written.
        """
        if rows.shape != (len(keys), *self.shape) or rows.dtype != self.dtype:
            raise ValueError(f"rows are {rows.dtype} {rows.shape}, not {self.dtype} {(len(keys), *self.shape)}")
        with self._disk(), open(self._rows_file, "r+b") as row_stream, open(self._keys_file, "r+b") as key_stream:
            for key, row in zip(keys, rows, strict=True):
                data = np.ascontiguousarray(row).tobytes()
                place = self._place.get(key, len(self))
                row_stream.seek(place * self._row_bytes)
                row_stream.write(data)
                row_stream.flush()
                key_stream.seek(place * _RECORD_BYTES)
                key_stream.write(key + zlib.crc32(data).to_bytes(4, "little"))
                key_stream.flush()
                if place == len(self):
                    self._checksums.append(0)
                self._place[key], self._checksums[place] = place, zlib.crc32(data)

    def sound(self, keys: Sequence[bytes]) -> list[bool]:
        """Whether each key's row is there with the right checksum. Every row is read."""
        buffer = bytearray(self._row_bytes)
        known: dict[bytes, bool] = {}
        with self._disk(), open(self._rows_file, "rb", buffering=0) as stream:
            for key in dict.fromkeys(keys):
                if (place := self._place.get(key)) is None:
                    continue
                stream.seek(place * self._row_bytes)
                known[key] = stream.readinto(buffer) == len(buffer) and zlib.crc32(buffer) == self._checksums[place]
        return [known.get(key, False) for key in keys]

    def read(self, keys: Sequence[bytes]) -> np.ndarray:
        """The rows of keys that are there, (keys, *shape).

        Rows that lie one behind another, as they do when they were written together, are mapped and not read: the
        array takes no memory until it is used, and what is written to it stays in this process. Others are copied.
        """
        places = [self._place[key] for key in keys]
        if not places:
            return np.empty((0, *self.shape), self.dtype)
        with self._disk():
            if places == list(range(places[0], places[0] + len(places))):
                start = places[0] * self._row_bytes
                return np.memmap(self._rows_file, self.dtype, "c", start, (len(places), *self.shape))
            everything = np.memmap(self._rows_file, self.dtype, "r", 0, (len(self), *self.shape))
            return np.asarray(everything[places])

    @contextmanager
    def _disk(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise TinyascError(
                f"{self.folder}: the feature cache cannot be read or written ({error.strerror}); free some space or "
                "choose another folder"
            ) from None
