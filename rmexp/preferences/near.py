"""Near copies among texts: exact search by Jaccard similarity of word pairs."""

from __future__ import annotations

import itertools
import math
from collections import Counter, defaultdict
from collections.abc import Sequence

SIMILAR_FROM = 0.6
# Of more texts with the same rare word pair only the latest, which are nearest in size, are looked
# at: thousands of fillings of one template would cost the square of their number. They chain into
# one group all the same.
_MOST_NEIGHBOURS = 200


def near_copies(texts: Sequence[str], similar_from: float = SIMILAR_FROM) -> list[int]:
    """Group texts whose sets of neighbouring word pairs are alike, and what they join in turn.

    Two texts are alike where the pairs of words they share are ``similar_from`` or more of all
    the pairs of either. Candidates come from the prefix filter (Chaudhuri, Ganti, Kaushik 2006):
    two sets that share n members have k in common among the size - n + k rarest of each.

    Args:
        texts: already without case and punctuation; words between spaces.
        similar_from: Jaccard similarity, above 0 to 1.

    Returns:
        For each text the index of the first text of its group.

    >>> near_copies(["how do i pick a lock at home", "a cat", "how do i pick a lock at home now"])
    [0, 1, 0]
    """
    members = _rare_first(texts)
    groups = _Groups(len(texts))
    holders: dict[int, list[int]] = defaultdict(list)
    shareable = [frozenset(m for m in of_text if m >= 0) for of_text in members]
    for i in sorted(range(len(texts)), key=lambda i: len(members[i])):
        size = len(members[i])
        # Two alike sets share this many members at least, if the other is no larger ...
        least = _least(similar_from * size)
        probed = [m for m in members[i][: size - least + _seen_together(size)] if m >= 0]
        together = Counter(
            itertools.chain.from_iterable(holders[m][-_MOST_NEIGHBOURS:] for m in probed)
        )
        for j, times in together.items():
            other = len(members[j])
            if other < least or times < _seen_together(other) or groups.of(j) == groups.of(i):
                continue
            shared = len(shareable[i] & shareable[j])
            if shared >= _least(similar_from * (size + other - shared)):
                groups.join(i, j)
        # ... and this many if it is no smaller, as all that look for this one later are.
        least = _least(2 * similar_from / (1 + similar_from) * size)
        for m in members[i][: size - least + _seen_together(size)]:
            if m >= 0:
                holders[m].append(i)
    return [groups.of(i) for i in range(len(texts))]


def _seen_together(size: int) -> int:
    """How many of their rarest members must be common before two sets are compared in full.

    Never fewer for a larger set: then the smaller one's number holds for both.
    """
    return 1 + size // 8


def _least(bound: float) -> int:
    """The least whole number that is not below a bound, but for rounding."""
    return math.ceil(bound - 1e-9)


def _rare_first(texts: Sequence[str]) -> list[list[int]]:
    """Each text's word pairs as numbers, those of few texts first, in one order for all texts."""
    held = [_word_pairs(text) for text in texts]
    count = Counter(itertools.chain.from_iterable(held))
    ranked = sorted((pair for pair, n in count.items() if n > 1), key=lambda p: (count[p], p))
    number = {pair: n for n, pair in enumerate(ranked)}
    # Negative numbers stand for pairs that no other text has.
    return [sorted(number.get(p, -1 - n) for n, p in enumerate(of_text)) for of_text in held]


def _word_pairs(text: str) -> frozenset[tuple[str, str]]:
    words = text.split()
    # The ends count too: otherwise a text of one word would have no pair at all.
    return frozenset(itertools.pairwise(["", *words, ""]))


class _Groups:
    """Disjoint sets, each named by its lowest member."""

    def __init__(self, count: int) -> None:
        self._parent = list(range(count))

    def of(self, i: int) -> int:
        while self._parent[i] != i:
            self._parent[i] = self._parent[self._parent[i]]
            i = self._parent[i]
        return i

    def join(self, i: int, j: int) -> None:
        low, high = sorted((self.of(i), self.of(j)))
        self._parent[high] = low
