"""Looking after a rating store: statistics, export, import, pruning."""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from rmexp.errors import UserError
from rmexp.fingerprint import Fingerprint
from rmexp.rating.assembled import clear_assembled
from rmexp.rating.store import ForeignRecord, RatingStore
from rmexp.rating.store_records import StoredRecord

_ROWS_AT_ONCE = 20_000
_KIND = b"rmexp ratings 1"


@dataclass(frozen=True)
class RaterStats:
    """What a store holds of one rater.

    Attributes:
        rater: its fingerprint.
        responses: distinct (prompt, response).
        ratings: in all.
        rules: distinct rules.
        mean: of psi.
        deviation: standard deviation of psi.
    """

    rater: Fingerprint
    responses: int
    ratings: int
    rules: int
    mean: float
    deviation: float


@dataclass(frozen=True)
class StoreStats:
    """A store's content.

    Attributes:
        path: the file.
        bytes: on disk, log included.
        raters: one entry per rater, in the order in which they came.
    """

    path: Path
    bytes: int
    raters: tuple[RaterStats, ...]

    @property
    def ratings(self) -> int:
        """Ratings of all raters."""
        return sum(stats.ratings for stats in self.raters)


def store_stats(store: RatingStore) -> StoreStats:
    """Count what a store holds, reading all of it in bounded memory.

    Raises:
        UserError: the file is damaged.
    """
    with store.snapshot():
        return _counted(store)


def _counted(store: RatingStore) -> StoreStats:
    raters = store.raters()
    responses: Counter[int] = Counter()
    ratings: Counter[int] = Counter()
    rules: dict[int, set[int]] = {number: set() for number in raters}
    total: Counter[int] = Counter()
    squares: Counter[int] = Counter()
    for record in store.records():
        psi = record.entries["psi"].astype(np.float64)
        responses[record.rater] += 1
        ratings[record.rater] += len(psi)
        rules[record.rater].update(record.entries["rule"].tolist())
        total[record.rater] += psi.sum()
        squares[record.rater] += (psi**2).sum()
    stats = []
    for number, rater in raters.items():
        count = max(ratings[number], 1)
        mean = float(total[number] / count)
        variance = max(float(squares[number] / count) - mean**2, 0.0)
        stats.append(
            RaterStats(
                rater, responses[number], ratings[number], len(rules[number]), mean, variance**0.5
            )
        )
    files = (f for f in store.directory.glob(f"{store.path.name}*") if f.is_file())
    return StoreStats(store.path, sum(f.stat().st_size for f in files), tuple(stats))


def copy_store(store: RatingStore, directory: Path) -> str:
    """Copy a whole store, consistent whoever is writing to it.

    Args:
        store: what is copied.
        directory: of the copy, which must hold no store yet.

    Returns:
        What was copied, for people.
    """
    directory.mkdir(parents=True, exist_ok=True)
    store.copy_to(directory / store.path.name)
    with RatingStore(directory) as copy:
        stats = store_stats(copy)
    raters = ", ".join(f"{held.rater.kind} {held.ratings}" for held in stats.raters)
    return raters or "none"


def export_ratings(store: RatingStore, path: Path) -> int:
    """Write all ratings to one Parquet file, to be imported into another store.

    Columns: rater and rule (fingerprints), item (16 bytes that stand for rater, prompt and
    response), psi, relevance (null where the rater measures none).

    Returns:
        The number of ratings.

    Raises:
        UserError: the file cannot be written.
    """
    with store.snapshot():
        return _export(store, path)


def _export(store: RatingStore, path: Path) -> int:
    import pyarrow
    import pyarrow.parquet

    raters, rules = store.raters(), store.rules()
    about = {
        "raters": [rater.to_plain() for rater in raters.values()],
        "rules": dict(rules.values()),
    }
    schema = pyarrow.schema(
        [
            ("rater", pyarrow.dictionary(pyarrow.int32(), pyarrow.string())),
            ("item", pyarrow.binary(16)),
            ("rule", pyarrow.dictionary(pyarrow.int32(), pyarrow.string())),
            ("psi", pyarrow.float32()),
            ("relevance", pyarrow.float32()),
        ],
        metadata={b"kind": _KIND, b"about": json.dumps(about).encode()},
    )
    rater_names = pyarrow.array([r.hexdigest for r in raters.values()])
    rater_place = {number: i for i, number in enumerate(raters)}
    rule_names = pyarrow.array([digest for digest, _ in rules.values()])
    rule_place = np.full(max(rules, default=0) + 1, -1, np.int32)
    rule_place[list(rules)] = np.arange(len(rules))
    scratch = path.with_name(f".{path.name}.{os.getpid()}")
    written = 0
    try:
        with pyarrow.parquet.ParquetWriter(scratch, schema, compression="zstd") as writer:
            for records in _portions(store.records()):
                counts = [len(r.entries) for r in records]
                entries = np.concatenate([r.entries for r in records])
                of_rater = np.repeat([rater_place[r.rater] for r in records], counts)
                keys = np.repeat(np.array([r.key for r in records], dtype="V16"), counts)
                relevance = entries["relevance"]
                columns = [
                    pyarrow.DictionaryArray.from_arrays(of_rater.astype(np.int32), rater_names),
                    pyarrow.array(keys.tolist(), pyarrow.binary(16)),
                    pyarrow.DictionaryArray.from_arrays(rule_place[entries["rule"]], rule_names),
                    pyarrow.array(entries["psi"]),
                    pyarrow.array(relevance, mask=np.isnan(relevance)),
                ]
                writer.write_table(pyarrow.Table.from_arrays(columns, schema=schema))
                written += len(entries)
        os.replace(scratch, path)
    except OSError as error:
        raise UserError(f"{path}: cannot write the export: {error.strerror}") from error
    finally:
        scratch.unlink(missing_ok=True)
    return written


def import_ratings(store: RatingStore, path: Path) -> int:
    """Add the ratings of an export; where both know a rating, the export's counts.

    Returns:
        The number of ratings read.

    Raises:
        UserError: the file is no export of ratings.
    """
    import pyarrow
    import pyarrow.parquet

    try:
        source = pyarrow.parquet.ParquetFile(path)
        metadata = source.schema_arrow.metadata or {}
        if metadata.get(b"kind") != _KIND:
            raise UserError(f"{path}: no export of ratings; make one with 'rmexp ratings export'")
        about = json.loads(metadata[b"about"])
        raters = [Fingerprint.from_plain(plain) for plain in about["raters"]]
        read = 0
        for batch in source.iter_batches(batch_size=_ROWS_AT_ONCE * 5):
            store.add_entries(_by_record(batch), raters, about["rules"])
            read += batch.num_rows
    except FileNotFoundError as error:
        raise UserError(f"{path}: no such file") from error
    except (OSError, pyarrow.ArrowException, KeyError, ValueError) as error:
        raise UserError(f"{path}: cannot read the export: {error}") from error
    clear_assembled(store.directory)
    return read


def raters_named(store: RatingStore, starts: Sequence[str]) -> Callable[[Fingerprint], bool]:
    """Whether a rater's fingerprint begins with one of the given starts.

    Raises:
        UserError: no rater of the store begins with one of them, such as a slip of the pen whose
            ratings would be deleted.
    """
    raters = store.raters().values()
    for start in starts:
        if not any(rater.hexdigest.startswith(start) for rater in raters):
            there = ", ".join(f"{rater.kind} {rater.short}" for rater in raters) or "none"
            raise UserError(f"--keep {start}: no such rater in {store.path}; there are: {there}")
    return lambda rater: rater.hexdigest.startswith(tuple(starts))


def prune_ratings(
    store: RatingStore, keep: Callable[[Fingerprint], bool], *, keep_rules: set[str] | None = None
) -> int:
    """Delete ratings of raters, and of rules, that are no longer wanted, and give back the space.

    Args:
        store: the store.
        keep: whether to keep the ratings of a rater.
        keep_rules: fingerprints (hexdigests) of the rules to keep; None keeps all.

    Returns:
        The number of ratings deleted.
    """
    going = [number for number, rater in store.raters().items() if not keep(rater)]
    rules = [
        number
        for number, (digest, _) in store.rules().items()
        if keep_rules is not None and digest not in keep_rules
    ]
    deleted = store.delete(going, rules)
    clear_assembled(store.directory)
    return deleted


def _portions(records: Iterator[StoredRecord]) -> Iterator[list[StoredRecord]]:
    portion: list[StoredRecord] = []
    entries = 0
    for record in records:
        portion.append(record)
        entries += len(record.entries)
        if entries >= _ROWS_AT_ONCE:
            yield portion
            portion, entries = [], 0
    if portion:
        yield portion


def _by_record(batch: Any) -> Iterator[ForeignRecord]:
    """One record for each run of rows with one key."""
    raters, keys = batch.column("rater").to_pylist(), batch.column("item").to_pylist()
    rules = batch.column("rule").to_pylist()
    psi = batch.column("psi").to_numpy(zero_copy_only=False).astype(np.float32)
    relevance = batch.column("relevance").to_numpy(zero_copy_only=False).astype(np.float32)
    start = 0
    for end in range(1, len(keys) + 1):
        if end == len(keys) or keys[end] != keys[start]:
            rows = slice(start, end)
            yield raters[start], keys[start], rules[rows], psi[rows], relevance[rows]
            start = end
