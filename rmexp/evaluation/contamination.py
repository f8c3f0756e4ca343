"""Contamination: evaluation prompts that the training prompts hold, whole or in part.

Exact means equal but for case, punctuation and spaces, to a training prompt or to one of its user
turns. System messages are not compared: one that all prompts share would make all of them alike.
Overlap is the share of a prompt's words that lie in runs of n words which some training prompt has
too; runs of 8 and half of the words are what Lambert et al. (Tulu 3, arXiv 2411.15124) count as
contaminated.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rmexp.preferences.pair import Prompt

N_GRAM = 8
THRESHOLD = 0.5
_EXAMPLES = 20
_WORD = re.compile(r"\w+")
# Odd, so that multiplying loses nothing modulo 2**64.
_BASE = np.uint64(0x9E3779B97F4A7C15)


@dataclass(frozen=True)
class Contamination:
    """Which evaluation prompts the training prompts hold.

    Attributes:
        exact: ``[prompts]``, whether the whole prompt is a training prompt, or a user turn of one.
        overlap: ``[prompts]``, share of its words in shared runs of n words, in [0, 1].
        source: ``[prompts]``, place of a training prompt that shares; -1 without one.
        n: words in a run.
        threshold: overlap from which a prompt counts as contaminated.
    """

    exact: NDArray[np.bool_]
    overlap: NDArray[np.float64]
    source: NDArray[np.int64]
    n: int
    threshold: float

    @property
    def contaminated(self) -> NDArray[np.bool_]:
        """Exact or overlapping from the threshold on, ``[prompts]``."""
        return self.exact | (self.overlap >= self.threshold)

    def to_plain(self, names: Sequence[str], sources: Sequence[str]) -> dict[str, Any]:
        """Plain data for a record.

        Args:
            names: ``[prompts]``, what to call the evaluation prompts.
            sources: what to call the training prompts.
        """
        worst = np.argsort(-(self.exact + self.overlap), kind="stable")[:_EXAMPLES]
        return {
            "prompts": len(self.exact),
            "exact": int(self.exact.sum()),
            "contaminated": int(self.contaminated.sum()),
            "mean_overlap": float(self.overlap.mean()) if self.overlap.size else 0.0,
            "n_gram": self.n,
            "threshold": self.threshold,
            "examples": [
                {
                    "id": names[i],
                    "training_id": sources[self.source[i]],
                    "exact": bool(self.exact[i]),
                    "overlap": round(float(self.overlap[i]), 4),
                }
                for i in worst.tolist()
                if self.contaminated[i]
            ],
        }


def contamination(
    training: Sequence[Prompt],
    evaluation: Sequence[Prompt],
    *,
    n: int = N_GRAM,
    threshold: float = THRESHOLD,
) -> Contamination:
    """Compare each evaluation prompt with all training prompts.

    Runs are compared by a 64-bit hash; a false match needs two of 2**64 to meet.

    Args:
        training: prompts that a model learns from.
        evaluation: ``[prompts]``.
        n: words in a run; a prompt of fewer words can match only exactly.
        threshold: see :class:`Contamination`.
    """
    index: dict[str, int] = {}
    train = [_words(prompt, index) for prompt in training]
    whole: dict[bytes, int] = {}
    for place, words in enumerate(train):
        whole.setdefault(words.tobytes(), place)
    for place, prompt in enumerate(training):
        for turn in prompt:
            if turn.role == "user":
                whole.setdefault(_words((turn,), index).tobytes(), place)
    runs = [_runs(words, n) for words in train]
    every = np.concatenate([*runs, np.empty(0, np.uint64)])
    owner = np.repeat(np.arange(len(train)), [len(r) for r in runs])
    # The first of equal runs is the first prompt that has it.
    known, first = np.unique(every, return_index=True)
    exact = np.zeros(len(evaluation), bool)
    overlap = np.zeros(len(evaluation))
    source = np.full(len(evaluation), -1, np.int64)
    for place, prompt in enumerate(evaluation):
        words = _words(prompt, index)
        same = whole.get(words.tobytes()) if len(words) else None
        if same is not None:
            exact[place], overlap[place], source[place] = True, 1.0, same
            continue
        own = _runs(words, n)
        if not len(own) or not len(known):
            continue
        at = np.minimum(np.searchsorted(known, own), len(known) - 1)
        found = known[at] == own
        if found.any():
            covered = np.convolve(found, np.ones(n, int)) > 0
            overlap[place] = covered.mean()
            source[place] = np.bincount(owner[first[at[found]]]).argmax()
    return Contamination(exact, overlap, source, n, threshold)


def _words(prompt: Prompt, index: dict[str, int]) -> NDArray[np.int64]:
    """Numbers of the words that user and assistant said, without who said them."""
    text = " ".join(m.content for m in prompt if m.role != "system").lower()
    return np.array([index.setdefault(w, len(index)) for w in _WORD.findall(text)], np.int64)


def _runs(words: NDArray[np.int64], n: int) -> NDArray[np.uint64]:
    """Hashes of all runs of n words, ``[words - n + 1]``."""
    if len(words) < n:
        return np.empty(0, np.uint64)
    numbers = words.astype(np.uint64) + np.uint64(1)
    hashes = np.zeros(len(words) - n + 1, np.uint64)
    for k in range(n):
        hashes = (hashes ^ (hashes >> np.uint64(29))) * _BASE + numbers[k : k + len(hashes)]
    return hashes
