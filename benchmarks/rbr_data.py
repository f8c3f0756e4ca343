"""The rbr data: responses with human labels of single propositions (never part of the project)."""

from __future__ import annotations

import gzip
import json
import os
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from rmexp.preferences import prompt_from_messages
from rmexp.rating import Item
from rmexp.rules import Rule
from rmexp.rules.load import load_rules

HERE = Path(__file__).parent


@dataclass(frozen=True)
class Propositions:
    """Responses and which propositions hold of them: bool ``labels[items, names]``."""

    items: list[Item]
    names: list[str]
    labels: NDArray[np.bool_]


def shared_data() -> Path:
    """The folder of real data; ends the benchmark where it is absent."""
    folder = Path(os.environ.get("RMEXP_SHARED_DATA", HERE.parent.parent / "shared" / "data"))
    if not folder.is_dir():
        sys.exit(f"no real data at {folder} (set RMEXP_SHARED_DATA)")
    return folder


def propositions(split: str) -> Propositions:
    """One split, ``train`` or ``test``."""
    with gzip.open(shared_data() / "rbr" / f"{split}.jsonl.gz", "rt", encoding="utf-8") as lines:
        rows = [json.loads(line) for line in lines]
    names = sorted(rows[0]["propositions"])
    items = [
        Item(prompt_from_messages(row["prompt"]), row["completion"][-1]["content"]) for row in rows
    ]
    labels = np.array([[row["propositions"][name] for name in names] for row in rows], np.bool_)
    return Propositions(items, names, labels)


def exemplar_rules() -> tuple[Rule, ...]:
    """The fixed list of propositions as rules, with examples of our own writing."""
    return load_rules(HERE / "rbr_rules.yaml")
