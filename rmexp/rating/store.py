"""The rating store: ratings on disk, found again by content, written by several processes.

One record holds all ratings of one (rater, prompt, response), so that a rating costs little more
than its 12 bytes. SQLite in WAL mode keeps what is committed whatever is killed; each
:meth:`RatingStore.put` is one transaction. ``benchmarks/rating_store.py`` compares it with LMDB.
"""

from __future__ import annotations

import json
import os
import sqlite3
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType

import numpy as np
from numpy.typing import NDArray

from rmexp.errors import UserError
from rmexp.fingerprint import Fingerprint
from rmexp.rating.rater import Item, RatedBatch
from rmexp.rating.store_file import REMEDY, create_tables, refuse_foreign
from rmexp.rating.store_records import (
    ENTRY,
    StoredRecord,
    delete_orphans,
    intern,
    is_damaged,
    item_key,
    merge_record,
    row_id_of,
    scatter,
    stored_key,
    thin_record,
    unpack,
)
from rmexp.rules import Rule

FILE = "ratings.sqlite"
_IDS_AT_ONCE = 500
_WAIT_SECONDS = 120.0
_RECORDS_AT_ONCE = 1000
# A connection that a fork brought along: never used, and never closed, as SQLite demands.
_inherited: list[sqlite3.Connection] = []


# Rater (hexdigest), key, rules (hexdigests), psi, relevance.
ForeignRecord = tuple[str, bytes, Sequence[str], NDArray[np.float32], NDArray[np.float32]]


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
                rows.setdefault(row_id_of(key), []).append(row)
            ids = sorted(rows)
            for start in range(0, len(ids), _IDS_AT_ONCE):
                found = self._bodies(connection, ids[start : start + _IDS_AT_ONCE])
                scatter(found, rows, keys, columns, psi, relevance)
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
            rater_id = intern(connection, "raters", rater.hexdigest, rater)
            ids = np.array(
                [intern(connection, "rules", r.fingerprint.hexdigest, r.sentence) for r in rules],
                "<u4",
            )
            for row, key in enumerate(keys):
                columns = np.flatnonzero(known[row])
                if len(columns) == 0:
                    continue
                entries = np.empty(len(columns), ENTRY)
                entries["rule"] = ids[columns]
                entries["psi"] = psi[row, columns]
                entries["relevance"] = relevance[row, columns]
                merge_record(connection, rater_id, key, entries)
        return int(known.sum())

    @contextmanager
    def snapshot(self) -> Iterator[None]:
        """All reading within sees one state of the file, whoever writes meanwhile."""
        with self._transaction("BEGIN"):
            yield

    def raters(self) -> dict[int, Fingerprint]:
        """The raters whose ratings are stored, by the number that stands for them."""
        with self._transaction("BEGIN") as connection:
            rows = connection.execute("SELECT id, about FROM raters ORDER BY id").fetchall()
        return {number: Fingerprint.from_plain(json.loads(about)) for number, about in rows}

    def rules(self) -> dict[int, tuple[str, str]]:
        """Fingerprint (hexdigest) and sentence of the rules, by the number that stands for them."""
        with self._transaction("BEGIN") as connection:
            rows = connection.execute("SELECT id, fingerprint, about FROM rules ORDER BY id")
            return {number: (digest, sentence) for number, digest, sentence in rows}

    def records(self) -> Iterator[StoredRecord]:
        """All records, a thousand at a time."""
        last: int | None = None
        while True:
            with self._transaction("BEGIN") as connection:
                some, last = self._some_records(connection, last)
            if not some:
                return
            yield from some

    def _some_records(
        self, connection: sqlite3.Connection, after: int | None
    ) -> tuple[list[StoredRecord], int | None]:
        rows = connection.execute(
            "SELECT item, rater, body FROM ratings WHERE ?1 IS NULL OR item > ?1 "
            "ORDER BY item LIMIT ?2",
            (after, _RECORDS_AT_ONCE),
        ).fetchall()
        some = []
        for row_id, rater, body in rows:
            self._refuse_damaged(body)
            some.append(StoredRecord(stored_key(row_id, body), rater, unpack(body)))
        return some, rows[-1][0] if rows else None

    def add_entries(
        self,
        records: Iterable[
            tuple[str, bytes, Sequence[str], NDArray[np.float32], NDArray[np.float32]]
        ],
        raters: Sequence[Fingerprint],
        sentences: Mapping[str, str],
    ) -> None:
        """Add records of another store in one transaction.

        Args:
            records: the records.
            raters: the raters that records name.
            sentences: of the rules that records name.
        """
        by_digest = {rater.hexdigest: rater for rater in raters}
        with self._transaction("BEGIN IMMEDIATE") as connection:
            rater_ids: dict[str, int] = {}
            rule_ids: dict[str, int] = {}
            for rater, key, rules, psi, relevance in records:
                if rater not in rater_ids:
                    rater_ids[rater] = intern(connection, "raters", rater, by_digest[rater])
                for rule in rules:
                    if rule not in rule_ids:
                        rule_ids[rule] = intern(connection, "rules", rule, sentences[rule])
                entries = np.empty(len(rules), ENTRY)
                entries["rule"] = [rule_ids[rule] for rule in rules]
                entries["psi"], entries["relevance"] = psi, relevance
                merge_record(connection, rater_ids[rater], key, entries)

    def delete(self, raters: Sequence[int], rules: Sequence[int]) -> int:
        """Delete ratings by the numbers of raters and of rules; returns how many went."""
        deleted = 0
        last: int | None = None
        while True:
            # Read and written in one transaction: what others add meanwhile is not lost.
            with self._transaction("BEGIN IMMEDIATE") as connection:
                some, last = self._some_records(connection, last)
                deleted += sum(thin_record(connection, record, raters, rules) for record in some)
            if last is None:
                break
        with self._transaction("BEGIN IMMEDIATE") as connection:
            # Rules keep their numbers for good: other processes remember them.
            connection.executemany("DELETE FROM raters WHERE id = ?", [(r,) for r in raters])
            deleted += delete_orphans(connection)
        if deleted:
            with suppress(sqlite3.OperationalError):  # in use elsewhere: the space is reused
                self._open().execute("VACUUM")
        return deleted

    def copy_to(self, path: Path) -> None:
        """Copy the file as it stands, whoever is writing to it."""
        try:
            target = sqlite3.connect(path)
            try:
                self._open().backup(target)
            finally:
                target.close()
        except sqlite3.Error as error:
            raise UserError(f"{self.path}: cannot be copied to {path}: {error}") from error

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
            self._refuse_damaged(body)
        return found

    def _refuse_damaged(self, body: bytes) -> None:
        if is_damaged(body):
            raise UserError(f"{self.path}: the file is damaged: {REMEDY}")

    @contextmanager
    def _transaction(self, begin: str) -> Iterator[sqlite3.Connection]:
        try:
            connection = self._open()
            if begin == "BEGIN" and connection.in_transaction:
                yield connection  # within a snapshot
                return
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
            raise UserError(f"{self.path}: the file is damaged ({error}): {REMEDY}") from error

    def _open(self) -> sqlite3.Connection:
        if self._connection is not None:
            if self._pid == os.getpid():
                return self._connection
            _inherited.append(self._connection)
        refuse_foreign(self.path)
        connection = sqlite3.connect(self.path, timeout=_WAIT_SECONDS, isolation_level=None)
        connection.execute("PRAGMA synchronous = NORMAL")
        if not connection.execute("PRAGMA user_version").fetchone()[0]:
            create_tables(connection, self.directory / ".create.lock")
        self._connection, self._pid, self._rule_ids = connection, os.getpid(), {}
        return connection
