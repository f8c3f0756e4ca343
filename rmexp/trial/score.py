"""The command score: a file of responses gets a reward a row."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from pydantic import ConfigDict, Field, model_validator

from rmexp.errors import UserError
from rmexp.preferences.pair import Prompt
from rmexp.trial.evaluate import EvaluatedModelConfig, check_out, scorer
from rmexp.trial.section import Section

if TYPE_CHECKING:
    from rmexp.evaluation.scorer import Scorer

_SUFFIXES = (".parquet", ".jsonl")


class ScoreConfig(Section):
    """Which file is scored, and where the scores go."""

    # The key is ``in``, which is a word of Python's own.
    model_config = ConfigDict(populate_by_name=True)

    model: EvaluatedModelConfig
    source: str = Field(alias="in", description="a .jsonl, .json or .parquet file, perhaps .gz")
    out: str = Field(description="a .jsonl or .parquet file")
    cache_dir: str = Field("", description="converted models")

    @model_validator(mode="after")
    def _a_file_can_say_it(self) -> ScoreConfig:
        if Path(self.out).suffix not in _SUFFIXES:
            raise ValueError(f"out: use a file that ends in {' or '.join(_SUFFIXES)}")
        if Path(self.out).absolute() == Path(self.source).absolute():
            raise ValueError("out: is the file that is read; give another")
        return self

    @classmethod
    def defaults(cls) -> dict[str, Any]:
        """Every key that has a default."""
        model = EvaluatedModelConfig(path="").model_dump(mode="json")
        return {"model": {**model, "path": None}, "cache_dir": ""}


@dataclass(frozen=True)
class _Text:
    """A response to score: in which row it stands, under which name its score goes, where from."""

    row: int
    column: str
    where: str
    prompt: Prompt
    response: str


@dataclass(frozen=True)
class ScoredFile:
    """What the command found.

    Attributes:
        scores: all of them, in the order of the file: float64 ``[texts]``.
        how: as :func:`~rmexp.evaluation.scorer.how_scored` has it.
    """

    scores: NDArray[np.float64]
    how: dict[str, Any] | None


def score_file(
    config: ScoreConfig, advance: Callable[[int, int], None] | None = None
) -> ScoredFile:
    """Score the responses of a file and write its rows with their scores.

    Rows hold ``prompt`` and ``response``, or a pair (``response_a`` and ``response_b``, or
    ``chosen`` and ``rejected``); see :func:`rmexp.preferences.rows.responses_from_row`. A
    response's score stands in ``score``, a pair's in ``score_a`` and ``score_b``, or
    ``score_chosen`` and ``score_rejected``.

    Args:
        config: the model and the files.
        advance: called with (texts scored, texts to score).

    Raises:
        UserError: naming the line that cannot be used or has a NaN score; nothing is written.
    """
    check_out("out", config.out)
    rows, texts = _read(Path(config.source))
    model = scorer(config.model, config.cache_dir, advance)
    scores = _scores(model, texts)
    for text, score in zip(texts, scores, strict=True):
        rows[text.row][text.column] = float(score)
    write_rows(rows, Path(config.out))

    from rmexp.evaluation.scorer import how_scored

    return ScoredFile(scores, how_scored(model))


def _read(path: Path) -> tuple[list[dict[str, Any]], list[_Text]]:
    from rmexp.preferences.read import file_rows
    from rmexp.preferences.rows import RowError, responses_from_row

    rows: list[dict[str, Any]] = []
    texts: list[_Text] = []
    for where, row in file_rows(path):
        prompt, responses = responses_from_row(row, where)
        columns = {f"score_{n.removeprefix('response_')}": n for n in responses}
        if "response" in responses:
            columns = {"score": "response"}
        for column, name in columns.items():
            if column in row:
                raise RowError(where, f"there is a column '{column}' already")
            texts.append(_Text(len(rows), column, where, prompt, responses[name]))
        rows.append(dict(row))
    if not rows:
        raise UserError(f"{path}: no row in it")
    return rows, texts


def _scores(model: Scorer, texts: Sequence[_Text]) -> NDArray[np.float64]:
    from rmexp.reward.losses import NonFiniteError

    bad: Sequence[int]
    try:
        scores = model.score([t.prompt for t in texts], [t.response for t in texts])
        scores = np.asarray(scores, np.float64)
        if scores.shape != (len(texts),):
            raise UserError(f"model: it gave shape {scores.shape} for {len(texts)} texts")
        bad = np.flatnonzero(~np.isfinite(scores)).tolist()
    except NonFiniteError as error:
        bad = error.rows
    if bad:
        places = ", ".join(f"{texts[i].where} ({texts[i].column})" for i in bad[:5])
        raise UserError(
            f"{len(bad)} of {len(texts)} scores are NaN or infinite, at {places}; "
            "nothing is written"
        )
    return scores


def write_rows(rows: Sequence[dict[str, Any]], path: Path) -> None:
    """Write rows as JSONL or Parquet; the old file stays until the new one is whole.

    Raises:
        UserError: the file cannot be written, or a Parquet column would hold several types.
    """
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        if path.suffix == ".parquet":
            _write_parquet(rows, partial)
        else:
            with partial.open("w", encoding="utf-8") as stream:
                for row in rows:
                    stream.write(json.dumps(row, ensure_ascii=False, default=str) + "\n")
        os.replace(partial, path)
    except OSError as error:
        raise UserError(f"out: cannot write {path}: {error.strerror or error}") from error
    finally:
        partial.unlink(missing_ok=True)


def _write_parquet(rows: Sequence[dict[str, Any]], path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet

    names = dict.fromkeys(name for row in rows for name in row)
    columns = {}
    for name in names:
        try:
            columns[name] = pa.array([row.get(name) for row in rows])
        except pa.ArrowException as error:
            raise UserError(
                f"out: column '{name}' holds several types, which Parquet cannot; use .jsonl"
            ) from error
    pyarrow.parquet.write_table(pa.table(columns), path)
