"""From critical rules to a label with its margin."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

Tie = Literal["drop", "a", "b", "half"]
TIES: tuple[Tie, ...] = ("drop", "a", "b", "half")


@dataclass(frozen=True)
class Labels:
    """Rule-based labels of pairs (method, section 5).

    Attributes:
        preferred: int8 ``[pairs]``: 1 is A, 0 is B, -1 is dropped.
        margin: float64 ``[pairs]`` in [-1, 1], positive for A: (R(A) - R(B)) / (2 r).
        target: float64 ``[pairs]``, probability that A is preferred: 1, 0, or 1/2 for a tie under
            ``half``.
        tied: bool ``[pairs]``: the two sums are equal.
        contradictory: bool ``[pairs]``: critical rules point both ways.
    """

    preferred: NDArray[np.int8]
    margin: NDArray[np.float64]
    target: NDArray[np.float64]
    tied: NDArray[np.bool_]
    contradictory: NDArray[np.bool_]

    @property
    def kept(self) -> NDArray[np.bool_]:
        """The pairs that have a label."""
        return self.preferred >= 0

    @property
    def share_contradictory(self) -> float:
        """Share of all pairs whose critical rules contradict each other."""
        return float(self.contradictory.mean()) if self.contradictory.size else 0.0


def preference_labels(
    psi_a: NDArray[np.floating],
    psi_b: NDArray[np.floating],
    critical: NDArray[np.integer],
    tie: Tie = "drop",
) -> Labels:
    """Label each pair by the signed sum over its critical rules (method, section 5).

    A is preferred iff the sum of psi_a over the critical rules exceeds that of psi_b.

    Args:
        psi_a: ratings of response A, ``[pairs, rules]``.
        psi_b: ratings of response B, ``[pairs, rules]``.
        critical: rule indices ``[pairs, r]``.
        tie: what becomes of a pair with equal sums: ``drop``, ``a``, ``b``, or ``half`` (kept in
            its order, target 1/2).

    Raises:
        ValueError: for an unknown tie policy, or a critical rule that is not rated.
    """
    if tie not in TIES:
        raise ValueError(f"tie must be one of {', '.join(TIES)}, got {tie!r}")
    a = np.take_along_axis(np.asarray(psi_a), critical, 1).astype(np.float64)
    b = np.take_along_axis(np.asarray(psi_b), critical, 1).astype(np.float64)
    difference = a - b
    if np.isnan(difference).any():
        row = int(np.argwhere(np.isnan(difference))[0, 0])
        raise ValueError(f"pair {row}: a critical rule is not rated")
    # Summing the sides apart keeps an exact tie exact, whatever the order of the rules.
    total = np.sort(a, 1).sum(1) - np.sort(b, 1).sum(1)
    tied = total == 0
    preferred = np.where(total > 0, 1, 0).astype(np.int8)
    preferred[tied] = {"drop": -1, "a": 1, "b": 0, "half": 1}[tie]
    target = np.where(preferred == 1, 1.0, 0.0)
    if tie == "half":
        target[tied] = 0.5
    return Labels(
        preferred=preferred,
        margin=np.clip(total / (2 * critical.shape[1]), -1.0, 1.0),
        target=target,
        tied=tied,
        contradictory=(difference > 0).any(1) & (difference < 0).any(1),
    )
