"""The rating store's records: their keys, their bytes, and the rows that hold them.

A body is 4 bytes crc32 of the rest, 8 bytes second half of the key (the first is the row id), and
12 bytes a rating.
"""

from __future__ import annotations

import hashlib
import json
import sqlite3
import time
import zlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from rmexp.fingerprint import Fingerprint
from rmexp.rating.rater import Item

ENTRY = np.dtype([("rule", "<u4"), ("psi", "<f4"), ("relevance", "<f4")])
_HEAD = 12


@dataclass(frozen=True)
class StoredRecord:
    """All ratings of one (rater, prompt, response).

    Attributes:
        key: 16 bytes, see :func:`item_key`.
        rater: number of the rater, see :meth:`RatingStore.raters`.
        entries: rule (number, see :meth:`RatingStore.rules`), psi, relevance (NaN without).
    """

    key: bytes
    rater: int
    entries: NDArray[np.void]


def item_key(rater: Fingerprint, item: Item) -> bytes:
    """16 bytes that identify (rater, prompt, response) by content."""
    digest = hashlib.blake2b(rater.hexdigest.encode(), digest_size=16)
    for text in (*(t for m in item.prompt for t in (m.role, m.content)), item.response):
        data = text.encode("utf-8", "surrogatepass")
        digest.update(len(data).to_bytes(8, "little") + data)
    return digest.digest()


def is_damaged(body: bytes) -> bool:
    """Whether a body is not what was written."""
    return len(body) < _HEAD or zlib.crc32(body[4:]) != int.from_bytes(body[:4], "little")


def stored_key(row_id: int, body: bytes) -> bytes:
    """The key of a stored record."""
    return row_id.to_bytes(8, "little", signed=True) + body[4:_HEAD]


def unpack(body: bytes) -> NDArray[np.void]:
    """The entries of a body."""
    return np.frombuffer(body, ENTRY, offset=_HEAD)


def merge_record(
    connection: sqlite3.Connection, rater_id: int, key: bytes, entries: NDArray[np.void]
) -> None:
    """Write entries into the record of a key, beside what it holds of other rules.

    Raises:
        sqlite3.DatabaseError: what it holds is damaged; a new checksum would hide that.
    """
    row_id = row_id_of(key)
    stored = connection.execute("SELECT body FROM ratings WHERE item = ?", (row_id,)).fetchone()
    if stored is not None and is_damaged(stored[0]):
        raise sqlite3.DatabaseError("a record has another checksum")
    # Two items whose first 8 bytes agree share a row; the later one takes it. That costs a new
    # rating (about once in 10**7 stores of a million items), never a wrong one.
    if stored is not None and stored[0][4:12] == key[8:]:
        old = unpack(stored[0])
        entries = np.concatenate([old[~np.isin(old["rule"], entries["rule"])], entries])
    write_record(connection, rater_id, key, entries)


def thin_record(
    connection: sqlite3.Connection,
    record: StoredRecord,
    raters: Sequence[int],
    rules: Sequence[int],
) -> int:
    """Delete entries of a record, and the record where none is left; returns how many went."""
    kept = record.entries[~np.isin(record.entries["rule"], rules)]
    if record.rater in raters:
        kept = kept[:0]
    gone = len(record.entries) - len(kept)
    if gone and len(kept):
        write_record(connection, record.rater, record.key, kept)
    elif gone:
        connection.execute("DELETE FROM ratings WHERE item = ?", (row_id_of(record.key),))
    return gone


def delete_orphans(connection: sqlite3.Connection) -> int:
    """Delete records of raters that are gone; returns how many entries went.

    Another process may have added them behind the scan that deletes a rater's records.
    """
    orphans = "FROM ratings WHERE rater NOT IN (SELECT id FROM raters)"
    size = f"SELECT SUM((LENGTH(body) - {_HEAD}) / {ENTRY.itemsize}) {orphans}"
    gone = connection.execute(size).fetchone()[0]
    connection.execute(f"DELETE {orphans}")
    return int(gone or 0)


def write_record(
    connection: sqlite3.Connection, rater_id: int, key: bytes, entries: NDArray[np.void]
) -> None:
    """Write the record of a key, in place of any that is there."""
    tail = key[8:] + entries.tobytes()
    body = zlib.crc32(tail).to_bytes(4, "little") + tail
    connection.execute(
        "INSERT OR REPLACE INTO ratings VALUES (?, ?, ?)", (row_id_of(key), rater_id, body)
    )


def intern(
    connection: sqlite3.Connection, table: str, digest: str, about: Fingerprint | str
) -> int:
    """The small number that stands for a fingerprint in records."""
    found = connection.execute(
        f"SELECT id FROM {table} WHERE fingerprint = ?", (digest,)
    ).fetchone()
    if found is not None:
        return int(found[0])
    if isinstance(about, Fingerprint):
        cursor = connection.execute(
            "INSERT INTO raters (fingerprint, about, created) VALUES (?, ?, ?)",
            (digest, json.dumps(about.to_plain(), sort_keys=True), time.time()),
        )
    else:
        cursor = connection.execute(
            "INSERT INTO rules (fingerprint, about) VALUES (?, ?)", (digest, about)
        )
    assert cursor.lastrowid is not None
    return cursor.lastrowid


def row_id_of(key: bytes) -> int:
    """The first half of a key as SQLite's row id."""
    return int.from_bytes(key[:8], "little", signed=True)


def scatter(
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
                bodies.append(body[_HEAD:])
                targets.append(row)
    if not bodies:
        return
    entries = np.frombuffer(b"".join(bodies), ENTRY)
    in_row = np.repeat(targets, [len(body) // ENTRY.itemsize for body in bodies])
    rule = entries["rule"].astype(np.int64)
    # Rules that joined the file after this look at its table are none of those asked for.
    column = np.where(rule < len(columns), columns[np.minimum(rule, len(columns) - 1)], -1)
    asked = column >= 0
    psi[in_row[asked], column[asked]] = entries["psi"][asked]
    relevance[in_row[asked], column[asked]] = entries["relevance"][asked]
