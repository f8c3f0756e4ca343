"""Which metrics a set can have, known before its rows are there."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from rmexp.evaluation.rewardbench import PRIOR_SETS, SECTIONS, RewardBenchRow
from rmexp.evaluation.rewardbench2 import SUBSETS, TIES, RewardBench2Row
from rmexp.evaluation.sets import EvaluationSet, evaluate_set
from rmexp.evaluation.style import style_tags
from rmexp.preferences.pair import Pair, Prompt, prompt_from_text

# Chosen and rejected: the longer, the shorter, and one of two equally long.
_TEXTS = (("yes, yes", "no"), ("yes", "no, no"), ("yes", "and"))
_STYLES = (((1, "rich"), (0, "plain")), ((0, "plain"), (1, "rich")), ((0, "plain"), (0, "plain")))
_PROMPT = prompt_from_text("Is it so?")


class AnyScores:
    """Stands in for a model: which metrics a set has does not depend on the scores."""

    def score(self, prompts: Sequence[Prompt], responses: Sequence[str]) -> np.ndarray:
        """Scores that differ."""
        return np.modf(np.arange(len(responses)) * 0.618)[0]


def metric_names(of: EvaluationSet) -> set[str]:
    """Of the metrics of a set."""
    return set(evaluate_set(AnyScores(), of).metrics)


def possible_metric_names(kind: str, *, prior: bool = False) -> set[str]:
    """Of every metric that a set of a kind can have; some of its rows may be missing.

    Sets of pairs have ``category/NAME`` and ``kind/NAME`` as well, by the names in their rows.

    Args:
        kind: of :class:`~rmexp.evaluation.sets.EvaluationSet`.
        prior: whether RewardBench 1 comes with the prior sets.
    """
    rows: list[Any]
    if kind in ("rewardbench", "prior_sets"):
        subsets = [s for section in SECTIONS.values() for s in section if kind == "rewardbench"]
        subsets += PRIOR_SETS if prior or kind == "prior_sets" else ()
        rows = [RewardBenchRow(s, _PROMPT, *texts, s) for s in subsets for texts in _TEXTS]
    elif kind == "rewardbench2":
        ids = {s: ("ref:1", "tied:1") if s == TIES else (s,) for s in SUBSETS}
        rows = [
            RewardBench2Row(name, _PROMPT, ("yes",), ("no", "no, no", "and"), 1, s)
            for s, names in ids.items()
            for name in names
        ]
    else:
        kind = "pairs"
        rows = [
            Pair("", _PROMPT, *texts, "a", tags=style_tags(*styles), refusal=refusal)
            for texts, styles in zip(_TEXTS, _STYLES, strict=True)
            for refusal in ("a", "b")
        ]
    return metric_names(EvaluationSet(kind, "", "", tuple(rows)))
