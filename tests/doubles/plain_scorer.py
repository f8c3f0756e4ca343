"""Scorers that need no model."""

from __future__ import annotations

import zlib

import numpy as np


class LengthScorer:
    """The longer the better, or the shorter."""

    def __init__(self, sign: float = 1.0) -> None:
        self.sign = sign

    def score(self, prompts, responses):
        return np.array([self.sign * len(r) / 100 for r in responses])


class ChanceScorer:
    """A number that only the text decides, and nothing in it."""

    def score(self, prompts, responses):
        return np.array([zlib.crc32(r.encode()) / 2**32 for r in responses])


class NanScorer:
    """A model whose numbers have come apart."""

    def score(self, prompts, responses):
        return np.full(len(responses), np.nan)
