"""Relevance: how much a rule has to do with a prompt."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from rmexp.preferences import Prompt, prompt_text
from rmexp.rating.rater import Embedder
from rmexp.rules import Rule

_PROMPTS_AT_ONCE = 4096


def rule_text(rule: Rule) -> str:
    """What stands for a rule when its relevance is measured: its sentence and when it applies.

    >>> rule_text(Rule("x", "The response is kind.", "respect", "The user is sad."))
    'The response is kind. The user is sad.'
    """
    return f"{rule.sentence} {rule.applies_when}".strip()


def embedding_relevance(
    prompt_embeddings: NDArray[np.floating], rule_embeddings: NDArray[np.floating]
) -> NDArray[np.float32]:
    """Relevance from embeddings (method, section 3, second case).

    The cosine of prompt and rule, mapped for each prompt so that the least related rule of the
    set has 0 and the most related 1: ``(c - min c) / (max c - min c)``. Where all rules are
    equally near (one rule, or equal texts) every relevance is 1.

    Args:
        prompt_embeddings: ``[prompts, dim]``, rows of unit length.
        rule_embeddings: ``[rules, dim]``, rows of unit length.

    Returns:
        float32 ``[prompts, rules]`` in [0, 1].

    >>> embedding_relevance(np.eye(2), np.array([[1.0, 0.0], [0.0, 1.0], [0.6, 0.8]])).round(2)
    array([[1. , 0. , 0.6],
           [0. , 1. , 0.8]], dtype=float32)
    """
    cosine = np.asarray(prompt_embeddings) @ np.asarray(rule_embeddings).T
    least = cosine.min(axis=1, keepdims=True)
    spread = cosine.max(axis=1, keepdims=True) - least
    flat = spread <= np.finfo(np.float32).eps
    scaled = (cosine - least) / np.where(flat, 1, spread)
    return np.where(flat, 1, scaled).astype(np.float32)


def prompt_relevance(
    prompts: Sequence[Prompt], rules: Sequence[Rule], embedder: Embedder
) -> NDArray[np.float32]:
    """:func:`embedding_relevance` of prompts: float32 ``[prompts, rules]``; equal prompts once."""
    of_rules = embedder.embed([rule_text(rule) for rule in rules])
    texts = [prompt_text(prompt) for prompt in prompts]
    distinct = list(dict.fromkeys(texts))
    place = {text: i for i, text in enumerate(distinct)}
    parts = [
        embedding_relevance(embedder.embed(distinct[start : start + _PROMPTS_AT_ONCE]), of_rules)
        for start in range(0, len(distinct), _PROMPTS_AT_ONCE)
    ]
    if not parts:
        return np.zeros((0, len(rules)), np.float32)
    return np.concatenate(parts)[[place[text] for text in texts]]
