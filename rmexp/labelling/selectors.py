"""Selectors: ways to choose the critical rules of a pair; adaptive is the method."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Protocol

import numpy as np
from numpy.typing import NDArray

from rmexp.fingerprint import Fingerprint, fingerprint
from rmexp.labelling.critical import check_r_and_gamma, critical_rules
from rmexp.preferences import Pair

_CHUNK_ROWS = 4096


@dataclass(frozen=True)
class SelectionContext:
    """What a selector may look at.

    Attributes:
        pairs: the pairs, in the order of the rows below.
        psi_a: ratings of response A, float ``[pairs, rules]``; None where selection comes before
            rating.
        psi_b: ratings of response B, likewise.
        relevance: float ``[pairs, rules]`` in [0, 1], or None where unknown.
    """

    pairs: Sequence[Pair]
    psi_a: NDArray[np.floating] | None = None
    psi_b: NDArray[np.floating] | None = None
    relevance: NDArray[np.floating] | None = None


class Selector(Protocol):
    """Chooses r critical rules for each pair."""

    @property
    def needs_ratings(self) -> bool:
        """Whether the context must hold ratings; otherwise only the chosen rules need rating."""

    @property
    def fingerprint(self) -> Fingerprint:
        """Identity of the choice: equal fingerprints choose equally on equal contexts."""

    def select(self, context: SelectionContext) -> NDArray[np.int64]:
        """Rule indices ``[pairs, r]``, no rule twice in a row."""


@dataclass(frozen=True)
class AdaptiveSelector:
    """The method: largest ``d_i + gamma * rho_i`` (method, section 4)."""

    r: int
    gamma: float
    needs_ratings: ClassVar[bool] = True

    def __post_init__(self) -> None:
        check_r_and_gamma(self.r, self.gamma, rules=max(self.r, 1))

    @property
    def fingerprint(self) -> Fingerprint:
        """By r and gamma."""
        gamma = float(self.gamma)
        return fingerprint(
            "selection", strategy="adaptive", r=self.r, gamma="inf" if math.isinf(gamma) else gamma
        )

    def select(self, context: SelectionContext) -> NDArray[np.int64]:
        """See :func:`rmexp.labelling.critical.critical_rules`."""
        if context.psi_a is None or context.psi_b is None:
            raise ValueError("adaptive selection needs the ratings of all rules: rate first")
        return critical_rules(context.psi_a, context.psi_b, context.relevance, self.r, self.gamma)


@dataclass(frozen=True)
class AllSelector:
    """Baseline: all rules of the set, for every pair."""

    rules: int
    needs_ratings: ClassVar[bool] = False

    def __post_init__(self) -> None:
        if self.rules < 1:
            raise ValueError(f"rules={self.rules}: a rule set has at least one rule")

    @property
    def fingerprint(self) -> Fingerprint:
        """By the number of rules."""
        return fingerprint("selection", strategy="all", rules=self.rules)

    def select(self, context: SelectionContext) -> NDArray[np.int64]:
        """``[pairs, rules]``, each row 0, 1, 2, ..."""
        return np.tile(np.arange(self.rules, dtype=np.int64), (len(context.pairs), 1))


@dataclass(frozen=True)
class FixedSelector:
    """Baseline: the same rules for every pair."""

    rules: tuple[int, ...]
    needs_ratings: ClassVar[bool] = False

    def __post_init__(self) -> None:
        if not self.rules or min(self.rules) < 0:
            raise ValueError(f"rules={self.rules}: name one rule index or more, none negative")
        if len(set(self.rules)) != len(self.rules):
            raise ValueError(f"rules={self.rules}: a rule is named twice")

    @property
    def fingerprint(self) -> Fingerprint:
        """By the rules' indices."""
        return fingerprint("selection", strategy="fixed", rules=self.rules)

    def select(self, context: SelectionContext) -> NDArray[np.int64]:
        """``[pairs, len(rules)]``, each row the rules as given."""
        return np.tile(np.array(self.rules, dtype=np.int64), (len(context.pairs), 1))


@dataclass(frozen=True)
class RandomSelector:
    """Baseline: r rules drawn for each pair.

    The draw hangs on the seed and the pair's id alone: not on the order of the pairs, nor on which
    others are there.
    """

    r: int
    rules: int
    seed: int = 0
    needs_ratings: ClassVar[bool] = False

    def __post_init__(self) -> None:
        check_r_and_gamma(self.r, 0.0, self.rules)

    @property
    def fingerprint(self) -> Fingerprint:
        """By r, the number of rules and the seed."""
        return fingerprint(
            "selection", strategy="random", r=self.r, rules=self.rules, seed=self.seed
        )

    def select(self, context: SelectionContext) -> NDArray[np.int64]:
        """``[pairs, r]`` in the order drawn."""
        chosen = np.empty((len(context.pairs), self.r), dtype=np.int64)
        for start in range(0, len(chosen), _CHUNK_ROWS):
            rows = slice(start, start + _CHUNK_ROWS)
            keys = np.array([self._key(pair.id) for pair in context.pairs[rows]], dtype=np.uint64)
            draws = _mixed(keys[:, None] + np.arange(1, self.rules + 1, dtype=np.uint64) * _STEP)
            chosen[rows] = np.argsort(draws, axis=1, kind="stable")[:, : self.r]
        return chosen

    def _key(self, pair_id: str) -> int:
        text = f"{self.seed}:{pair_id}".encode("utf-8", "surrogatepass")
        return int.from_bytes(hashlib.blake2b(text, digest_size=8).digest(), "little")


_STEP = np.uint64(0x9E3779B97F4A7C15)


def _mixed(values: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """The output function of SplitMix64 (Steele, Lea, Flood 2014).

    Used rather than a NumPy generator because its numbers hold over NumPy versions, and cost no
    generator per pair.
    """
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))
