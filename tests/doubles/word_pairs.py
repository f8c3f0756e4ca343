"""Pairs whose critical rules hang on a word of the prompt."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from rmexp.fingerprint import fingerprint
from rmexp.preferences import Pair, prompt_from_text

WORDS = ("apple", "river", "stone", "cloud")


def make_pairs(count: int, offset: int = 0) -> tuple[list[Pair], np.ndarray]:
    """Rule i is critical where the prompt holds word i; so is rule 3 always."""
    kinds = [(n + offset) % 3 for n in range(count)]
    pairs = [
        Pair(f"p{offset}-{n}", prompt_from_text(WORDS[k] * 4), f"yes {n % 4}", f"no way {n % 3}")
        for n, k in enumerate(kinds)
    ]
    return pairs, np.array([[k, 3] for k in kinds])


class OneForAll:
    """All texts have one vector: relevance tells nothing."""

    fingerprint = fingerprint("one_for_all")

    def embed(self, texts: Sequence[str]) -> np.ndarray:
        return np.ones((len(texts), 1), np.float32)


class WordCounter:
    """The vector of a text tells which words it names."""

    fingerprint = fingerprint("word_counter")

    def embed(self, texts: Sequence[str]) -> np.ndarray:
        counts = np.array([[text.count(word) for word in WORDS] for text in texts], np.float32)
        return counts / np.linalg.norm(counts, axis=1, keepdims=True)
