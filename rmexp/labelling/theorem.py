"""The theorem, simulated: rules of larger discrepancy tell more about the hidden preference."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from rmexp.labelling.critical import critical_rules
from rmexp.labelling.labels import preference_labels

Growth = Callable[[NDArray[np.float64]], NDArray[np.float64]]


@dataclass(frozen=True)
class Outcome:
    """How one selection did.

    Attributes:
        agreement: share of pairs whose label is the hidden truth; a tie counts as half.
        information: mutual information of label (A, B or tie) and truth in bits, plug-in estimate.
    """

    agreement: float
    information: float


def linear_growth(d: NDArray[np.float64]) -> NDArray[np.float64]:
    """``g(d) = 1/2 + d/4``: a coin at no discrepancy, right three times in four at the full one."""
    return 0.5 + d / 4


def information_of_agreement(agreement: ArrayLike) -> NDArray[np.float64]:
    """``1 - H2(g)`` in bits: what a label that is right with probability g tells of a fair truth.

    >>> information_of_agreement([0.5, 1.0]).tolist()
    [0.0, 1.0]
    """
    g = np.asarray(agreement, dtype=np.float64)
    entropy = np.zeros_like(g)
    for p in (g, 1 - g):
        entropy -= p * np.log2(p, where=p > 0, out=np.zeros_like(p))
    return 1 - entropy


def mutual_information(label: ArrayLike, truth: ArrayLike) -> float:
    """Plug-in mutual information of two discrete variables ``[n]``, in bits."""
    _, rows = np.unique(np.asarray(label), return_inverse=True)
    _, columns = np.unique(np.asarray(truth), return_inverse=True)
    joint = np.zeros((rows.max() + 1, columns.max() + 1))
    np.add.at(joint, (rows, columns), 1 / len(rows))
    independent = joint.sum(axis=1, keepdims=True) * joint.sum(axis=0, keepdims=True)
    seen = joint > 0
    return float((joint[seen] * np.log2(joint[seen] / independent[seen])).sum())


def simulate(
    *,
    pairs: int = 20_000,
    rules: int = 100,
    r: int = 5,
    growth: Growth = linear_growth,
    seed: int = 0,
) -> dict[str, Outcome]:
    """Simulate the theorem's setting (method, section 6) with the room's own functions.

    Each pair has a hidden truth, A or B with equal chance. Rule i has a discrepancy d_i, uniform
    in [0, 1], and speaks for the truth with probability ``growth(d_i)``, independently.

    Args:
        pairs: number of pairs.
        rules: number of rules.
        r: critical rules per pair.
        growth: g, increasing, with ``g(0) = 1/2``.
        seed: of the draw.

    Returns:
        Outcomes of ``maximum`` (largest discrepancies), ``random`` and ``minimum`` (smallest), all
        with r rules, and of ``all``. The theorem compares sets of r rules: with rules that err
        independently, as here, ``all`` has more evidence and may do better, at ``rules / r`` times
        the ratings.
    """
    rng = np.random.default_rng(seed)
    truth = rng.integers(0, 2, pairs)
    d = rng.random((pairs, rules))
    right = rng.random((pairs, rules)) < growth(d)
    psi_a = np.where(right == (truth == 1)[:, None], d, -d)
    selections = {
        "maximum": critical_rules(psi_a, -psi_a, None, r, 0.0),
        "random": critical_rules(psi_a, -psi_a, rng.random((pairs, rules)), r, np.inf),
        "minimum": critical_rules(psi_a, -psi_a, 1 - d, r, np.inf),
        "all": np.tile(np.arange(rules), (pairs, 1)),
    }
    outcomes = {}
    for name, critical in selections.items():
        label = preference_labels(psi_a, -psi_a, critical).preferred
        agreement = np.where(label < 0, 0.5, label == truth).mean()
        outcomes[name] = Outcome(float(agreement), mutual_information(label, truth))
    return outcomes
