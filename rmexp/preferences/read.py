"""Reading preference pairs from files, from the Hugging Face hub, and the starter set."""

from __future__ import annotations

import gzip
import json
import os
import zlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from rmexp.errors import UserError, looked_in
from rmexp.fingerprint import Fingerprint, fingerprint
from rmexp.preferences.pair import Pair, prompt_text
from rmexp.preferences.report import ReadReport
from rmexp.preferences.rows import ColumnMap, RowError, pair_from_row

STARTER = Path(__file__).parent / "starter"
OnInvalid = Literal["error", "drop"]
# Environment: a folder of rows of hub data sets.
HUB_ROWS = "RMEXP_HUB_ROWS"


@dataclass(frozen=True)
class PreferenceData:
    """Pairs in reading order, with the report of their reading."""

    pairs: tuple[Pair, ...]
    report: ReadReport

    @property
    def fingerprint(self) -> Fingerprint:
        """Identity by content: prompts, responses, preferences, ids, in order."""
        return pairs_fingerprint(self.pairs)


def pairs_fingerprint(pairs: Iterable[Pair]) -> Fingerprint:
    """Identity of pairs by content and order."""
    rows = [
        [p.id, [[m.role, m.content] for m in p.prompt], p.response_a, p.response_b, p.preference]
        for p in pairs
    ]
    return fingerprint("pairs", count=len(rows), rows=fingerprint("rows", rows=rows).hexdigest)


def read_starter(limit: int | None = None) -> PreferenceData:
    """The starter pairs that ship with rmexp, by category; with a limit the first of them."""
    files = sorted(STARTER.glob("*.jsonl"))
    rows = (row for file in files for row in json_rows(file))
    return _collect(rows, "starter", ColumnMap(), "error", seed=0, limit=limit)


def read_files(
    path: Path | str,
    *,
    columns: Mapping[str, str] | None = None,
    on_invalid: OnInvalid = "error",
    seed: int = 0,
    limit: int | None = None,
) -> PreferenceData:
    """Read pairs from one file or from every readable file of a folder.

    Args:
        path: ``.jsonl``, ``.json`` or ``.parquet``, the first two also with ``.gz``; or a folder.
        columns: our field names to the file's column names.
        on_invalid: ``error`` stops at the first row that cannot be used, ``drop`` counts it.
        seed: of the coin that places preferred responses (see :func:`pair_from_row`).
        limit: stop after this many kept pairs.

    Raises:
        UserError: naming file and line.
    """
    path = Path(path)
    files = _files(path)
    rows = (row for file in files for row in file_rows(file))
    return _collect(rows, str(path), ColumnMap(columns or {}), on_invalid, seed, limit)


def read_hub(
    name: str,
    *,
    split: str,
    config_name: str | None = None,
    data_dir: str | None = None,
    columns: Mapping[str, str] | None = None,
    on_invalid: OnInvalid = "error",
    seed: int = 0,
    limit: int | None = None,
) -> PreferenceData:
    """Read pairs from a data set of the Hugging Face hub, or a folder that ``datasets`` loads.

    Raises:
        UserError: where the data set cannot be loaded, or naming the row that cannot be used.
    """
    rows = hub_rows(name, split=split, config_name=config_name, data_dir=data_dir)
    return _collect(rows, f"{name}[{split}]", ColumnMap(columns or {}), on_invalid, seed, limit)


def hub_rows(
    name: str, *, split: str, config_name: str | None = None, data_dir: str | None = None
) -> Iterator[tuple[str, Any]]:
    """Yield ``(place, object)`` for each row of a data set of the hub.

    Where the environment names a folder by ``RMEXP_HUB_ROWS``, rows are read from there, and kept
    there when they come from the hub: so a machine without a network reads what another has read.

    Raises:
        UserError: where the data set cannot be loaded.
    """
    folder = os.environ.get(HUB_ROWS)
    kept = None
    if folder:
        asked = fingerprint("hub_rows", name=name, config=config_name, folder=data_dir, split=split)
        kept = Path(folder) / f"{name.replace('/', '--')}-{asked.short}.jsonl"
    if kept is not None and kept.is_file():
        rows: Iterable[Any] = (row for _, row in json_rows(kept))
    else:
        rows = _loaded_rows(name, split, config_name, data_dir)
        if kept is not None:
            rows = list(rows)
            _keep_rows(rows, kept)
    return ((f"{name}[{split}]:{n}", row) for n, row in enumerate(rows))


def _loaded_rows(
    name: str, split: str, config_name: str | None, data_dir: str | None
) -> Iterable[Any]:
    import datasets

    try:
        table: Iterable[Any] = datasets.load_dataset(
            name, config_name, data_dir=data_dir, split=split
        )
    except Exception as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UserError(
            f"data.name: cannot load '{name}' split '{split}': {reason}; without a network give "
            "data.path to local files instead"
        ) from error
    return table


def _keep_rows(rows: Iterable[Any], path: Path) -> None:
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with partial.open("w", encoding="utf-8") as stream:
            stream.writelines(json.dumps(row, default=str) + "\n" for row in rows)
        os.replace(partial, path)
    except OSError as error:
        raise UserError(f"{HUB_ROWS}: cannot write {path}: {error.strerror}") from error


def _collect(
    rows: Iterable[tuple[str, Any]],
    source: str,
    columns: ColumnMap,
    on_invalid: OnInvalid,
    seed: int,
    limit: int | None,
) -> PreferenceData:
    report = ReadReport(source)
    pairs: list[Pair] = []
    ids: dict[str, str] = {}
    preferred: dict[tuple[str, frozenset[str]], str | None] = {}
    for where, row in rows:
        if limit is not None and len(pairs) >= limit:
            break
        report.read += 1
        try:
            pair = pair_from_row(row, where, columns=columns, seed=seed)
            if pair.id in ids:
                raise RowError(where, "the id stands already", f": '{pair.id}' at {ids[pair.id]}")
        except RowError as error:
            if on_invalid == "error":
                raise
            report.drop(error.reason, where)
            continue
        ids[pair.id] = where
        content = (prompt_text(pair.prompt), frozenset((pair.response_a, pair.response_b)))
        choice = pair.chosen if pair.preference is not None else None
        if content in preferred:
            other = "" if preferred[content] == choice else " with another preference"
            report.drop(f"a pair that stands already{other}", where)
            continue
        preferred[content] = choice
        pairs.append(pair)
    if not pairs:
        raise UserError(f"{source}: no usable pair in it ({report.read} rows read)")
    report.kept = len(pairs)
    return PreferenceData(tuple(pairs), report)


def _files(path: Path) -> list[Path]:
    if path.is_dir():
        files = sorted(f for f in path.iterdir() if _kind(f))
        if not files:
            raise UserError(f"{path}: no .jsonl, .json or .parquet file in this folder")
        return files
    if not path.exists():
        raise UserError(f"{path}: no such file (data.path){looked_in(path)}")
    if not _kind(path):
        raise UserError(f"{path}: unknown kind of file; use .jsonl, .json or .parquet")
    return [path]


def _kind(path: Path) -> str:
    suffixes = [s for s in path.suffixes if s != ".gz"]
    kind = suffixes[-1] if suffixes else ""
    return kind if kind in (".jsonl", ".json", ".parquet") else ""


def file_rows(path: Path) -> Iterator[tuple[str, Any]]:
    """Yield ``(place, object)`` for each row of a ``.jsonl``, ``.json`` or ``.parquet`` file."""
    kind = _kind(path)
    if not path.is_file():
        raise UserError(f"{path}: no such file")
    if not kind:
        raise UserError(f"{path}: unknown kind of file; use .jsonl, .json or .parquet")
    if kind == ".jsonl":
        return json_rows(path)
    return _parquet_rows(path) if kind == ".parquet" else _json_array(path)


def _text(path: Path) -> str:
    try:
        raw = path.read_bytes()
        text = (gzip.decompress(raw) if path.suffix == ".gz" else raw).decode("utf-8-sig")
    except (OSError, EOFError, zlib.error, UnicodeDecodeError) as error:
        raise UserError(f"{path}: cannot read it: {error}") from error
    if not text.strip():
        raise UserError(f"{path}: the file is empty")
    return text


def json_rows(path: Path) -> Iterator[tuple[str, Any]]:
    """Yield ``(place, object)`` for each line of a JSONL file; empty lines are passed over."""
    # JSON strings may hold U+2028 and friends, at which str.splitlines would cut.
    for number, line in enumerate(_text(path).split("\n"), 1):
        if not line.strip():
            continue
        where = f"{path.name}:{number}"
        try:
            yield where, json.loads(line)
        except json.JSONDecodeError as error:
            raise UserError(f"{path}:{number}: not JSON: {error.msg}") from error


def _json_array(path: Path) -> Iterator[tuple[str, Any]]:
    try:
        rows = json.loads(_text(path))
    except json.JSONDecodeError as error:
        raise UserError(f"{path}:{error.lineno}: not JSON: {error.msg}") from error
    if not isinstance(rows, list):
        raise UserError(f"{path}: expected a JSON list of objects")
    for number, row in enumerate(rows, 1):
        yield f"{path.name}[{number}]", row


def _parquet_rows(path: Path) -> Iterator[tuple[str, Any]]:
    import pyarrow
    import pyarrow.parquet

    try:
        table = pyarrow.parquet.ParquetFile(path)
    except (OSError, pyarrow.ArrowException) as error:
        raise UserError(f"{path}: not a Parquet file: {error}") from error
    number = 0
    for batch in table.iter_batches():
        for row in batch.to_pylist():
            number += 1
            yield f"{path.name}[{number}]", row
