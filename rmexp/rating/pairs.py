"""Ratings of preference pairs: what the store has, and the rest from the rater."""

from __future__ import annotations

import warnings
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from rmexp.errors import UserError
from rmexp.preferences import Pair
from rmexp.rating.assembled import assembled_key, load_assembled, save_assembled
from rmexp.rating.claims import claiming
from rmexp.rating.rater import Embedder, Item, RatedBatch, Rater, RaterStopped
from rmexp.rating.relevance import prompt_relevance
from rmexp.rating.store import RatingStore
from rmexp.rating.store_records import item_key
from rmexp.rules import RuleSet

OnMissing = Literal["rate", "error", "leave"]
Progress = Callable[[int, int], None]
_BATCH_ITEMS = 64


@dataclass(frozen=True)
class PairRatings:
    """Ratings of both responses of each pair, by every rule.

    Attributes:
        psi_a: float32 ``[pairs, rules]`` in [-1, 1], of response A; NaN where not wanted, or
            where the rater could not rate. May be mapped from disk, read-only.
        psi_b: the same of response B.
        relevance: float32 ``[pairs, rules]`` in [0, 1]; NaN where it was not asked for.
        rated: ratings that were asked of the rater now and given.
        reused: ratings that were there already.
        failed: ratings that were asked of the rater now and not given.

    Ratings are counted once for each distinct (prompt, response, rule).
    """

    psi_a: NDArray[np.float32]
    psi_b: NDArray[np.float32]
    relevance: NDArray[np.float32]
    rated: int
    reused: int
    failed: int = 0


def rate_pairs(
    pairs: Sequence[Pair],
    rules: RuleSet,
    rater: Rater,
    store: RatingStore,
    *,
    on_missing: OnMissing = "rate",
    wanted: NDArray[np.bool_] | None = None,
    embedder: Embedder | None = None,
    relevance: bool = True,
    batch_items: int | None = None,
    progress: Progress | None = None,
) -> PairRatings:
    """Rate both responses of each pair by each rule, paying only for what the store lacks.

    Processes that rate the same pairs at once share the work: each rates what no other has
    claimed, waits for the rest, and finds it in the store.

    Args:
        pairs: the pairs; preferences are not looked at.
        rules: the rules, column by column.
        rater: rates what is missing.
        store: where ratings are looked up and kept.
        on_missing: ``rate``, ``error`` to stop where the store lacks a rating, or ``leave`` to
            ask for nothing: NaN where it lacks one.
        wanted: bool ``[pairs, rules]``: the entries to rate; None for all.
        embedder: gives relevance where the rater measures none; without it the rater's own
            attribute ``embedder``.
        relevance: whether relevance is asked for; without it only what was rated is filled.
        batch_items: responses rated, and committed, at a time; None for the rater's own
            attribute ``batch_items``, else 64.
        progress: called with (ratings done, ratings wanted).

    Raises:
        UserError: ratings are missing under ``on_missing="error"``, the store cannot be used, or
            nothing gives relevance.
        ValueError: ``wanted`` has another shape, or the rater broke its protocol.
    """
    if embedder is None:
        embedder = getattr(rater, "embedder", None)
    shape = (len(pairs), len(rules))
    if wanted is not None and wanted.shape != shape:
        raise ValueError(f"wanted {wanted.shape} must be [pairs, rules] {shape}")
    key = None
    if wanted is None and relevance:
        of_embedder = None if embedder is None else embedder.fingerprint
        key = assembled_key(pairs, rules, rater.fingerprint, of_embedder)
        assembled = load_assembled(store.directory, key)
        if assembled is not None:
            arrays, ratings = assembled
            return PairRatings(
                arrays["psi_a"], arrays["psi_b"], arrays["relevance"], rated=0, reused=ratings
            )

    found = _Ratings(pairs, rules, rater, store, wanted)
    if found.missing and on_missing != "leave":
        if on_missing == "error":
            raise UserError(
                f"{store.path}: {found.missing} of {found.total} ratings are missing: run "
                "'rmexp rate' with the same settings, or set rating.on_missing=rate"
            )
        if batch_items is None:
            batch_items = int(getattr(rater, "batch_items", _BATCH_ITEMS))
        found.rate_missing(batch_items, progress)
    arrays = {
        "psi_a": found.psi[found.side_a],
        "psi_b": found.psi[found.side_b],
        "relevance": found.pair_relevance(embedder, relevance),
    }
    if key is not None and found.missing == 0:
        save_assembled(store.directory, key, arrays, found.total)
    reused = found.total - found.rated - found.missing
    return PairRatings(
        arrays["psi_a"],
        arrays["psi_b"],
        arrays["relevance"],
        rated=found.rated,
        reused=reused,
        failed=found.missing,
    )


def missing_ratings(
    pairs: Sequence[Pair],
    rules: RuleSet,
    rater: Rater,
    store: RatingStore,
    wanted: NDArray[np.bool_] | None = None,
) -> tuple[list[Item], NDArray[np.bool_]]:
    """What :func:`rate_pairs` would ask of the rater: items and the entries ``[items, rules]``."""
    found = _Ratings(pairs, rules, rater, store, wanted)
    return found.lacking()


class _Ratings:
    """Ratings of the distinct items of some pairs, while they are gathered."""

    def __init__(
        self,
        pairs: Sequence[Pair],
        rules: RuleSet,
        rater: Rater,
        store: RatingStore,
        wanted: NDArray[np.bool_] | None,
    ):
        self._pairs, self._rules, self._rater, self._store = pairs, rules.rules, rater, store
        places: dict[Item, int] = {}
        sides = np.empty((len(pairs), 2), np.int64)
        for row, pair in enumerate(pairs):
            for side, response in enumerate((pair.response_a, pair.response_b)):
                sides[row, side] = places.setdefault(Item(pair.prompt, response), len(places))
        self._items = list(places)
        self.side_a, self.side_b = sides[:, 0], sides[:, 1]
        self._keys = [item_key(rater.fingerprint, item) for item in self._items]
        self._wanted = np.ones((len(self._items), len(rules)), np.bool_)
        if wanted is not None:
            self._wanted[:] = False
            for of_items in (self.side_a, self.side_b):
                np.logical_or.at(self._wanted, of_items, wanted)
        stored = store.get_by_key(self._keys, self._rules)
        assert stored.relevance is not None
        self.psi, self.relevance = stored.psi, stored.relevance
        self.psi[~self._wanted] = np.nan
        self.relevance[~self._wanted] = np.nan
        self.total = int(self._wanted.sum())
        self.rated = 0

    @property
    def missing(self) -> int:
        """Wanted entries without a rating."""
        return int((self._wanted & np.isnan(self.psi)).sum())

    def lacking(self) -> tuple[list[Item], NDArray[np.bool_]]:
        """The items that lack a rating, and which."""
        lacking = self._wanted & np.isnan(self.psi)
        rows = np.flatnonzero(lacking.any(axis=1))
        return [self._items[row] for row in rows], lacking[rows]

    def rate_missing(self, batch_items: int, progress: Progress | None) -> None:
        """Rate what nobody else is rating, and take from the store what others rated."""
        lacking = (self._wanted & np.isnan(self.psi)).sum(axis=1)
        done = self.total - int(lacking.sum())
        pending = deque(np.flatnonzero(lacking).tolist())
        if progress is not None:
            progress(done, self.total)
        with claiming(self._store.directory) as claims:
            while pending:
                batch: list[int] = []
                for _ in range(len(pending)):
                    if len(batch) == batch_items:
                        break
                    place = pending.popleft()
                    if claims.take(self._keys[place]):
                        batch.append(place)
                    else:
                        pending.append(place)
                if not batch:
                    claims.wait(self._keys[pending[0]])
                    continue
                self._rate_batch(batch)
                claims.drop()
                done += int(lacking[batch].sum())
                if progress is not None:
                    progress(done, self.total)

    def _rate_batch(self, batch: list[int]) -> None:
        # Another process may have rated these between the first look-up and the claim.
        stored = self._store.get_by_key([self._keys[p] for p in batch], self._rules)
        assert stored.relevance is not None
        lacking = self._wanted[batch] & np.isnan(stored.psi)
        columns = np.flatnonzero(lacking.any(axis=0))
        rows = np.flatnonzero(lacking.any(axis=1))
        if len(columns):
            items = [self._items[batch[row]] for row in rows]
            rules = [self._rules[column] for column in columns]
            block = np.ix_(rows, columns)
            try:
                rated = self._rater.rate(items, rules, lacking[block])
            except RaterStopped as stopped:
                kept = _checked(stopped.rated, lacking[block])
                self._store.put(self._rater.fingerprint, items, rules, kept)
                raise
            rated = _checked(rated, lacking[block])
            self.rated += self._store.put(self._rater.fingerprint, items, rules, rated)
            stored.psi[block] = np.where(lacking[block], rated.psi, stored.psi[block])
            if rated.relevance is not None:
                stored.relevance[block] = np.where(
                    lacking[block], rated.relevance, stored.relevance[block]
                )
        self.psi[batch] = np.where(self._wanted[batch], stored.psi, np.nan)
        self.relevance[batch] = np.where(self._wanted[batch], stored.relevance, np.nan)

    def pair_relevance(self, embedder: Embedder | None, needed: bool) -> NDArray[np.float32]:
        """The rater's own relevance, averaged over the two responses, or the embedder's."""
        rated = ~np.isnan(self.psi)
        if rated.any() and not np.isnan(self.relevance[rated]).any():
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", RuntimeWarning)  # both sides NaN stay NaN
                both = np.stack([self.relevance[self.side_a], self.relevance[self.side_b]])
                return np.nanmean(both, axis=0)
        # A rater that could rate nothing at all has not shown that it measures none.
        if not needed or (embedder is None and not rated.any()):
            return np.full((len(self._pairs), len(self._rules)), np.nan, np.float32)
        if embedder is None:
            raise UserError(
                "rater: it measures no relevance and no embedder was given; set rater.encoder"
            )
        return prompt_relevance([pair.prompt for pair in self._pairs], self._rules, embedder)


def _checked(rated: RatedBatch, lacking: NDArray[np.bool_]) -> RatedBatch:
    """What the rater gave, with entries that nobody asked for set to NaN."""
    if rated.psi.shape != lacking.shape:
        raise ValueError(f"the rater gave psi {rated.psi.shape} for [items, rules] {lacking.shape}")
    return RatedBatch(
        np.where(lacking, rated.psi, np.float32(np.nan)),
        None if rated.relevance is None else np.where(lacking, rated.relevance, np.float32(np.nan)),
    )
