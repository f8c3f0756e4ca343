"""The exemplar rater: is a response nearer to what follows a rule, or to what breaks it?

Two measurements of the response alone are averaged (prompts are not embedded: examples that follow
and break a rule share theirs, and a shared prompt swamps the difference):

* sense: the direction ``d`` from the rule's breaking to its following examples, between the mean
  embeddings of their sentences; the response scores its most telling sentences either way,
  ``max_s <e_s, d> + min_s <e_s, d>``. A rule that one sentence can satisfy, and a rule that one
  sentence can break, are both served.
* wording: the summed weights of its words and word pairs (:mod:`rmexp.rating.wording`).

Each is standardised by its mean and deviation over a fixed background, the example responses of the
pool that ships with rmexp, so that 0 is neither way and rules share one scale:
``psi = tanh((z_sense + z_wording) / 2)``. The formula and its three constants were chosen on the
train split of the rbr data and on the training half of the starter pairs
(``benchmarks/rater_quality.py``).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from rmexp.errors import UserError
from rmexp.fingerprint import Fingerprint, fingerprint
from rmexp.rating.rater import Embedder, Item, RatedBatch, only_wanted
from rmexp.rating.wording import Rarity, grams, sentences, wording
from rmexp.rules import Rule
from rmexp.rules.load import pool

_VERSION = 1  # of the formula: part of the fingerprint
_LEAST_DEVIATION = 1e-6
_RULE_SETS_KEPT = 4


class ExemplarRater:
    """Rates by likeness to each rule's examples; needs no network and no training.

    Args:
        embedder: gives sentences their vectors; also what relevance is measured with.
    """

    def __init__(self, embedder: Embedder):
        self.embedder = embedder
        self.fingerprint: Fingerprint = fingerprint(
            "exemplar",
            version=_VERSION,
            embedder=embedder.fingerprint,
            background=pool().fingerprint,
        )
        self._background: _Background | None = None
        self._scales: dict[tuple[str, ...], _Scales] = {}

    def rate(
        self,
        items: Sequence[Item],
        rules: Sequence[Rule],
        wanted: NDArray[np.bool_] | None = None,
    ) -> RatedBatch:
        """Rate items by rules; see :class:`rmexp.rating.rater.Rater`.

        Raises:
            UserError: a rule has no example that follows it, or none that breaks it.
        """
        if not items or not rules:
            return RatedBatch(np.zeros((len(items), len(rules)), np.float32))
        scales = self._scales_of(rules)
        texts = [item.response for item in items]
        sense = scales.sense(_Sentences.of(texts, self.embedder))
        words = scales.words([grams(text) for text in texts])
        psi = np.tanh((sense + words) / 2).astype(np.float32)
        return RatedBatch(only_wanted(psi, wanted))

    def _scales_of(self, rules: Sequence[Rule]) -> _Scales:
        key = tuple(rule.fingerprint.hexdigest for rule in rules)
        if key not in self._scales:
            check_examples(rules)
            if self._background is None:
                self._background = _Background.of_pool(self.embedder)
            if len(self._scales) == _RULE_SETS_KEPT:
                del self._scales[next(iter(self._scales))]
            self._scales[key] = _Scales(rules, self._background, self.embedder)
        return self._scales[key]


@dataclass(frozen=True)
class _Sentences:
    """Embedded sentences of some texts: ``[sentences, dim]``, and where each text starts."""

    vectors: NDArray[np.float32]
    starts: NDArray[np.int64]

    @classmethod
    def of(cls, texts: Sequence[str], embedder: Embedder) -> _Sentences:
        split = [sentences(text) for text in texts]
        ends = np.cumsum([len(parts) for parts in split])
        vectors = embedder.embed([part for parts in split for part in parts])
        return cls(vectors, np.concatenate([[0], ends[:-1]]))


@dataclass(frozen=True)
class _Background:
    sentences: _Sentences
    grams: list[frozenset[str]]
    rarity: Rarity

    @classmethod
    def of_pool(cls, embedder: Embedder) -> _Background:
        texts = [e.response for rule in pool() for e in (*rule.follows, *rule.breaks)]
        held = [grams(text) for text in texts]
        return cls(_Sentences.of(texts, embedder), held, Rarity.of(texts))


class _Scales:
    """What a set of rules looks for, and how its scores spread over the background."""

    def __init__(self, rules: Sequence[Rule], background: _Background, embedder: Embedder):
        self._directions = np.stack([_direction(rule, embedder) for rule in rules])
        weights = [wording(rule, background.rarity) for rule in rules]
        vocabulary = sorted({gram for held in weights for gram in held})
        self._place = {gram: i for i, gram in enumerate(vocabulary)}
        self._weights = np.zeros((len(vocabulary), len(rules)), np.float32)
        for column, held in enumerate(weights):
            self._weights[[self._place[gram] for gram in held], column] = list(held.values())
        self._sense_moments = _moments(self._raw_sense(background.sentences))
        self._word_moments = _moments(self._raw_words(background.grams))

    def sense(self, texts: _Sentences) -> NDArray[np.float32]:
        """Standardised sense: float32 ``[texts, rules]``."""
        mean, deviation = self._sense_moments
        return (self._raw_sense(texts) - mean) / deviation

    def words(self, held: Sequence[frozenset[str]]) -> NDArray[np.float32]:
        """Standardised wording of texts by their grams: float32 ``[texts, rules]``."""
        mean, deviation = self._word_moments
        return (self._raw_words(held) - mean) / deviation

    def _raw_sense(self, texts: _Sentences) -> NDArray[np.float32]:
        score = texts.vectors @ self._directions.T
        strongest: NDArray[np.float32] = np.maximum.reduceat(score, texts.starts, axis=0)
        return strongest + np.minimum.reduceat(score, texts.starts, axis=0)

    def _raw_words(self, held: Sequence[frozenset[str]]) -> NDArray[np.float32]:
        raw = np.zeros((len(held), self._weights.shape[1]), np.float32)
        for row, of_text in enumerate(held):
            # In one order, so that the sum's rounding does not hang on the set's.
            known = sorted(self._place[gram] for gram in of_text if gram in self._place)
            raw[row] = self._weights[known].sum(axis=0)
        return raw


def _direction(rule: Rule, embedder: Embedder) -> NDArray[np.float32]:
    follows, breaks = (
        embedder.embed([s for e in examples for s in sentences(e.response)]).mean(axis=0)
        for examples in (rule.follows, rule.breaks)
    )
    direction: NDArray[np.float32] = follows - breaks
    return direction / max(float(np.linalg.norm(direction)), _LEAST_DEVIATION)


def _moments(scores: NDArray[np.float32]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    return scores.mean(axis=0), np.maximum(scores.std(axis=0), np.float32(_LEAST_DEVIATION))


def check_examples(rules: Iterable[Rule]) -> None:
    """Every rule has what this rater learns from.

    Raises:
        UserError: naming a rule that has not.
    """
    for rule in rules:
        if not rule.follows or not rule.breaks:
            raise UserError(
                f"rule '{rule.id}': the exemplar rater needs at least one example under "
                "'follows' and one under 'breaks'"
            )
