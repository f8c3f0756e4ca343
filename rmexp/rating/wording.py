"""Wording: words and word pairs that tell the examples that follow a rule from those that break it.

A sentence embedding is blind to much that rules ask for: a question mark, a telephone number, "you"
or "one". These are plain in the words.
"""

from __future__ import annotations

import itertools
import math
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from rmexp.rules import Rule

_WORD = re.compile(r"[^\W\d_]+(?:'[^\W\d_]+)*|\d+|[?!$%@]")
_SENTENCE_END = re.compile(r"(?<=[.!?])\s+|\n+")
# Words that only one of the examples has are mostly its subject; words that recur are the rule's.
_SHARPNESS = 1.5


def sentences(text: str) -> list[str]:
    """Sentences and lines of a text; the text itself where there is nothing to split.

    >>> sentences("Sorry. Try this:\\n- rest")
    ['Sorry.', 'Try this:', '- rest']
    """
    parts = [part.strip() for part in _SENTENCE_END.split(text)]
    return [part for part in parts if len(part) > 2] or [text]


def grams(text: str) -> frozenset[str]:
    """Words and pairs of neighbouring words, lower case, every number alike.

    >>> sorted(grams("Call 116 123!"))
    ['!', '0', '0 !', '0 0', 'call', 'call 0']
    """
    words = [
        "0" if word.isdigit() else word
        for word in _WORD.findall(text.lower().replace("\u2019", "'"))
    ]
    return frozenset(words) | {f"{a} {b}" for a, b in itertools.pairwise(words)}


@dataclass(frozen=True)
class Rarity:
    """How rare a gram is in a background of texts.

    Attributes:
        counts: the number of texts that hold each gram.
        texts: the number of texts.
    """

    counts: Mapping[str, int]
    texts: int

    @classmethod
    def of(cls, texts: Sequence[str]) -> Rarity:
        """Count the grams of texts."""
        return cls(Counter(gram for text in texts for gram in grams(text)), len(texts))

    def __call__(self, gram: str) -> float:
        """``log((texts + 1) / (count + 1/2))``: above 0 but for a gram of every text."""
        return math.log((self.texts + 1) / (self.counts.get(gram, 0) + 0.5))


def wording(rule: Rule, rarity: Rarity) -> dict[str, float]:
    """The weight of each gram for a rule: above 0 speaks for following it.

    With ``f`` and ``b`` the shares of its examples that hold the gram, among those that follow
    and those that break the rule: ``sign(f - b) |f - b|^1.5 rarity^2``.
    """
    follows = _shares(example.response for example in rule.follows)
    breaks = _shares(example.response for example in rule.breaks)
    weights = {}
    for gram in sorted(follows.keys() | breaks.keys()):
        lead = follows.get(gram, 0.0) - breaks.get(gram, 0.0)
        if lead:
            weights[gram] = math.copysign(abs(lead) ** _SHARPNESS, lead) * rarity(gram) ** 2
    return weights


def _shares(texts: Iterable[str]) -> dict[str, float]:
    held = [grams(text) for text in texts]
    return {gram: n / len(held) for gram, n in Counter(g for h in held for g in h).items()}
