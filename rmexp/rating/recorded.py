"""The recorded rater: ratings made elsewhere, read from a file.

Each row of a ``.jsonl``, ``.json`` or ``.parquet`` file is one of

* ``prompt``, ``response`` and ``psi``: a list with one score per rule, in the order of the rule
  set (the shape of published 100-score columns; ``scores`` and ``ratings`` are read likewise), or
  an object from rule id to score;
* ``prompt``, ``response_a``, ``response_b``, ``psi_a``, ``psi_b``: the same for both of a pair;
* ``prompt``, ``response``, ``rule``, ``psi``: one score a row.

Scores lie in [-1, 1]; null and NaN mean "not rated". An optional ``relevance`` (``relevance_a``,
``relevance_b``) of the same shape lies in [0, 1].
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rmexp.errors import UserError
from rmexp.fingerprint import Fingerprint, file_sha256, fingerprint
from rmexp.preferences.read import file_rows
from rmexp.preferences.rows import read_prompt
from rmexp.rating.rater import Embedder, Item, RatedBatch, only_wanted
from rmexp.rating.store_records import item_key
from rmexp.rules import Rule, RuleSet

_SCORE_NAMES = ("psi", "scores", "ratings")
_SIDES = (("response", ""), ("response_a", "_a"), ("response_b", "_b"))


class RecordedRater:
    """Gives back the ratings of a file; what the file lacks cannot be rated.

    Args:
        path: the file.
        rules: the rule set whose order the file's lists follow, and whose ids it names.
        embedder: gives relevance where the file has none.

    Raises:
        UserError: naming file and place of a row that cannot be read.
    """

    def __init__(self, path: Path | str, rules: RuleSet, embedder: Embedder | None = None):
        path = Path(path)
        self.embedder = embedder
        self._columns = {rule.fingerprint.hexdigest: i for i, rule in enumerate(rules)}
        self._rows: dict[bytes, int] = {}
        self._has_relevance = False
        psi: list[NDArray[np.float32]] = []
        relevance: list[NDArray[np.float32]] = []
        rows = file_rows(path)
        self.fingerprint: Fingerprint = fingerprint(
            "recorded", file=file_sha256(path), rules=rules.fingerprint
        )
        reader = _RowReader(rules)
        for where, row in rows:
            for item, scores, of_relevance in reader.read(row, where):
                place = self._rows.setdefault(item_key(self.fingerprint, item), len(psi))
                if place == len(psi):
                    psi.append(np.full(len(rules), np.nan, np.float32))
                    relevance.append(np.full(len(rules), np.nan, np.float32))
                _merge(psi[place], scores)
                if of_relevance is not None:
                    self._has_relevance = True
                    _merge(relevance[place], of_relevance)
        if not psi:
            raise UserError(f"{path}: holds no ratings")
        self._psi, self._relevance = np.stack(psi), np.stack(relevance)

    def rate(
        self,
        items: Sequence[Item],
        rules: Sequence[Rule],
        wanted: NDArray[np.bool_] | None = None,
    ) -> RatedBatch:
        """Look items and rules up; see :class:`rmexp.rating.rater.Rater`."""
        psi = np.full((len(items), len(rules)), np.nan, np.float32)
        relevance = psi.copy()
        places = [self._rows.get(item_key(self.fingerprint, item), -1) for item in items]
        columns = [self._columns.get(rule.fingerprint.hexdigest, -1) for rule in rules]
        rows = [i for i, place in enumerate(places) if place >= 0]
        known = [j for j, column in enumerate(columns) if column >= 0]
        source = np.ix_([places[i] for i in rows], [columns[j] for j in known])
        psi[np.ix_(rows, known)] = self._psi[source]
        relevance[np.ix_(rows, known)] = self._relevance[source]
        return RatedBatch(
            only_wanted(psi, wanted),
            only_wanted(relevance, wanted) if self._has_relevance else None,
        )


class _RowReader:
    """Reads scores out of rows; one rule set."""

    def __init__(self, rules: RuleSet):
        self._place = {rule_id: i for i, rule_id in enumerate(rules.ids)}
        self._name = rules.name

    def read(
        self, row: Any, where: str
    ) -> Iterator[tuple[Item, NDArray[np.float32], NDArray[np.float32] | None]]:
        if not isinstance(row, Mapping):
            raise UserError(f"{where}: expected an object, got {type(row).__name__}")
        if row.get("prompt") is None:
            raise UserError(f"{where}: missing field 'prompt'")
        prompt = read_prompt(row["prompt"], where)
        found = False
        for field, side in _SIDES:
            response = row.get(field)
            if response is None:
                continue
            if not isinstance(response, str):
                raise UserError(f"{where}: '{field}' must be a text")
            found = True
            name = next((n + side for n in _SCORE_NAMES if row.get(n + side) is not None), None)
            if name is None:
                raise UserError(f"{where}: missing field 'psi{side}'")
            scores = self._scores(row[name], row, f"{where}: '{name}'", -1.0)
            relevance = row.get("relevance" + side)
            yield (
                Item(prompt, response),
                scores,
                None
                if relevance is None
                else self._scores(relevance, row, f"{where}: 'relevance{side}'", 0.0),
            )
        if not found:
            raise UserError(f"{where}: missing field 'response'")

    def _scores(
        self, value: Any, row: Mapping[str, Any], what: str, least: float
    ) -> NDArray[np.float32]:
        scores = np.full(len(self._place), np.nan, np.float32)
        if isinstance(value, Mapping):
            # Parquet gives every row of a struct all of its fields, null where absent.
            for rule_id, score in value.items():
                if score is not None:
                    scores[self._column(rule_id, what)] = _number(score, what)
        elif isinstance(value, Sequence) and not isinstance(value, str):
            if len(value) != len(self._place):
                raise UserError(
                    f"{what} has {len(value)} scores, rule set '{self._name}' has "
                    f"{len(self._place)} rules"
                )
            scores[:] = [np.nan if v is None else _number(v, what) for v in value]
        elif row.get("rule") is None:
            raise UserError(f"{what} is one number: the row needs a field 'rule' (a rule id)")
        else:
            scores[self._column(row["rule"], what)] = _number(value, what)
        known = scores[~np.isnan(scores)]
        if (known < least).any() or (known > 1).any():
            raise UserError(f"{what} holds a score outside [{least:g}, 1]")
        return scores

    def _column(self, rule_id: Any, what: str) -> int:
        if rule_id not in self._place:
            raise UserError(f"{what}: no rule '{rule_id}' in rule set '{self._name}'")
        return self._place[rule_id]


def _number(value: Any, what: str) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise UserError(f"{what} must hold numbers, got {value!r}")
    return float(value)


def _merge(into: NDArray[np.float32], scores: NDArray[np.float32]) -> None:
    known = ~np.isnan(scores)
    into[known] = scores[known]
