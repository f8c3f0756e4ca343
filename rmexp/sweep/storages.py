"""Where Optuna keeps a study: SQLite, a journal file, or a database server."""

from __future__ import annotations

import contextlib
import fcntl
import os
import sqlite3
from pathlib import Path
from typing import Any

from optuna.storages import BaseStorage, JournalStorage, RDBStorage
from optuna.storages.journal import JournalFileBackend

from rmexp.errors import UserError

# A stopped process may hold SQLite's lock for as long as it is stopped.
_BUSY_SECONDS = 300
_JOURNAL = "journal:///"


class NoStudy(UserError):
    """A study, or what it would be kept in, is not there."""


def open_storage(url: str, *, write: bool = True) -> BaseStorage:
    """Open a storage.

    Args:
        url: ``sqlite:///path``, ``journal:///path``, or a SQLAlchemy URL such as
            ``postgresql://user@host/name``.
        write: False for a reader, which never keeps writers waiting and makes neither a file nor
            a table.

    Raises:
        NoStudy: a reader finds nothing there.
        UserError: it cannot be opened, or its driver is not installed.
    """
    if not write:
        _refuse_missing(url)
    if url.startswith(_JOURNAL):
        path = Path(url.removeprefix(_JOURNAL))
        if not path.parent.is_dir():
            raise UserError(f"sweep.storage: no folder {path.parent} to keep the journal in")
        return JournalStorage(JournalFileBackend(str(path), lock_obj=FileLock(path)))
    try:
        if not url.startswith("sqlite"):
            if not write:
                _refuse_empty(_with_driver(url))
            # A server drops idle connections; the check costs less than a lost sweep.
            return RDBStorage(_with_driver(url), engine_kwargs={"pool_pre_ping": True})
        storage = RDBStorage(url, engine_kwargs={"connect_args": {"timeout": _BUSY_SECONDS}})
    except ImportError as error:
        raise UserError(
            f"sweep.storage: the driver {error.name} is not installed; pip install {error.name}"
        ) from error
    except NoStudy:
        raise
    except Exception as error:
        # SQLAlchemy's first line says what is wrong; the URL may hold a password.
        reason = str(error.__cause__ or error).splitlines()[0]
        raise UserError(f"sweep.storage: cannot open the database: {reason}") from error
    if write:
        _lock_first(storage)
    return storage


def _refuse_missing(url: str) -> None:
    for scheme in (_JOURNAL, "sqlite:///"):
        path = Path(url.removeprefix(scheme))
        if url.startswith(scheme) and not path.is_file():
            raise NoStudy(f"sweep.storage: no study is kept in {path}: there is no such file")


def _refuse_empty(url: str) -> None:
    """Refuse a database of a server in which Optuna has made no tables: a reader makes none."""
    from sqlalchemy import create_engine, inspect

    engine = create_engine(url)
    try:
        if not inspect(engine).has_table("studies"):
            raise NoStudy("sweep.storage: the database holds no study")
    finally:
        engine.dispose()


def gather(database: Path) -> None:
    """Bring what stands in SQLite's log into the database file, so that the file can be copied."""
    with contextlib.closing(sqlite3.connect(database, timeout=_BUSY_SECONDS)) as connection:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")


def _with_driver(url: str) -> str:
    scheme, rest = url.split("://", 1) if "://" in url else ("", url)
    return f"postgresql+psycopg://{rest}" if scheme in ("postgres", "postgresql") else url


def _lock_first(storage: RDBStorage) -> None:
    """Let SQLite's transactions lock before they read.

    Python's driver begins a transaction at the first write only. Two controllers that each read
    "running" and then write would both believe that they ended the trial; see
    https://docs.sqlalchemy.org/en/20/dialects/sqlite.html on transaction isolation.
    """
    from sqlalchemy import event

    @event.listens_for(storage.engine, "connect")
    def _no_implicit_begin(connection: Any, record: Any) -> None:
        connection.isolation_level = None
        # A trial takes some fifteen commits. With a log of their own they wait for the disk only
        # now and then; a kill loses none, a power cut at most the last ones, never the file.
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = NORMAL")

    @event.listens_for(storage.engine, "begin")
    def _begin(connection: Any) -> None:
        connection.exec_driver_sql("BEGIN IMMEDIATE")

    # Connections opened before the listeners would keep the old behaviour.
    storage.engine.dispose()


class FileLock:
    """The journal's lock: the system frees it when its holder dies, at once.

    Optuna's own locks are files that a killed process leaves behind for half a minute, and a line
    that it left half written would make the journal unreadable for ever; here the next writer
    takes such a tail away.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._handle = -1

    def acquire(self) -> bool:
        """Wait for the lock."""
        # One that other threads of this process hold is another open file, so they wait as well.
        handle = os.open(f"{self._path}.lock", os.O_RDWR | os.O_CREAT, 0o644)
        fcntl.flock(handle, fcntl.LOCK_EX)
        self._handle = handle
        _cut_torn_tail(self._path)
        return True

    def release(self) -> None:
        """Free it."""
        handle, self._handle = self._handle, -1
        os.close(handle)


def _cut_torn_tail(path: Path) -> None:
    with path.open("r+b") as stream:
        end = stream.seek(0, os.SEEK_END)
        if end == 0:
            return
        stream.seek(end - 1)
        if stream.read(1) == b"\n":
            return
        stream.seek(0)
        whole = stream.read().rfind(b"\n") + 1
        stream.truncate(whole)
