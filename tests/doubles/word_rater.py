"""A rater for tests: deterministic, instant, and informative about nothing but words."""

from __future__ import annotations

import hashlib

import numpy as np

from rmexp.fingerprint import fingerprint
from rmexp.rating.rater import RatedBatch


class WordRater:
    """Rates by a hash of response and rule; counts what it was asked in a file."""

    gives_relevance = True

    def __init__(self, counter: str | None = None, salt: str = ""):
        self.counter, self.salt = counter, salt
        self.fingerprint = fingerprint("word_rater", salt=salt)

    def rate(self, items, rules, wanted=None):
        wanted = np.ones((len(items), len(rules)), bool) if wanted is None else wanted
        psi = np.array(
            [[self._number(item.response, rule.id) * 2 - 1 for rule in rules] for item in items]
        )
        relevance = np.array(
            [[self._number(item.prompt[-1].content, rule.id) for rule in rules] for item in items]
        )
        if self.counter:
            with open(self.counter, "a") as stream:
                stream.write(f"{int(wanted.sum())}\n")
        return RatedBatch(
            np.where(wanted, psi, np.nan).astype(np.float32),
            np.where(wanted, relevance, np.nan).astype(np.float32),
        )

    def _number(self, text: str, rule: str) -> float:
        digest = hashlib.sha256(f"{self.salt}|{text}|{rule}".encode()).digest()
        return int.from_bytes(digest[:4], "little") / 2**32
