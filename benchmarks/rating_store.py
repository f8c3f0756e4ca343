"""The rating store on SQLite beside the same records in LMDB: size, look-up, memory; and labels.

Two shapes of 5 million ratings: dense (50,000 responses x 100 rules) and sparse (1,000,000
responses x 5 of 100 rules, as with a Rule Adapter). Then 100,000 stored pairs x 100 rules: the time
to labels at a new (r, gamma).
"""

from __future__ import annotations

import argparse
import resource
import subprocess
import sys
import tempfile
import time
import zlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from results_file import ResultsFile

from rmexp.fingerprint import fingerprint
from rmexp.labelling import critical_rules, preference_labels
from rmexp.preferences import Pair, prompt_from_text
from rmexp.rating import Item, RatedBatch, RatingStore, rate_pairs
from rmexp.rating.store_records import ENTRY, item_key
from rmexp.rules import Rule, RuleSet

RULES = tuple(Rule(f"rule{i}", f"The response is {i}.", "x") for i in range(100))
RATER = fingerprint("bench")
SHAPES = {"dense": (50_000, 100), "sparse": (1_000_000, 5)}
LOOKED_UP = 1_000_000
BATCH = 2_000


def batches(shape: str) -> Iterator[tuple[list[Item], NDArray[np.float32]]]:
    """Items with psi ``[batch, 100]``, NaN where a sparse item was not rated."""
    items, rated = SHAPES[shape]
    random = np.random.default_rng(0)
    for start in range(0, items, BATCH):
        batch = [item(i) for i in range(start, min(start + BATCH, items))]
        psi = random.uniform(-1, 1, (len(batch), 100)).astype(np.float32)
        if rated < 100:
            first = random.integers(0, 100 - rated, len(batch))[:, None]
            column = np.arange(100)
            psi[(column < first) | (column >= first + rated)] = np.nan
        yield batch, psi


def item(number: int) -> Item:
    return Item(prompt_from_text(f"prompt {number // 2}"), f"response {number}")


class LmdbStore:
    """The same records under the same keys in LMDB."""

    def __init__(self, folder: Path):
        import lmdb

        self._environment = lmdb.open(str(folder), map_size=1 << 34, metasync=False)

    def put(self, items: list[Item], psi: NDArray[np.float32]) -> None:
        with self._environment.begin(write=True) as transaction:
            for of_item, row in zip(items, psi, strict=True):
                columns = np.flatnonzero(~np.isnan(row))
                entries = np.empty(len(columns), ENTRY)
                entries["rule"], entries["psi"] = columns, row[columns]
                entries["relevance"] = np.nan
                key = item_key(RATER, of_item)
                old = transaction.get(key)
                if old is not None:
                    before = np.frombuffer(old, ENTRY, offset=4)
                    kept = before[~np.isin(before["rule"], entries["rule"])]
                    entries = np.concatenate([kept, entries])
                data = entries.tobytes()
                transaction.put(key, zlib.crc32(data).to_bytes(4, "little") + data)

    def get(self, items: list[Item]) -> NDArray[np.float32]:
        psi = np.full((len(items), 100), np.nan, np.float32)
        found, rows = [], []
        with self._environment.begin() as transaction:
            for row, of_item in enumerate(items):
                body = transaction.get(item_key(RATER, of_item))
                if body is not None and zlib.crc32(body[4:]) == int.from_bytes(body[:4], "little"):
                    found.append(body[4:])
                    rows.append(row)
        entries = np.frombuffer(b"".join(found), ENTRY)
        place = np.repeat(rows, [len(body) // ENTRY.itemsize for body in found])
        psi[place, entries["rule"]] = entries["psi"]
        return psi


class SqliteStore:
    """The store itself."""

    def __init__(self, folder: Path):
        self._store = RatingStore(folder)

    def put(self, items: list[Item], psi: NDArray[np.float32]) -> None:
        self._store.put(RATER, items, RULES, RatedBatch(psi))

    def get(self, items: list[Item]) -> NDArray[np.float32]:
        return self._store.get(RATER, items, RULES).psi


ENGINES = {"sqlite": SqliteStore, "lmdb": LmdbStore}


def measure(engine: str, shape: str, step: str, folder: Path) -> None:
    """One step in a process of its own, so that its memory is its own."""
    store = ENGINES[engine](folder)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    started = time.perf_counter()
    if step == "write":
        for items, psi in batches(shape):
            store.put(items, psi)
    else:
        count, rated = SHAPES[shape]
        wanted = np.random.default_rng(1).choice(count, LOOKED_UP // rated, replace=False)
        found = 0
        for start in range(0, len(wanted), BATCH):
            items = [item(int(i)) for i in wanted[start : start + BATCH]]
            found += int((~np.isnan(store.get(items))).sum())
        assert found == LOOKED_UP, found
    seconds = time.perf_counter() - started
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    print(seconds, grown)


def engines(results: ResultsFile) -> None:
    results.line(
        f"\n{'shape':<8}{'engine':<8}{'bytes/rating':>14}{'write 5M, s':>13}"
        f"{'+MiB':>7}{'look up 1M, s':>15}{'+MiB':>7}"
    )
    for shape, (items, rated) in SHAPES.items():
        for engine in ENGINES:
            with tempfile.TemporaryDirectory() as folder:
                numbers = {}
                for step in ("write", "read"):
                    command = [sys.executable, __file__, "--step", engine, shape, step, folder]
                    output = subprocess.run(command, check=True, capture_output=True, text=True)
                    numbers[step] = [float(v) for v in output.stdout.split()]
                size = sum(f.stat().st_blocks * 512 for f in Path(folder).iterdir())
            results.line(
                f"{shape:<8}{engine:<8}{size / (items * rated):>14.1f}"
                f"{numbers['write'][0]:>13.1f}{numbers['write'][1]:>7.0f}"
                f"{numbers['read'][0]:>15.2f}{numbers['read'][1]:>7.0f}"
            )


class BlockRater:
    """Gives random ratings at once: what is measured is the store."""

    fingerprint = RATER

    class embedder:
        """Random vectors."""

        fingerprint = fingerprint("random")

        @staticmethod
        def embed(texts: list[str]) -> NDArray[np.float32]:
            return np.random.default_rng(0).normal(size=(len(texts), 8)).astype(np.float32)

    def __init__(self) -> None:
        self.calls = 0

    def rate(self, items: list[Item], rules: list[Rule], wanted: object = None) -> RatedBatch:
        self.calls += 1
        random = np.random.default_rng(self.calls)
        return RatedBatch(random.uniform(-1, 1, (len(items), len(rules))).astype(np.float32))


CHOICE = """
Kept: SQLite. A third smaller on disk, memory stays flat (LMDB's is its mapped file), a cut file is
an error to report and not a bus error, and it needs no package. LMDB writes 2 to 3 times as fast,
which raters that cost anything do not notice, and looks up up to a quarter faster."""


def labels(results: ResultsFile) -> None:
    pairs = [
        Pair(f"p{i}", prompt_from_text(f"prompt {i}"), f"a {i} " + "x" * 400, f"b {i} " + "y" * 400)
        for i in range(100_000)
    ]
    rules = RuleSet("bench", RULES)
    results.line("\n100,000 pairs x 100 rules")
    with tempfile.TemporaryDirectory() as folder, RatingStore(folder) as store:
        started = time.perf_counter()
        rate_pairs(pairs, rules, BlockRater(), store, batch_items=BATCH)
        results.line(f"rated and stored (a rater that costs nothing): {_since(started)}")
        part = RuleSet("part", RULES[:99])
        rater = BlockRater()
        started = time.perf_counter()
        rate_pairs(pairs, part, rater, store)
        results.line(f"looked up rating by rating: {_since(started)}, {rater.calls} rater calls")
        for r, gamma in ((5, 0.5), (7, 0.25), (5, 0.75)):
            started = time.perf_counter()
            ratings = rate_pairs(pairs, rules, rater, store)
            found = time.perf_counter() - started
            critical = critical_rules(ratings.psi_a, ratings.psi_b, ratings.relevance, r, gamma)
            preference_labels(ratings.psi_a, ratings.psi_b, critical)
            results.line(
                f"labels at a new r={r} gamma={gamma}: {_since(started)} "
                f"(of it {found:.2f} s to find the ratings), {rater.calls} rater calls"
            )


def _since(started: float) -> str:
    return f"{time.perf_counter() - started:.2f} s"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--step", nargs=4, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.step:
        engine, shape, step, folder = arguments.step
        measure(engine, shape, step, Path(folder))
        return
    with ResultsFile("rating_store") as results:
        engines(results)
        results.line(CHOICE)
        labels(results)


if __name__ == "__main__":
    main()
