"""From pairs to labels by a config: the steps that a trial, `rmexp label` and the audit share."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from rmexp.errors import UserError
from rmexp.fingerprint import Fingerprint
from rmexp.labelling.labels import Labels, preference_labels
from rmexp.labelling.selectors import SelectionContext
from rmexp.preferences import Pair, PreferenceData
from rmexp.rating.pairs import PairRatings, rate_pairs
from rmexp.rating.rater import Rater
from rmexp.rating.store import RatingStore
from rmexp.rules import RuleSet
from rmexp.trial import assembly
from rmexp.trial.schema import DataConfig, LabellingConfig

Part = Literal["train", "validation", "test", "all"]


@dataclass(frozen=True)
class RatedPairs:
    """Pairs with their ratings, and who rated."""

    pairs: tuple[Pair, ...]
    rules: RuleSet
    ratings: PairRatings
    rater: Fingerprint


@dataclass(frozen=True)
class LabelledPairs:
    """Rated pairs with their critical rules ``[pairs, r]`` and labels."""

    rated: RatedPairs
    critical: NDArray[np.int64]
    labels: Labels

    @property
    def agrees(self) -> NDArray[np.float64]:
        """``[pairs]``: 1 where the label is the human preference, 0 where not, NaN unknown.

        For information only: neither labels nor training look at a human preference.
        """
        human = np.array([{"a": 1, "b": 0, None: -1}[p.preference] for p in self.rated.pairs])
        known = (self.labels.preferred >= 0) & (human >= 0)
        return np.where(known, self.labels.preferred == human, np.nan)

    def metrics(self) -> dict[str, float]:
        """Counts and shares, named as a trial records them."""
        kept = self.labels.kept
        metrics = {
            "labels/kept": float(kept.sum()),
            "labels/dropped_ties": float((~kept).sum()),
            "labels/share_contradictory": self.labels.share_contradictory,
            "labels/mean_margin": float(np.abs(self.labels.margin[kept]).mean()),
        }
        agrees = self.agrees[kept]
        if not np.isnan(agrees).all():
            metrics["labels/agreement_with_human"] = float(np.nanmean(agrees))
        return metrics


def part_of(data: PreferenceData, config: DataConfig, part: Part) -> tuple[Pair, ...]:
    """The pairs of one part of the split, or all of them."""
    if part == "all":
        return data.pairs
    chosen: tuple[Pair, ...] = getattr(assembly.split_pairs(data.pairs, config.split), part)
    return chosen


def rate(
    config: LabellingConfig,
    pairs: Sequence[Pair],
    rules: RuleSet,
    progress: Callable[[int, int], None] | None = None,
    rater: Rater | None = None,
) -> RatedPairs:
    """Rate pairs, paying only for what the rating store lacks.

    Args:
        progress: called with (ratings done, ratings wanted).
        rater: None for the one that the config names.
    """
    rater = rater or assembly.rater(config, rules)
    with RatingStore(Path(config.cache_dir) / "ratings") as store:
        ratings = rate_pairs(
            pairs,
            rules,
            rater,
            store,
            on_missing=config.rating.on_missing,
            embedder=assembly.relevance_encoder(config, rater),
            progress=progress,
        )
    return RatedPairs(tuple(pairs), rules, ratings, rater.fingerprint)


def label(config: LabellingConfig, rated: RatedPairs) -> LabelledPairs:
    """Choose the critical rules and label by them.

    Raises:
        UserError: where no label is left.
    """
    ratings = rated.ratings
    critical = assembly.selector(config, rated.rules).select(
        SelectionContext(rated.pairs, ratings.psi_a, ratings.psi_b, ratings.relevance)
    )
    labels = preference_labels(ratings.psi_a, ratings.psi_b, critical, tie=config.selection.tie)
    if not labels.kept.any():
        raise UserError(
            "selection.tie: every pair is a tie and was dropped; use another r, gamma or tie"
        )
    return LabelledPairs(rated, critical, labels)
