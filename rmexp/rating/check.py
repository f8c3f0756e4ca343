"""Checking a rater: do its ratings agree with labelled responses, rule by rule?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from rmexp.rating.rater import Item, Rater
from rmexp.rules import Rule

_BINS = 10


@dataclass(frozen=True)
class RuleCheck:
    """How far a rater can be trusted on one rule.

    Attributes:
        rule_id: the rule.
        positives: labelled responses that follow it and were rated.
        negatives: labelled responses that break it and were rated.
        unrated: labelled responses that the rater gave no rating.
        auc: probability that a following response is rated above a breaking one, ties counting
            half; NaN without both kinds.
        agreement: share of ratings whose sign is the label's; 0 counts half. NaN without ratings.
        base_rate: what always saying the commoner label would agree.
        calibration_error: expected calibration error of ``(psi + 1) / 2`` as a probability, over
            10 bins of equal width. NaN without ratings.
    """

    rule_id: str
    positives: int
    negatives: int
    unrated: int
    auc: float
    agreement: float
    base_rate: float
    calibration_error: float


def check_rater(
    rater: Rater, items: Sequence[Item], rules: Sequence[Rule], labels: ArrayLike
) -> list[RuleCheck]:
    """Compare a rater with labels.

    Args:
        rater: the rater.
        items: labelled responses.
        rules: the rules.
        labels: ``[items, rules]``, 1 where the response follows the rule, 0 where it breaks it,
            NaN where nobody said.

    Returns:
        One check per rule, in their order.

    Raises:
        ValueError: labels of another shape, or other than 0, 1 and NaN.
    """
    known = np.asarray(labels, np.float32)
    if known.shape != (len(items), len(rules)):
        raise ValueError(f"labels {known.shape} must be [items, rules] {len(items), len(rules)}")
    labelled = ~np.isnan(known)
    if not np.isin(known[labelled], (0, 1)).all():
        raise ValueError("labels must be 1, 0, or NaN where unknown")
    psi = rater.rate(items, rules, labelled).psi
    return [
        _check(rule.id, psi[labelled[:, j], j], known[labelled[:, j], j] == 1)
        for j, rule in enumerate(rules)
    ]


def mean_auc(checks: Sequence[RuleCheck]) -> float:
    """Mean AUC over the rules that have one."""
    return float(np.nanmean([check.auc for check in checks]))


def auc(scores: NDArray[np.floating], positive: NDArray[np.bool_]) -> float:
    """Area under the ROC curve, ties counting half; NaN without both kinds.

    >>> auc(np.array([0.1, 0.4, 0.35, 0.8]), np.array([False, False, True, True]))
    0.75
    """
    count = int(positive.sum())
    if count in (0, len(positive)):
        return float("nan")
    _, group, sizes = np.unique(scores, return_inverse=True, return_counts=True)
    # Mean rank (from 1) of each group of equal scores.
    ranks = (np.cumsum(sizes) - (sizes - 1) / 2)[group]
    above = ranks[positive].sum() - count * (count + 1) / 2
    return float(above / (count * (len(positive) - count)))


def probability_error(probability: NDArray[np.floating], positive: NDArray[np.bool_]) -> float:
    """Expected calibration error of probabilities in [0, 1], over 10 bins of equal width."""
    place = np.minimum((probability * _BINS).astype(np.int64), _BINS - 1)
    gaps = np.bincount(place, probability - positive, _BINS)
    return float(np.abs(gaps).sum() / len(positive))


def _check(rule_id: str, psi: NDArray[np.float32], follows: NDArray[np.bool_]) -> RuleCheck:
    rated = ~np.isnan(psi)
    unrated = int((~rated).sum())
    psi, follows = psi[rated], follows[rated]
    positives = int(follows.sum())
    negatives = len(follows) - positives
    if not len(psi):
        nan = float("nan")
        return RuleCheck(rule_id, 0, 0, unrated, nan, nan, nan, nan)
    sign = np.where(follows, 1, -1) * np.sign(psi)
    return RuleCheck(
        rule_id,
        positives,
        negatives,
        unrated,
        auc=auc(psi, follows),
        agreement=float((sign + 1).mean() / 2),
        base_rate=max(positives, negatives) / len(follows),
        calibration_error=probability_error((psi.astype(np.float64) + 1) / 2, follows),
    )
