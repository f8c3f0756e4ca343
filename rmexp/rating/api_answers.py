"""Reading an endpoint's answers: log probabilities, words, numbered lines, Retry-After."""

from __future__ import annotations

import email.utils
import math
import re
import time
from collections.abc import Mapping
from typing import Any

from rmexp.rating.yes_no import ANSWERS

Weights = tuple[float, float, float]
_WORDS = tuple(answer.casefold() for answer in ANSWERS)
# Below this the model is about to say something else, such as a refusal.
_LEAST_MASS = 0.05
_LINE = re.compile(r"^\W*(\d+)\W+(yes|no|irrelevant)\b", re.IGNORECASE | re.MULTILINE)
_FIRST_WORD = re.compile(r"^\W*(yes|no|irrelevant)\b", re.IGNORECASE)


def is_malformed(completion: Any) -> bool:
    """Whether a body is no chat completion: the client passes some through unchecked."""
    choices = getattr(completion, "choices", None)
    return not choices or getattr(choices[0], "message", None) is None


def answer_weights(choice: Any) -> Weights | None:
    """Probabilities of Yes, No, Irrelevant at the first token; None where they are not given.

    Tokens that spell an answer, or begin it with two letters or more, count for it.
    """
    content = getattr(getattr(choice, "logprobs", None), "content", None)
    if not content:
        return None
    weights = [0.0, 0.0, 0.0]
    for candidate in content[0].top_logprobs or [content[0]]:
        text = candidate.token.strip().casefold()
        for place, word in enumerate(_WORDS):
            if len(text) >= 2 and word.startswith(text):
                weights[place] += math.exp(min(candidate.logprob, 0.0))
    return (weights[0], weights[1], weights[2]) if sum(weights) >= _LEAST_MASS else None


def word_weights(text: str) -> Weights | None:
    """All weight on the answer that a text begins with; None for any other text.

    >>> word_weights(" **No**, it does not.")
    (0.0, 1.0, 0.0)
    """
    found = _FIRST_WORD.match(text)
    return None if found is None else _certain(found.group(1))


def listed_answers(text: str, count: int) -> list[Weights | None]:
    """The answers of numbered lines, None where a number is missing.

    >>> listed_answers("1: Yes\\n2. no", 3)
    [(1.0, 0.0, 0.0), (0.0, 1.0, 0.0), None]
    """
    answers: list[Weights | None] = [None] * count
    for number, word in _LINE.findall(text):
        if 1 <= int(number) <= count:
            answers[int(number) - 1] = _certain(word)
    return answers


def retry_after(headers: Mapping[str, str], now: float | None = None) -> float | None:
    """Seconds that ``Retry-After`` asks for, a number or a date; None where it says nothing."""
    value = headers.get("retry-after")
    if value is None:
        return None
    try:
        return max(float(value), 0.0) if math.isfinite(float(value)) else None
    except ValueError:
        pass
    try:
        date = email.utils.parsedate_to_datetime(value)
    except ValueError:
        return None
    return max(date.timestamp() - (time.time() if now is None else now), 0.0)


def _certain(word: str) -> Weights:
    place = _WORDS.index(word.casefold())
    return (float(place == 0), float(place == 1), float(place == 2))
