"""Labelled responses: what raters are checked against, and probes are taught with."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from rmexp.errors import UserError
from rmexp.preferences.read import file_rows
from rmexp.preferences.rows import read_prompt
from rmexp.rating.rater import Item
from rmexp.rules import Rule, RuleSet


@dataclass(frozen=True)
class LabelledResponses:
    """Responses that people have judged by some rules.

    Attributes:
        items: the responses with their prompts.
        rules: the rules that at least one response is labelled with, in the rule set's order.
        labels: float32 ``[items, rules]``, 1 follows, 0 breaks, NaN unknown.
    """

    items: tuple[Item, ...]
    rules: tuple[Rule, ...]
    labels: NDArray[np.float32]


def read_labelled(path: Path | str, rules: RuleSet) -> LabelledResponses:
    """Read rows of ``prompt``, ``response`` and ``labels``: an object from rule id to true/false.

    Args:
        path: ``.jsonl``, ``.json`` or ``.parquet``.
        rules: where the rule ids are looked up.

    Raises:
        UserError: naming file and place of what cannot be read.
    """
    path = Path(path)
    place = {rule_id: i for i, rule_id in enumerate(rules.ids)}
    items: list[Item] = []
    rows: list[NDArray[np.float32]] = []
    for where, row in file_rows(path):
        if not isinstance(row, Mapping):
            raise UserError(f"{where}: expected an object, got {type(row).__name__}")
        for field in ("prompt", "response", "labels"):
            if row.get(field) is None:
                raise UserError(f"{where}: missing field '{field}'")
        if not isinstance(row["response"], str) or not isinstance(row["labels"], Mapping):
            raise UserError(f"{where}: 'response' must be a text and 'labels' an object")
        labels = np.full(len(rules), np.nan, np.float32)
        for rule_id, label in row["labels"].items():
            if rule_id not in place:
                raise UserError(f"{where}: 'labels' names no rule of '{rules.name}': '{rule_id}'")
            if label is None:
                continue
            if label not in (True, False):
                raise UserError(f"{where}: the label of '{rule_id}' must be true or false")
            labels[place[rule_id]] = float(label)
        items.append(Item(read_prompt(row["prompt"], where), row["response"]))
        rows.append(labels)
    if not rows:
        raise UserError(f"{path}: holds no labelled responses")
    table = np.stack(rows)
    used = np.flatnonzero(~np.isnan(table).all(axis=0))
    if not len(used):
        raise UserError(f"{path}: no response has a label")
    return LabelledResponses(
        tuple(items), tuple(rules.rules[i] for i in used), np.ascontiguousarray(table[:, used])
    )
