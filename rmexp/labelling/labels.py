"""Labels: which response the critical rules prefer, and how clearly."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
from numpy.typing import ArrayLike, NDArray

TiePolicy = Literal["drop", "a", "b", "half"]


@dataclass(frozen=True)
class Labels:
    """One label per pair.

    Attributes:
        preferred: int8 ``[pairs]``: 1 for A, 0 for B, -1 for neither (a tie that was dropped or
            kept as a half).
        margin: float64 ``[pairs]`` in [-1, 1], ``(R_S(A) - R_S(B)) / (2 r)``; 0 for a tie.
        target: float64 ``[pairs]``: probability that the preferred response is the better one: 1,
            or 0.5 for a tie kept as a half (in either order), NaN for a dropped one.
        tied: bool ``[pairs]``: the two signed sums are equal.
        contradictory: bool ``[pairs]``: some critical rules speak for A and others for B.
    """

    preferred: NDArray[np.int8]
    margin: NDArray[np.float64]
    target: NDArray[np.float64]
    tied: NDArray[np.bool_]
    contradictory: NDArray[np.bool_]

    def __len__(self) -> int:
        return len(self.preferred)

    @property
    def kept(self) -> NDArray[np.bool_]:
        """bool ``[pairs]``: the pairs to train on."""
        return ~np.isnan(self.target)

    @property
    def ties(self) -> int:
        """Number of pairs whose signed sums are equal."""
        return int(self.tied.sum())

    @property
    def share_contradictory(self) -> float:
        """Share of all pairs whose critical rules contradict each other; 0 without pairs."""
        return float(self.contradictory.mean()) if len(self) else 0.0


def preference_labels(
    psi_a: ArrayLike, psi_b: ArrayLike, critical: ArrayLike, tie: TiePolicy = "drop"
) -> Labels:
    """Label each pair by the signed sum of its critical rules (method, section 5).

    A is preferred iff ``R_S(A) > R_S(B)``, with ``R_S(y)`` the sum of ``psi_i(x, y)`` over the
    critical rules. Sums that differ by no more than the rounding of the ratings are a tie.

    Args:
        psi_a: ratings of response A, ``[pairs, rules]``; only critical rules are looked at.
        psi_b: ratings of response B, ``[pairs, rules]``.
        critical: rule indices, int ``[pairs, r]``.
        tie: ``drop`` leaves the pair out, ``a`` and ``b`` give it to that side (the authors' code
            gives it to B), ``half`` keeps it with target 0.5.

    Raises:
        ValueError: shapes or indices that do not fit, an unknown tie policy, or a critical rule
            without a rating, named by row and rule.

    >>> psi_a, psi_b = np.array([[0.5, -0.25]]), np.array([[-0.5, 0.25]])
    >>> labels = preference_labels(psi_a, psi_b, [[0, 1]])
    >>> labels.preferred.tolist(), labels.margin.tolist(), labels.contradictory.tolist()
    ([1], [0.125], [True])
    """
    a, b, chosen = np.asarray(psi_a), np.asarray(psi_b), np.asarray(critical)
    if tie not in get_args(TiePolicy):
        raise ValueError(f"tie={tie!r}: use one of {', '.join(get_args(TiePolicy))}")
    if a.ndim != 2 or a.shape != b.shape:
        raise ValueError(f"psi_a {a.shape} and psi_b {b.shape} must both be [pairs, rules]")
    if chosen.ndim != 2 or len(chosen) != len(a) or chosen.shape[1] == 0:
        raise ValueError(f"critical {chosen.shape} must be [pairs, r] for {len(a)} pairs")
    if chosen.size and not 0 <= chosen.min() <= chosen.max() < a.shape[1]:
        raise ValueError(f"critical holds an index outside 0 to {a.shape[1] - 1}")

    difference = np.subtract(
        np.take_along_axis(a, chosen, axis=1),
        np.take_along_axis(b, chosen, axis=1),
        dtype=np.float64,
    )
    if np.isnan(difference).any():
        row, place = np.argwhere(np.isnan(difference))[0]
        raise ValueError(f"row {row}: critical rule {chosen[row, place]} has no rating")
    r = chosen.shape[1]
    total = difference.sum(axis=1)
    precision = np.result_type(a, b, np.float32)
    tied = np.abs(total) <= r * float(np.finfo(precision).eps)
    total[tied] = 0.0

    preferred = (total > 0).astype(np.int8)
    preferred[tied] = {"drop": -1, "half": -1, "a": 1, "b": 0}[tie]
    target = np.ones(len(a))
    target[tied] = {"drop": np.nan, "half": 0.5, "a": 1.0, "b": 1.0}[tie]
    contradictory = (difference > 0).any(axis=1) & (difference < 0).any(axis=1)
    return Labels(preferred, total / (2 * r), target, tied, contradictory)
