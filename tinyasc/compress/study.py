"""The storage of a search: a journal file under a lock of the kernel's, or a data base that Optuna knows."""

from __future__ import annotations

import fcntl
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Literal

import optuna
import sqlalchemy.engine
from optuna.storages import BaseStorage, JournalStorage, RDBStorage
from optuna.storages.journal import JournalFileBackend, JournalFileOpenLock
from sqlalchemy.exc import SQLAlchemyError

from tinyasc.errors import InputError, TinyascError
from tinyasc.files import check_writable

# Seconds that a worker waits for another one's write to a sqlite file.
SQLITE_TIMEOUT = 60


class KernelLock(JournalFileOpenLock):
    """Holds a journal by `flock`, which ends with its process; Optuna's own lock files outlive a kill by 30 s.

    A line that a full disk or a kill cut short is taken away, since no later one could be read after it.

    Args:
        journal: the file.
    """

    def __init__(self, journal: Path) -> None:
        super().__init__(str(journal))
        self.journal = journal
        self._held = -1

    def acquire(self) -> bool:
        """Waits until no other process writes."""
        self._held = os.open(f"{self.journal}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        fcntl.flock(self._held, fcntl.LOCK_EX)
        _drop_half_a_line(self.journal)
        return True

    def release(self) -> None:
        """Lets the next one write."""
        os.close(self._held)


def _drop_half_a_line(journal: Path) -> None:
    with open(journal, "rb+") as file:
        size = file.seek(0, os.SEEK_END)
        if not size:
            return
        file.seek(size - 1)
        if file.read(1) != b"\n":
            file.seek(0)
            file.truncate(file.read().rfind(b"\n") + 1)


def open_study(storage: str, name: str, direction: Literal["minimize", "maximize"]) -> optuna.Study:
    """The study of a problem, made where there is none.

    Args:
        storage: a file, or a URL of SQLAlchemy's (sqlite:///search.db, postgresql://...).
        name: of the study.
        direction: of what is better.

    Raises:
        InputError: the storage cannot be opened.
    """
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    shown = shown_storage(storage)
    if "://" not in storage:
        file = Path(storage)
        if file.is_dir():
            raise InputError(f"--storage {shown}: is a folder; name a file in it, or a URL such as sqlite:///search.db")
        check_writable(file.parent, "--storage")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            found = _open(storage)
            with suppress(KeyError):
                return optuna.load_study(study_name=name, storage=found)
            return optuna.create_study(storage=found, study_name=name, direction=direction, load_if_exists=True)
    except (optuna.exceptions.OptunaError, SQLAlchemyError, ImportError, OSError, ValueError, KeyError) as error:
        cause = error.__cause__ if isinstance(error, optuna.exceptions.StorageInternalError) else None
        line = next(iter(str(cause or error).splitlines()), type(error).__name__).replace(storage, shown)
        raise InputError(
            f"--storage {shown}: cannot be opened ({line}); name a file on a disk that all workers share, or a URL "
            "such as sqlite:///search.db"
        ) from None


def _open(storage: str) -> BaseStorage:
    if "://" in storage:
        sqlite = storage.startswith("sqlite")
        options = {"connect_args": {"timeout": SQLITE_TIMEOUT}} if sqlite else {"pool_pre_ping": True}
        return RDBStorage(storage, engine_kwargs=options)
    file = Path(storage).absolute()
    file.parent.mkdir(parents=True, exist_ok=True)
    return JournalStorage(JournalFileBackend(str(file), lock_obj=KernelLock(file)))


def shown_storage(storage: str) -> str:
    """A storage as it may be printed: a URL's password is left out."""
    with suppress(SQLAlchemyError, ValueError):
        if "://" in storage:
            return sqlalchemy.engine.make_url(storage).render_as_string(hide_password=True)
    return storage


@contextmanager
def storage_faults(storage: str) -> Iterator[None]:
    """Makes one line of a storage that is lost in the middle of a search."""
    try:
        yield
    except (optuna.exceptions.StorageInternalError, SQLAlchemyError) as error:
        line = next(iter(str(error.__cause__ or error).splitlines()), type(error).__name__)
        raise TinyascError(
            f"--storage {shown_storage(storage)}: lost ({line}); run the same command again, it resumes"
        ) from None
