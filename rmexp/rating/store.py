"""The rating store: ratings on disk, found again by content, written by several processes.

One record holds all ratings of one (rater, prompt, response), so that a rating costs little more
than its 12 bytes. SQLite in WAL mode keeps what is committed whatever is killed; each
:meth:`RatingStore.put` is one transaction. ``benchmarks/rating_store.py`` compares it with LMDB.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import sqlite3
import struct
import time
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType

import numpy as np
from numpy.typing import NDArray

from rmexp.errors import UserError
from rmexp.fingerprint import Fingerprint
from rmexp.rating.rater import Item, RatedBatch
from rmexp.rules import Rule

FILE = "ratings.sqlite"
_MAGIC = b"SQLite format 3\x00"
_APPLICATION = 0x726D7278  # "rmrx", in the header's application id
_SCHEMA = 1
_ENTRY = np.dtype([("rule", "<u4"), ("psi", "<f4"), ("relevance", "<f4")])
_HEAD = struct.Struct("<I8s")  # crc32 of what follows it, second half of the item's hash
_IDS_AT_ONCE = 500
_WAIT_SECONDS = 120.0
_TABLES = """
CREATE TABLE raters (id INTEGER PRIMARY KEY, fingerprint TEXT NOT NULL UNIQUE,
                     about TEXT NOT NULL, created REAL NOT NULL);
CREATE TABLE rules (id INTEGER PRIMARY KEY, fingerprint TEXT NOT NULL UNIQUE,
                    about TEXT NOT NULL);
CREATE TABLE ratings (item INTEGER PRIMARY KEY, rater INTEGER NOT NULL, body BLOB NOT NULL);
"""
# A connection that a fork brought along: never used, and never closed, as SQLite demands.
_inherited: list[sqlite3.Connection] = []


class RatingStore:
    """Ratings by (rater fingerprint, rule content, prompt, response), in one folder.

    Safe for several processes, and after a fork: every process opens the file for itself. Not for
    use by several threads at once.

    Args:
        directory: made where it does not exist; holds ``ratings.sqlite`` and derived files.

    Raises:
        UserError: the folder cannot be written, or its file is torn or is not a rating store;
            such a file is left as it is.
    """

    def __init__(self, directory: Path | str):
        self.directory = Path(directory)
        self.path = self.directory / FILE
        try:
            self.directory.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(
                f"rating store {self.directory}: cannot make the folder: {error.strerror}"
            ) from error
        self._connection: sqlite3.Connection | None = None
        self._pid = 0
        self._rule_ids: dict[str, int] = {}
        with self._transaction("BEGIN"):
            pass  # tells at once a file that cannot be used

    def get(self, rater: Fingerprint, items: Sequence[Item], rules: Sequence[Rule]) -> RatedBatch:
        """Look up ratings.

        Returns:
            psi and relevance, float32 ``[items, rules]``, NaN where the store has none.

        Raises:
            UserError: the file is damaged.
        """
        keys = [item_key(rater, item) for item in items]
        return self.get_by_key(keys, rules)

    def get_by_key(self, keys: Sequence[bytes], rules: Sequence[Rule]) -> RatedBatch:
        """:meth:`get` with the keys of :func:`item_key`, for callers that hash once."""
        psi = np.full((len(keys), len(rules)), np.nan, np.float32)
        relevance = psi.copy()
        with self._transaction("BEGIN") as connection:
            columns = self._columns(connection, rules)
            rows: dict[int, list[int]] = {}
            for row, key in enumerate(keys):
                rows.setdefault(_row_id(key), []).append(row)
            ids = sorted(rows)
            for start in range(0, len(ids), _IDS_AT_ONCE):
                found = self._bodies(connection, ids[start : start + _IDS_AT_ONCE])
                _scatter(found, rows, keys, columns, psi, relevance)
        return RatedBatch(psi, relevance)

    def put(
        self, rater: Fingerprint, items: Sequence[Item], rules: Sequence[Rule], rated: RatedBatch
    ) -> int:
        """Store ratings in one transaction; entries that are NaN are not stored.

        Returns:
            The number of ratings stored.

        Raises:
            ValueError: shapes that do not fit, or a psi outside [-1, 1].
            UserError: the file is damaged or cannot be written.
        """
        psi = np.asarray(rated.psi, np.float32)
        if psi.shape != (len(items), len(rules)):
            raise ValueError(f"psi {psi.shape} must be [items, rules] {(len(items), len(rules))}")
        relevance = (
            np.full_like(psi, np.nan)
            if rated.relevance is None
            else np.asarray(rated.relevance, np.float32)
        )
        if relevance.shape != psi.shape:
            raise ValueError(f"relevance {relevance.shape} must have psi's shape {psi.shape}")
        known = ~np.isnan(psi)
        if (np.abs(psi[known]) > 1).any():
            raise ValueError("a rating lies outside [-1, 1]")
        keys = [item_key(rater, item) for item in items]
        with self._transaction("BEGIN IMMEDIATE") as connection:
            rater_id = _intern(connection, "raters", rater)
            ids = np.array(
                [_intern(connection, "rules", r.fingerprint, r.sentence) for r in rules], "<u4"
            )
            for row, key in enumerate(keys):
                columns = np.flatnonzero(known[row])
                if len(columns) == 0:
                    continue
                entries = np.empty(len(columns), _ENTRY)
                entries["rule"] = ids[columns]
                entries["psi"] = psi[row, columns]
                entries["relevance"] = relevance[row, columns]
                merge_record(connection, rater_id, key, entries)
        return int(known.sum())

    def close(self) -> None:
        """Close the file; the store opens it again when used again."""
        if self._connection is not None and self._pid == os.getpid():
            self._connection.close()
        self._connection = None

    def __enter__(self) -> RatingStore:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _columns(self, connection: sqlite3.Connection, rules: Sequence[Rule]) -> NDArray[np.int64]:
        """Column of each rule id known to the file; -1 for rules not asked for."""
        # Rule ids never change once given, so a new look is needed only for unknown ones.
        digests = [rule.fingerprint.hexdigest for rule in rules]
        if any(digest not in self._rule_ids for digest in digests):
            self._rule_ids = dict(connection.execute("SELECT fingerprint, id FROM rules"))
        most = max(self._rule_ids.values(), default=0)
        columns = np.full(most + 1, -1, np.int64)
        for column, digest in enumerate(digests):
            if digest in self._rule_ids:
                columns[self._rule_ids[digest]] = column
        return columns

    def _bodies(self, connection: sqlite3.Connection, ids: list[int]) -> list[tuple[int, bytes]]:
        marks = ",".join("?" * len(ids))
        found = connection.execute(
            f"SELECT item, body FROM ratings WHERE item IN ({marks})", ids
        ).fetchall()
        for _, body in found:
            if len(body) < _HEAD.size or zlib.crc32(body[4:]) != int.from_bytes(body[:4], "little"):
                raise UserError(f"{self.path}: the file is damaged: {_REMEDY}")
        return found

    @contextmanager
    def _transaction(self, begin: str) -> Iterator[sqlite3.Connection]:
        try:
            connection = self._open()
            connection.execute(begin)
            try:
                yield connection
            except BaseException:
                connection.rollback()
                raise
            connection.commit()
        except sqlite3.OperationalError as error:
            raise UserError(f"{self.path}: {error}") from error
        except sqlite3.DatabaseError as error:
            raise UserError(f"{self.path}: the file is damaged ({error}): {_REMEDY}") from error

    def _open(self) -> sqlite3.Connection:
        if self._connection is not None:
            if self._pid == os.getpid():
                return self._connection
            _inherited.append(self._connection)
        refuse_foreign(self.path)
        connection = sqlite3.connect(self.path, timeout=_WAIT_SECONDS, isolation_level=None)
        connection.execute("PRAGMA synchronous = NORMAL")
        if not connection.execute("PRAGMA user_version").fetchone()[0]:
            _create(connection, self.directory / ".create.lock")
        self._connection, self._pid, self._rule_ids = connection, os.getpid(), {}
        return connection


_REMEDY = "move it away to start anew, or put back a copy"


def item_key(rater: Fingerprint, item: Item) -> bytes:
    """16 bytes that identify (rater, prompt, response) by content."""
    digest = hashlib.blake2b(rater.hexdigest.encode(), digest_size=16)
    for text in (*(t for m in item.prompt for t in (m.role, m.content)), item.response):
        data = text.encode("utf-8", "surrogatepass")
        digest.update(len(data).to_bytes(8, "little") + data)
    return digest.digest()


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
        raise UserError(f"{path}: this is no rating store: {_REMEDY}")
    if application == 0 or schema != _SCHEMA:
        # Between its first page and its tables a new file has no application id yet.
        if application == 0 and schema == 0 and path.stat().st_size <= 4096:
            return
        raise UserError(f"{path}: not a rating store of this version: {_REMEDY}")
    page_size = int.from_bytes(header[16:18], "big")
    pages = int.from_bytes(header[28:32], "big")
    log = path.with_name(path.name + "-wal")
    # With a log beside it the file may be shorter: SQLite replays the log.
    if path.stat().st_size < page_size * pages and not (log.exists() and log.stat().st_size):
        raise UserError(f"{path}: the file is torn ({path.stat().st_size} bytes): {_REMEDY}")


def merge_record(
    connection: sqlite3.Connection, rater_id: int, key: bytes, entries: NDArray[np.void]
) -> None:
    """Write entries into the record of a key, beside what it holds of other rules."""
    row_id = _row_id(key)
    stored = connection.execute("SELECT body FROM ratings WHERE item = ?", (row_id,)).fetchone()
    # Two items whose first 8 bytes agree share a row; the later one takes it. That costs a new
    # rating (about once in 10**7 stores of a million items), never a wrong one.
    if stored is not None and stored[0][4:12] == key[8:]:
        old = np.frombuffer(stored[0], _ENTRY, offset=_HEAD.size)
        entries = np.concatenate([old[~np.isin(old["rule"], entries["rule"])], entries])
    tail = key[8:] + entries.tobytes()
    body = zlib.crc32(tail).to_bytes(4, "little") + tail
    connection.execute("INSERT OR REPLACE INTO ratings VALUES (?, ?, ?)", (row_id, rater_id, body))


def _create(connection: sqlite3.Connection, lock: Path) -> None:
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


def _intern(
    connection: sqlite3.Connection, table: str, identity: Fingerprint, about: str | None = None
) -> int:
    """The small number that stands for a fingerprint in records."""
    found = connection.execute(
        f"SELECT id FROM {table} WHERE fingerprint = ?", (identity.hexdigest,)
    ).fetchone()
    if found is not None:
        return int(found[0])
    if table == "raters":
        about_text = json.dumps(identity.to_plain(), sort_keys=True)
        cursor = connection.execute(
            "INSERT INTO raters (fingerprint, about, created) VALUES (?, ?, ?)",
            (identity.hexdigest, about_text, time.time()),
        )
    else:
        cursor = connection.execute(
            "INSERT INTO rules (fingerprint, about) VALUES (?, ?)", (identity.hexdigest, about)
        )
    assert cursor.lastrowid is not None
    return cursor.lastrowid


def _row_id(key: bytes) -> int:
    return int.from_bytes(key[:8], "little", signed=True)


def _scatter(
    found: list[tuple[int, bytes]],
    rows: dict[int, list[int]],
    keys: Sequence[bytes],
    columns: NDArray[np.int64],
    psi: NDArray[np.float32],
    relevance: NDArray[np.float32],
) -> None:
    """Write the entries of records into the rows that asked for them."""
    bodies, targets = [], []
    for item, body in found:
        for row in rows[item]:
            if body[4:12] == keys[row][8:]:
                bodies.append(body[_HEAD.size :])
                targets.append(row)
    if not bodies:
        return
    entries = np.frombuffer(b"".join(bodies), _ENTRY)
    in_row = np.repeat(targets, [len(body) // _ENTRY.itemsize for body in bodies])
    rule = entries["rule"].astype(np.int64)
    # Rules that joined the file after this look at its table are none of those asked for.
    column = np.where(rule < len(columns), columns[np.minimum(rule, len(columns) - 1)], -1)
    asked = column >= 0
    psi[in_row[asked], column[asked]] = entries["psi"][asked]
    relevance[in_row[asked], column[asked]] = entries["relevance"][asked]
