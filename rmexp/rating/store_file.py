"""The rating store's file: how it is made, and how one that is none is told."""

from __future__ import annotations

import fcntl
import sqlite3
from pathlib import Path

from rmexp.errors import UserError

REMEDY = "move it away to start anew, or put back a copy"
_MAGIC = b"SQLite format 3\x00"
_APPLICATION = 0x726D7278  # "rmrx", in the header's application id
_SCHEMA = 1
_TABLES = """
CREATE TABLE raters (id INTEGER PRIMARY KEY, fingerprint TEXT NOT NULL UNIQUE, about TEXT NOT NULL,
                     created REAL NOT NULL);
CREATE TABLE rules (id INTEGER PRIMARY KEY, fingerprint TEXT NOT NULL UNIQUE, about TEXT NOT NULL);
CREATE TABLE ratings (item INTEGER PRIMARY KEY, rater INTEGER NOT NULL, body BLOB NOT NULL);
"""


def create_tables(connection: sqlite3.Connection, lock: Path) -> None:
    """Make a new file a rating store; processes that do so at once take turns."""
    # The change to WAL does not wait for another process that is about to do the same.
    with lock.open("w") as stream:
        fcntl.flock(stream, fcntl.LOCK_EX)
        if connection.execute("PRAGMA user_version").fetchone()[0]:
            return
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("BEGIN IMMEDIATE")
        for statement in _TABLES.split(";"):
            connection.execute(statement)
        connection.execute(f"PRAGMA application_id = {_APPLICATION}")
        connection.execute(f"PRAGMA user_version = {_SCHEMA}")
        connection.commit()


def refuse_foreign(path: Path) -> None:
    """UserError for a file that is torn or is no rating store, told from its header alone."""
    try:
        with path.open("rb") as stream:
            header = stream.read(100)
    except FileNotFoundError:
        return
    except OSError as error:
        raise UserError(f"{path}: cannot read it: {error.strerror}") from error
    if not header:
        return  # made a moment ago by another process
    application, schema = (int.from_bytes(header[a : a + 4], "big") for a in (68, 60))
    if not header.startswith(_MAGIC) or len(header) < 100 or application not in (0, _APPLICATION):
        raise UserError(f"{path}: this is no rating store: {REMEDY}")
    if application == 0 or schema != _SCHEMA:
        # Between its first page and its tables a new file has no application id yet.
        if application == 0 and schema == 0 and path.stat().st_size <= 4096:
            return
        raise UserError(f"{path}: not a rating store of this version: {REMEDY}")
    page_size = int.from_bytes(header[16:18], "big")
    pages = int.from_bytes(header[28:32], "big")
    log = path.with_name(path.name + "-wal")
    # With a log beside it the file may be shorter: SQLite replays the log.
    if path.stat().st_size < page_size * pages and not (log.exists() and log.stat().st_size):
        raise UserError(f"{path}: the file is torn ({path.stat().st_size} bytes): {REMEDY}")
