"""Critical rules: the r rules that tell two responses apart and concern the prompt."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import ArrayLike, NDArray

# Rows at a time: a chunk of 100 float32 rules stays within a processor's cache.
_CHUNK_ROWS = 2048
# Up to here, r passes of argmax are faster than one stable sort of all rules.
_MOST_PASSES = 24

Floats = NDArray[np.floating]


def discrepancy(psi_a: ArrayLike, psi_b: ArrayLike) -> Floats:
    """How far the two responses' ratings lie apart (method, section 2).

    Args:
        psi_a: ratings of response A in [-1, 1], any shape; NaN where not rated.
        psi_b: the same of response B.

    Returns:
        ``|psi_a - psi_b| / 2`` in [0, 1]; NaN where either is not rated.

    >>> discrepancy([1.0, 0.5], [-1.0, 0.5]).tolist()
    [1.0, 0.0]
    """
    return np.abs(np.subtract(psi_a, psi_b)) / 2


def critical_rules(
    psi_a: ArrayLike,
    psi_b: ArrayLike,
    relevance: ArrayLike | None,
    r: int,
    gamma: float,
) -> NDArray[np.int64]:
    """Choose the r rules with the largest ``d_i + gamma * rho_i`` (method, section 4).

    Equal scores go to the lower index. Scores have the precision of the inputs. A rule without a
    rating on either side (NaN), or without a relevance where relevance counts, is never critical.

    Args:
        psi_a: ratings of response A, ``[pairs, rules]`` in [-1, 1].
        psi_b: ratings of response B, ``[pairs, rules]``.
        relevance: ``[pairs, rules]``, or ``[rules]`` for all pairs, in [0, 1]. None is allowed
            with ``gamma=0`` only.
        r: critical rules per pair, 1 to the number of rules.
        gamma: weight of relevance, 0 or more; 0 is discrepancy alone, ``inf`` relevance alone.

    Returns:
        Rule indices ``[pairs, r]``, by descending score, then index.

    Raises:
        ValueError: r or gamma out of range, shapes that do not fit, or a pair with fewer than r
            rules that can be chosen (named by its row).

    >>> a, b = np.array([[0.2, 0.9, -0.8]]), np.array([[0.2, -0.9, 0.8]])
    >>> critical_rules(a, b, np.array([[0.5, 0.0, 0.1]]), r=2, gamma=1.0).tolist()
    [[1, 2]]
    """
    a, b = np.asarray(psi_a), np.asarray(psi_b)
    if a.ndim != 2 or a.shape != b.shape:
        raise ValueError(f"psi_a {a.shape} and psi_b {b.shape} must both be [pairs, rules]")
    pairs, rules = a.shape
    check_r_and_gamma(r, gamma, rules)
    rho = None
    if gamma != 0:
        if relevance is None:
            raise ValueError(f"gamma={gamma} needs a relevance: give one, or use gamma=0")
        rho = np.asarray(relevance)
        if rho.shape not in ((rules,), (pairs, rules)):
            raise ValueError(f"relevance {rho.shape} must be [rules] or [pairs, rules] {a.shape}")
        rho = np.broadcast_to(rho, a.shape)

    critical = np.empty((pairs, r), dtype=np.int64)
    for start in range(0, pairs, _CHUNK_ROWS):
        rows = slice(start, start + _CHUNK_ROWS)
        scores = _scores(a[rows], b[rows], None if rho is None else rho[rows], float(gamma))
        _exclude_unrated(scores, r, start)
        critical[rows] = _largest(scores, r)
    return critical


def check_r_and_gamma(r: int, gamma: float, rules: int) -> None:
    """ValueError unless ``1 <= r <= rules`` and ``gamma >= 0``."""
    if isinstance(r, bool) or not isinstance(r, (int, np.integer)) or not 1 <= r <= rules:
        raise ValueError(f"r={r}: use a whole number from 1 to the number of rules, {rules}")
    if not gamma >= 0:  # refuses NaN too
        raise ValueError(f"gamma={gamma}: use 0 or more, or inf for relevance alone")


def _scores(a: Floats, b: Floats, rho: Floats | None, gamma: float) -> Floats:
    """``d + gamma * rho`` of some rows; NaN where it cannot be known."""
    precision = np.result_type(a, b, np.float32, *([] if rho is None else [rho]))
    if math.isfinite(gamma) and gamma > float(np.finfo(precision).max) / 2:
        precision = np.dtype(np.float64)
    scores = np.subtract(a, b, dtype=precision)
    if rho is None or math.isfinite(gamma):
        np.abs(scores, out=scores)
        scores /= 2
        if rho is not None:
            scores += np.multiply(rho, gamma, dtype=precision)
        return scores
    return np.where(np.isnan(scores), scores, rho).astype(precision, copy=False)


def _exclude_unrated(scores: Floats, r: int, first_row: int) -> None:
    """Set NaN to -inf in place, so that no comparison ever picks it."""
    unrated = np.isnan(scores)
    if not unrated.any():
        return
    rated = scores.shape[1] - unrated.sum(axis=1)
    if (rated < r).any():
        row = int(np.argmax(rated < r))
        raise ValueError(
            f"row {first_row + row}: {rated[row]} of {scores.shape[1]} rules have a rating on "
            f"both sides and a relevance, {r} are needed"
        )
    scores[unrated] = -np.inf


def _largest(scores: Floats, r: int) -> NDArray[np.int64]:
    """Columns of the r largest scores of each row, ties to the lower column; spoils ``scores``."""
    if r > _MOST_PASSES:
        return np.argsort(-scores, axis=1, kind="stable")[:, :r]
    rows = np.arange(len(scores))
    chosen = np.empty((len(scores), r), dtype=np.int64)
    for place in range(r):
        chosen[:, place] = scores.argmax(axis=1)  # the first of equal ones
        scores[rows, chosen[:, place]] = -np.inf
    return chosen
