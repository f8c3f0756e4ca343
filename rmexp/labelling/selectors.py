"""Strategies that choose critical rules: the method's own, and the baselines it is measured by."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Protocol

import numpy as np
from numpy.typing import NDArray

from rmexp.labelling.critical import critical_rules
from rmexp.preferences.pair import Pair


@dataclass(frozen=True)
class SelectionContext:
    """What a selector may look at.

    Attributes:
        pairs: ``[pairs]``.
        psi_a: ratings ``[pairs, rules]``; None where the selector precedes the rater.
        psi_b: likewise.
        relevance: ``[pairs, rules]``, or None.
    """

    pairs: Sequence[Pair]
    psi_a: NDArray[np.floating] | None = None
    psi_b: NDArray[np.floating] | None = None
    relevance: NDArray[np.floating] | None = None


class Selector(Protocol):
    """Chooses the critical rules of each pair."""

    @property
    def needs_ratings(self) -> bool:
        """False where it can choose before anything is rated."""

    def select(self, context: SelectionContext) -> NDArray[np.int64]:
        """Rule indices ``[pairs, r]``."""


@dataclass(frozen=True)
class AdaptiveSelector:
    """The method: discrepancy and relevance, per pair (:func:`critical_rules`)."""

    r: int
    gamma: float
    needs_ratings: ClassVar[bool] = True

    def select(self, context: SelectionContext) -> NDArray[np.int64]:
        """The r largest of discrepancy + gamma * relevance."""
        if context.psi_a is None or context.psi_b is None:
            raise ValueError("the adaptive strategy needs ratings")
        return critical_rules(context.psi_a, context.psi_b, context.relevance, self.r, self.gamma)


@dataclass(frozen=True)
class AllSelector:
    """Baseline: every rule is critical."""

    rules: int
    needs_ratings: ClassVar[bool] = False

    def select(self, context: SelectionContext) -> NDArray[np.int64]:
        """All rules, for each pair."""
        return np.tile(np.arange(self.rules, dtype=np.int64), (len(context.pairs), 1))


@dataclass(frozen=True)
class FixedSelector:
    """Baseline: the same rules for each pair."""

    indices: tuple[int, ...]
    needs_ratings: ClassVar[bool] = False

    def select(self, context: SelectionContext) -> NDArray[np.int64]:
        """The fixed rules, for each pair."""
        return np.tile(np.array(self.indices, np.int64), (len(context.pairs), 1))


@dataclass(frozen=True)
class RandomSelector:
    """Baseline: r rules drawn anew for each pair.

    The draw is keyed by (seed, pair id): it does not depend on the other pairs or their order.
    """

    r: int
    rules: int
    seed: int
    needs_ratings: ClassVar[bool] = False

    def select(self, context: SelectionContext) -> NDArray[np.int64]:
        """r distinct rules, for each pair."""
        return np.stack([self._draw(pair.id) for pair in context.pairs])

    def _draw(self, pair_id: str) -> NDArray[np.int64]:
        digest = hashlib.sha256(f"{self.seed}\0{pair_id}".encode()).digest()
        generator = np.random.default_rng(int.from_bytes(digest[:16], "little"))
        return generator.choice(self.rules, self.r, replace=False).astype(np.int64)
