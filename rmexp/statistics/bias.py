"""What an accuracy hides: the pull of length."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class LengthBias:
    """How far length explains the scores.

    Attributes:
        accuracy_longer: accuracy where the preferred response is the longer; NaN without any.
        accuracy_shorter: where it is the shorter.
        accuracy_matched: where the lengths are within ``matched_within`` of each other.
        correlation: Spearman's rank correlation of score and length over all responses.
        longer, shorter, matched: number of pairs of each kind.
    """

    accuracy_longer: float
    accuracy_shorter: float
    accuracy_matched: float
    correlation: float
    longer: int
    shorter: int
    matched: int


def length_bias(
    chosen_scores: NDArray[np.floating],
    rejected_scores: NDArray[np.floating],
    chosen_lengths: NDArray[np.integer | np.floating],
    rejected_lengths: NDArray[np.integer | np.floating],
    *,
    matched_within: float = 0.1,
) -> LengthBias:
    """Split an accuracy by length.

    Args:
        chosen_scores: ``[pairs]``.
        rejected_scores: ``[pairs]``.
        chosen_lengths: ``[pairs]``, in characters or tokens.
        rejected_lengths: ``[pairs]``.
        matched_within: pairs whose lengths differ by at most this share of the longer are matched.
    """
    correct = np.asarray(chosen_scores) > np.asarray(rejected_scores)
    a, b = np.asarray(chosen_lengths, np.float64), np.asarray(rejected_lengths, np.float64)
    matched = np.abs(a - b) <= matched_within * np.maximum(a, b)
    scores = np.concatenate([chosen_scores, rejected_scores])
    return LengthBias(
        accuracy_longer=_mean(correct[a > b]),
        accuracy_shorter=_mean(correct[a < b]),
        accuracy_matched=_mean(correct[matched]),
        correlation=rank_correlation(scores, np.concatenate([a, b])),
        longer=int((a > b).sum()),
        shorter=int((a < b).sum()),
        matched=int(matched.sum()),
    )


def rank_correlation(x: NDArray[np.floating], y: NDArray[np.floating]) -> float:
    """Spearman's rank correlation with average ranks for ties; NaN where one is constant."""
    first, second = _ranks(np.asarray(x)), _ranks(np.asarray(y))
    first, second = first - first.mean(), second - second.mean()
    scale = float(np.sqrt((first**2).sum() * (second**2).sum()))
    return float((first * second).sum() / scale) if scale else float("nan")


def _ranks(values: NDArray[np.floating]) -> NDArray[np.float64]:
    _, place, count = np.unique(values, return_inverse=True, return_counts=True)
    last = np.cumsum(count)
    return ((last - count + last - 1) / 2)[place]


def _mean(values: NDArray[np.bool_]) -> float:
    return float(values.mean()) if values.size else float("nan")
