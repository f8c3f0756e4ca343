"""From pairs to labels by a config: the steps that a trial, `rmexp label` and the audit share."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from rmexp.errors import UserError
from rmexp.fingerprint import Fingerprint
from rmexp.labelling.labels import Labels, preference_labels
from rmexp.labelling.selectors import SelectionContext
from rmexp.preferences import Pair, PreferenceData, prompt_text
from rmexp.rating.pairs import OnMissing, PairRatings, rate_pairs
from rmexp.rating.rater import Rater
from rmexp.rating.store import RatingStore
from rmexp.rules import RuleSet
from rmexp.trial import assembly, reading
from rmexp.trial.schema import DataConfig, LabellingConfig

_SAMPLES = 20
_NAMED = 5
Part = Literal["train", "validation", "test", "all"]


@dataclass(frozen=True)
class RatedPairs:
    """Pairs with their ratings, and who rated.

    Attributes:
        pairs: the pairs.
        rules: the rules, column by column.
        ratings: of every rule, or of those that were chosen.
        rater: who rated.
        chosen: rule indices ``[pairs, r]`` where a selector chose them before the rater ran; the
            other entries of ``ratings`` are NaN.
    """

    pairs: tuple[Pair, ...]
    rules: RuleSet
    ratings: PairRatings
    rater: Fingerprint
    chosen: NDArray[np.int64] | None = None

    @property
    def context(self) -> SelectionContext:
        """What a selector that needs ratings looks at."""
        ratings = self.ratings
        return SelectionContext(self.pairs, ratings.psi_a, ratings.psi_b, ratings.relevance)


@dataclass(frozen=True)
class LabelledPairs:
    """Rated pairs with their critical rules and labels.

    Attributes:
        rated: the pairs that could be labelled.
        critical: rule indices ``[pairs, r]``.
        labels: of these pairs.
        unrated: ids of the pairs left out, for want of ratings of theirs.
    """

    rated: RatedPairs
    critical: NDArray[np.int64]
    labels: Labels
    unrated: tuple[str, ...] = ()

    @property
    def left_out(self) -> str:
        """How many pairs were left out, as text; empty where none was."""
        if not self.unrated:
            return ""
        return f"left out {len(self.unrated)} pairs not rated enough (first: {self.unrated[0]})"

    @property
    def agrees(self) -> NDArray[np.float64]:
        """``[pairs]``: 1 where the label is the human preference, 0 where not, NaN unknown.

        For information only: neither labels nor training look at a human preference.
        """
        human = np.array([{"a": 1, "b": 0, None: -1}[p.preference] for p in self.rated.pairs])
        known = (self.labels.preferred >= 0) & (human >= 0)
        return np.where(known, self.labels.preferred == human, np.nan)

    def rule_statistics(self) -> list[tuple[str, int, float, float]]:
        """One row a rule that is critical somewhere, the commonest first.

        Returns:
            Rule id; pairs in which it is critical; its mean discrepancy in them; share of those
            with a label in which it speaks for the labelled side (0 where it never does).
        """
        ratings, critical = self.rated.ratings, self.critical
        difference = np.take_along_axis(ratings.psi_a, critical, 1).astype(np.float64)
        difference -= np.take_along_axis(ratings.psi_b, critical, 1)
        labelled = self.labels.preferred >= 0
        side = np.where(self.labels.preferred == 1, 1, -1)
        with_label = (np.sign(difference) == side[:, None]) & labelled[:, None]
        rows = []
        for i, rule_id in enumerate(self.rated.rules.ids):
            here = critical == i
            pairs = int(here.sum())
            if pairs:
                mean = float(np.abs(difference[here]).mean() / 2)
                share = with_label[here].sum() / max(int((here & labelled[:, None]).sum()), 1)
                rows.append((rule_id, pairs, mean, float(share)))
        return sorted(rows, key=lambda row: -row[1])

    def metrics(self) -> dict[str, float]:
        """Counts and shares, named as a trial records them."""
        kept = self.labels.kept
        metrics = {
            "labels/kept": float(kept.sum()),
            "labels/dropped_ties": float((~kept).sum()),
            "labels/dropped_unrated": float(len(self.unrated)),
            "labels/share_contradictory": self.labels.share_contradictory,
            "labels/mean_margin": float(np.abs(self.labels.margin[kept]).mean()),
        }
        agrees = self.agrees[kept]
        if not np.isnan(agrees).all():
            metrics["labels/agreement_with_human"] = float(np.nanmean(agrees))
        return metrics

    def tables(self) -> dict[str, tuple[list[str], list[list[Any]]]]:
        """What a person can read, as name to columns and rows: some pairs, and all rules."""
        columns = ["pair", "prompt", "response A", "response B", "critical rules", "label"]
        rules = ["rule", "critical in", "mean discrepancy", "speaks for the label"]
        samples = [self._sample(i) for i in range(min(_SAMPLES, len(self.rated.pairs)))]
        return {
            "labelled_pairs": ([*columns, "margin"], samples),
            "critical_rules": (rules, [list(row) for row in self.rule_statistics()]),
        }

    def _sample(self, i: int) -> list[Any]:
        pair, ratings = self.rated.pairs[i], self.rated.ratings
        named = ", ".join(
            f"{self.rated.rules.ids[c]} ({ratings.psi_a[i, c]:+.2f} / {ratings.psi_b[i, c]:+.2f})"
            for c in self.critical[i]
        )
        label = {1: "A", 0: "B", -1: "dropped"}[int(self.labels.preferred[i])]
        texts = [pair.id, prompt_text(pair.prompt), pair.response_a, pair.response_b]
        return [*texts, named, label, float(self.labels.margin[i])]


def part_of(data: PreferenceData, config: DataConfig, part: Part) -> tuple[Pair, ...]:
    """The pairs of one part of the split, or all of them; ``train`` is what a trial trains on."""
    if part == "all":
        return data.pairs
    chosen: tuple[Pair, ...] = getattr(reading.split_pairs(data.pairs, config.split), part)
    return chosen[: config.train_limit] if part == "train" else chosen


def chosen_before_rating(
    config: LabellingConfig, pairs: Sequence[Pair], rules: RuleSet
) -> NDArray[np.int64] | None:
    """``[pairs, r]`` from a selector that needs no ratings; None where all rules are rated."""
    selector = assembly.selector(config, rules)
    if selector.needs_ratings:
        return None
    chosen = selector.select(SelectionContext(pairs))
    return chosen if chosen.shape[1] < len(rules) else None


def wanted_entries(chosen: NDArray[np.int64], rules: int) -> NDArray[np.bool_]:
    """``[pairs, rules]``: true where a rule was chosen for a pair."""
    wanted = np.zeros((len(chosen), rules), np.bool_)
    np.put_along_axis(wanted, chosen, True, axis=1)
    return wanted


def rate(
    config: LabellingConfig,
    pairs: Sequence[Pair],
    rules: RuleSet,
    progress: Callable[[int, int], None] | None = None,
    *,
    every_rule: bool = False,
    rater: Rater | None = None,
    on_missing: OnMissing | None = None,
) -> RatedPairs:
    """Rate pairs, paying only for what the rating store lacks.

    A selector that needs no ratings runs first, and only the rules that it chooses are rated.

    Args:
        config: what is rated by whom.
        pairs: the pairs.
        rules: the rule set.
        progress: called with (ratings done, ratings wanted).
        every_rule: rate every rule, whatever the selector needs.
        rater: None for the one that the config names.
        on_missing: None for what the config says.
    """
    chosen = None if every_rule else chosen_before_rating(config, pairs, rules)
    rater = rater or assembly.rater(config, rules)
    with RatingStore(Path(config.cache_dir) / "ratings") as store:
        ratings = rate_pairs(
            pairs,
            rules,
            rater,
            store,
            on_missing=on_missing or config.rating.on_missing,
            wanted=None if chosen is None else wanted_entries(chosen, len(rules)),
            embedder=assembly.relevance_encoder(config, rater) if chosen is None else None,
            relevance=chosen is None,
            progress=progress,
        )
    return RatedPairs(tuple(pairs), rules, ratings, rater.fingerprint, chosen)


def rated_enough(
    config: LabellingConfig, rated: RatedPairs
) -> tuple[RatedPairs, NDArray[np.int64], tuple[str, ...]]:
    """The pairs whose critical rules can be chosen and are rated.

    One response that a rater cannot rate, for a content filter or a spending limit, takes its own
    pairs away and no others.

    Returns:
        The pairs; their critical rules ``[pairs, r]``; ids of the pairs left out.

    Raises:
        UserError: no pair is left.
    """
    ratings = rated.ratings
    known = ~(np.isnan(ratings.psi_a) | np.isnan(ratings.psi_b))
    critical = rated.chosen
    selector = None if critical is not None else assembly.selector(config, rated.rules)
    if selector is not None and selector.needs_ratings:
        if config.gamma != 0:
            known &= ~np.isnan(ratings.relevance)
        enough = known.sum(axis=1) >= config.r
    else:
        if selector is not None:
            critical = selector.select(rated.context)
        assert critical is not None
        enough = np.take_along_axis(known, critical, axis=1).all(axis=1)
    unrated = tuple(rated.pairs[i].id for i in np.flatnonzero(~enough))
    if unrated and len(unrated) == len(rated.pairs):
        raise UserError(
            f"rater: none of {len(unrated)} pairs has enough ratings to be labelled (pairs "
            f"{', '.join(unrated[:_NAMED])}{', ...' if len(unrated) > _NAMED else ''}): 'rmexp "
            "rate' asks again and says why"
        )
    if unrated:
        rated = replace(
            rated,
            pairs=tuple(rated.pairs[i] for i in np.flatnonzero(enough)),
            ratings=replace(
                ratings,
                psi_a=ratings.psi_a[enough],
                psi_b=ratings.psi_b[enough],
                relevance=ratings.relevance[enough],
            ),
            chosen=None if rated.chosen is None else rated.chosen[enough],
        )
    if critical is None:
        assert selector is not None
        return rated, selector.select(rated.context), unrated
    return rated, critical[enough], unrated


def label(config: LabellingConfig, rated: RatedPairs) -> LabelledPairs:
    """Choose the critical rules, where that is not done, and label by them.

    Pairs without enough ratings are left out, and counted.

    Raises:
        UserError: where no label is left.
    """
    rated, critical, unrated = rated_enough(config, rated)
    ratings = rated.ratings
    labels = preference_labels(ratings.psi_a, ratings.psi_b, critical, tie=config.selection.tie)
    if not labels.kept.any():
        raise UserError(
            "selection.tie: every pair is a tie and was dropped; use another r, gamma or tie"
        )
    return LabelledPairs(rated, critical, labels, unrated)
