"""A rater, an embedder, pairs and rules that need no model."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from rmexp.fingerprint import fingerprint
from rmexp.preferences import Pair, prompt_from_text
from rmexp.rating.rater import Item, RatedBatch
from rmexp.rules import Example, Rule, RuleSet


class HashEmbedder:
    """Bag of hashed words: texts that share words are near."""

    fingerprint = fingerprint("hash_embedder", dim=64)

    def embed(self, texts: Sequence[str]) -> NDArray[np.float32]:
        vectors = np.full((len(texts), 64), 1e-3, np.float32)
        for row, text in enumerate(texts):
            for word in text.lower().split():
                vectors[row, hashlib.md5(word.encode()).digest()[0] % 64] += 1
        return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


class HashRater:
    """Gives each (item, rule) a number of its own, and notes what it was asked."""

    def __init__(self, name: str = "hash", relevance: bool = False):
        self.fingerprint = fingerprint("hash_rater", name=name)
        self.embedder = HashEmbedder()
        self.asked: list[tuple[str, str, str]] = []
        self._relevance = relevance

    def rate(
        self,
        items: Sequence[Item],
        rules: Sequence[Rule],
        wanted: NDArray[np.bool_] | None = None,
    ) -> RatedBatch:
        psi = np.full((len(items), len(rules)), np.nan, np.float32)
        for i, item in enumerate(items):
            for j, rule in enumerate(rules):
                if wanted is None or wanted[i, j]:
                    self.asked.append((item.prompt[-1].content, item.response, rule.id))
                    psi[i, j] = hashed_psi(item, rule)
        return RatedBatch(psi, (psi + 1) / 2 if self._relevance else None)


def hashed_psi(item: Item, rule: Rule) -> float:
    text = f"{item.prompt[-1].content}|{item.response}|{rule.sentence}"
    number = int.from_bytes(hashlib.md5(text.encode()).digest()[:4], "big")
    return float(np.float32(number / 2**32 * 2 - 1))


def make_rules(count: int) -> RuleSet:
    return RuleSet(
        "made",
        tuple(
            Rule(
                f"rule{i}",
                f"The response mentions thing{i}.",
                "things",
                follows=(Example("Hi", f"Here is thing{i} for you."),),
                breaks=(Example("Hi", f"Here is nothing for you {i}."),),
            )
            for i in range(count)
        ),
    )


def make_pairs(count: int) -> list[Pair]:
    return [
        Pair(f"p{i}", prompt_from_text(f"prompt {i // 2}"), f"answer {i}", f"reply {i}")
        for i in range(count)
    ]
