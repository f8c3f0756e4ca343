"""Near copies, against comparing every two texts."""

from __future__ import annotations

import random

import pytest

from rmexp.preferences.near import near_copies


def every_two(texts: list[str], similar_from: float) -> list[int]:
    """The definition, by brute force: connected components, each named by its first text."""
    sets = [set(zip(["", *t.split()], [*t.split(), ""], strict=True)) for t in texts]
    names = list(range(len(texts)))
    for i in range(len(texts)):
        for j in range(i):
            if len(sets[i] & sets[j]) >= similar_from * len(sets[i] | sets[j]) - 1e-9:
                low, high = sorted((names[i], names[j]))
                names = [low if name == high else name for name in names]
    return names


@pytest.mark.parametrize("seed", range(40))
@pytest.mark.parametrize("similar_from", [0.6, 0.75, 1.0])
def test_the_filter_misses_nothing(seed: int, similar_from: float) -> None:
    rng = random.Random(seed)
    vocabulary = [str(n) for n in range(rng.choice([3, 8, 40]))]
    stems = [rng.choices(vocabulary, k=rng.choice([1, 2, 5, 15, 40])) for _ in range(8)]
    texts = []
    for _ in range(rng.choice([2, 30])):
        text = list(rng.choice(stems))
        for _ in range(rng.randrange(4)):
            at = rng.randrange(len(text) + 1)
            text[at : at + rng.randrange(2)] = [rng.choice(vocabulary)]
        texts.append(" ".join(text))
    assert near_copies(texts, similar_from) == every_two(texts, similar_from)


def test_near_copies_of_near_copies_are_in_the_group_of_the_first() -> None:
    words = [str(n) for n in range(20)]
    chain = [" ".join(words[start : start + 12]) for start in range(6)]
    assert near_copies(["something else", *chain]) == [0] + [1] * 6


def test_fillings_of_one_template_are_one_group() -> None:
    texts = [f"please write a kind poem about the number {n} for my friend" for n in range(1000)]
    assert set(near_copies(texts)) == {0}


def test_texts_without_words_are_alike() -> None:
    assert near_copies(["", "a", ""]) == [0, 1, 0]
    assert near_copies([]) == []
