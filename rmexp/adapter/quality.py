"""How well rules chosen before rating stand in for the critical rules of full ratings."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from rmexp.labelling.critical import critical_rules
from rmexp.labelling.labels import TiePolicy, preference_labels
from rmexp.rating.pairs import PairRatings

ADAPTER, FREQUENT, RELEVANCE = "adapter", "most frequent rules", "relevance only"


def selection_quality(
    chosen: NDArray[np.int64],
    critical: NDArray[np.int64],
    ratings: PairRatings,
    tie: TiePolicy = "drop",
) -> dict[str, NDArray[np.float64]]:
    """Compare chosen rules with the critical rules, pair by pair (method, section 7).

    Args:
        chosen: rule indices ``[pairs, r]`` of what is judged.
        critical: rule indices ``[pairs, r]`` of :func:`critical_rules` on full ratings.
        ratings: of all rules.
        tie: as labels are made.

    Returns:
        float64 ``[pairs]`` each: ``precision`` (share of chosen rules that are critical),
        ``jaccard``, ``top_recall`` (the most critical rule was chosen), ``label_agreement`` (the
        label is that of the critical rules, NaN where those tie; a tie of the chosen rules
        disagrees).

    >>> ratings = PairRatings(np.array([[1., -1, 0]]), np.zeros((1, 3)), np.ones((1, 3)), 0, 0)
    >>> found = selection_quality(np.array([[0, 2]]), np.array([[0, 1]]), ratings)
    >>> found["precision"].tolist(), found["jaccard"].round(2).tolist()
    ([0.5], [0.33])
    """
    common = (chosen[:, :, None] == critical[:, None, :]).any(axis=2).sum(axis=1)
    union = chosen.shape[1] + critical.shape[1] - common
    wanted = preference_labels(ratings.psi_a, ratings.psi_b, critical, tie).preferred
    given = preference_labels(ratings.psi_a, ratings.psi_b, chosen, tie).preferred
    return {
        "precision": common / chosen.shape[1],
        "jaccard": common / union,
        "top_recall": (chosen == critical[:, :1]).any(axis=1).astype(np.float64),
        "label_agreement": np.where(wanted >= 0, (given == wanted).astype(np.float64), np.nan),
    }


def baselines(
    frequency: Sequence[float], ratings: PairRatings, r: int
) -> dict[str, NDArray[np.int64]]:
    """Choices that need neither an adapter nor ratings: rule indices ``[pairs, r]`` by name.

    Args:
        frequency: ``[rules]``, how often each rule was critical in training.
        ratings: for the relevance only, and the number of pairs.
        r: rules per pair.
    """
    pairs = len(ratings.psi_a)
    frequent = np.argsort(-np.asarray(frequency), kind="stable")[:r]
    nothing = np.zeros_like(ratings.relevance)
    return {
        FREQUENT: np.tile(frequent, (pairs, 1)),
        RELEVANCE: critical_rules(nothing, nothing, ratings.relevance, r, float("inf")),
    }
