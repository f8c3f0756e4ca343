"""Which rules decide a pair: discrepancy, relevance, and the r largest of their weighted sum."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.floating]
# Pairs scored at a time: bounds the working memory without a cost in speed.
_CHUNK = 16_384


def discrepancy(psi_a: Array, psi_b: Array) -> NDArray[np.float64]:
    """How far the two responses differ under each rule: |psi_a - psi_b| / 2 (method, section 2).

    Args:
        psi_a: ratings of response A, ``[pairs, rules]`` in [-1, 1].
        psi_b: ratings of response B, ``[pairs, rules]`` in [-1, 1].

    Returns:
        ``[pairs, rules]`` in [0, 1].
    """
    a, b = np.asarray(psi_a, np.float64), np.asarray(psi_b, np.float64)
    return np.abs(a - b) / 2


def critical_rules(
    psi_a: Array, psi_b: Array, relevance: Array | None, r: int, gamma: float
) -> NDArray[np.int64]:
    """Choose the r critical rules of each pair (method, section 4).

    The r largest values of ``discrepancy + gamma * relevance``; equal values go to the lower
    index. gamma = 0 is discrepancy alone; gamma = inf is relevance alone. A rule that is not
    rated for a pair (NaN on either side) cannot be critical for it.

    Args:
        psi_a: ratings of response A, ``[pairs, rules]`` in [-1, 1], NaN where not rated.
        psi_b: ratings of response B, ``[pairs, rules]``.
        relevance: ``[pairs, rules]`` in [0, 1]; may be None with gamma = 0.
        r: critical rules per pair, 1 to the number of rules.
        gamma: weight of relevance, 0 or more.

    Returns:
        Rule indices ``[pairs, r]``, by falling score, equal scores by rising index.

    Raises:
        ValueError: for shapes that differ, r or gamma out of bounds, or a pair with fewer than r
            rated rules, naming it.

    >>> psi_a, psi_b = np.array([[1.0, 0.2, 0.5]]), np.array([[-1.0, 0.2, 0.1]])
    >>> critical_rules(psi_a, psi_b, np.array([[0.0, 1.0, 0.0]]), r=2, gamma=0.5)
    array([[0, 1]])
    """
    a, b = np.asarray(psi_a), np.asarray(psi_b)
    _check(a, b, relevance, r, gamma)
    pairs, rules = a.shape
    chosen = np.empty((pairs, r), np.int64)
    for start in range(0, pairs, _CHUNK):
        rows = slice(start, start + _CHUNK)
        rho = None if relevance is None else np.asarray(relevance)[rows]
        score = _score(a[rows], b[rows], rho, gamma)
        unrated = np.isnan(score)
        if unrated.any():
            short = np.flatnonzero((~unrated).sum(1) < r)
            if short.size:
                row = int(short[0])
                raise ValueError(
                    f"pair {start + row}: {int((~unrated[row]).sum())} rules are rated, "
                    f"{r} are needed"
                )
            score = np.where(unrated, -np.inf, score)
        chosen[rows] = _largest(score, r)
    return chosen


def _check(a: Array, b: Array, relevance: Array | None, r: int, gamma: float) -> None:
    if a.ndim != 2 or a.shape != b.shape:
        raise ValueError(f"psi_a {a.shape} and psi_b {b.shape} must both be [pairs, rules]")
    if relevance is not None and np.shape(relevance) != a.shape:
        raise ValueError(f"relevance {np.shape(relevance)} must be [pairs, rules] {a.shape}")
    if math.isnan(gamma) or gamma < 0:
        raise ValueError(f"gamma must be 0 or more, got {gamma}")
    if relevance is None and gamma > 0:
        raise ValueError(f"gamma {gamma} needs relevance")
    if not 1 <= r <= a.shape[1]:
        raise ValueError(f"r must be 1 to {a.shape[1]} (the number of rules), got {r}")


def _score(a: Array, b: Array, rho: Array | None, gamma: float) -> NDArray[np.float64]:
    d = discrepancy(a, b)
    if rho is None or gamma == 0:
        return d
    if math.isinf(gamma):
        # NaN ratings must stay NaN: an unrated rule has no say, however relevant.
        return np.where(np.isnan(d), np.nan, np.asarray(rho, np.float64))
    return d + gamma * np.asarray(rho, np.float64)


def _largest(score: NDArray[np.float64], r: int) -> NDArray[np.int64]:
    """Column indices of the r largest of each row, equal values by rising index."""
    rules = score.shape[1]
    if r == rules:
        return np.argsort(-score, axis=1, kind="stable")
    # Everything above the r-th largest value is in; what equals it fills up from the left.
    threshold = np.partition(score, rules - r, axis=1)[:, rules - r, None]
    above = score > threshold
    equal = score == threshold
    free = r - above.sum(1, keepdims=True)
    taken = above | (equal & (np.cumsum(equal, axis=1) <= free))
    columns = np.nonzero(taken)[1].reshape(-1, r)
    order = np.argsort(-np.take_along_axis(score, columns, 1), axis=1, kind="stable")
    return np.take_along_axis(columns, order, 1)
