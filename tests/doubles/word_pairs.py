"""Pairs whose critical rules hang on a word of the prompt."""

from __future__ import annotations

import numpy as np

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
