"""The Scorer protocol, and scores that can be trusted to be numbers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from rmexp.errors import UserError
from rmexp.preferences.pair import Prompt


class ScoreError(UserError, ValueError):
    """A scorer gave something that is no score."""


class Scorer(Protocol):
    """Anything that scores responses to prompts; higher is better."""

    def score(self, prompts: Sequence[Prompt], responses: Sequence[str]) -> NDArray[np.float64]:
        """Scores ``[n]`` of n (prompt, response).

        A scorer that refuses its own NaN raises ArithmeticError with ``rows``, their places. One
        that keeps in ``how_scored`` how it last ran is quoted in the result, see
        :func:`how_scored`.
        """


def how_scored(scorer: Scorer) -> dict[str, Any] | None:
    """How a scorer made its latest scores, None of one that does not say.

    Of a reward model: ``template``, ``max_length``, ``precision``, ``texts`` (each once),
    ``texts_cut`` and ``responses_cut``, those that were longer than ``max_length``.
    """
    told = getattr(scorer, "how_scored", None)
    return dict(told) if told else None


def checked_scores(
    scorer: Scorer, prompts: Sequence[Prompt], responses: Sequence[str], names: Sequence[str]
) -> NDArray[np.float64]:
    """Score, each text once, and refuse what is no number.

    Args:
        scorer: of any kind.
        prompts: ``[n]``.
        responses: ``[n]``.
        names: ``[n]``, what to call each row in an error.

    Raises:
        ScoreError: the scorer returned another shape, or a NaN or infinite score; names the row.
    """
    index: dict[tuple[Prompt, str], int] = {}
    place = [index.setdefault(row, len(index)) for row in zip(prompts, responses, strict=True)]
    unique = list(index)
    try:
        found = scorer.score([p for p, _ in unique], [r for _, r in unique])
    except ArithmeticError as error:
        if not getattr(error, "rows", ()):
            raise
        name = names[place.index(error.rows[0])]  # type: ignore[attr-defined]
        raise ScoreError(f"row {name}: the score is not a finite number") from error
    scores = np.asarray(found, np.float64)
    if scores.shape != (len(unique),):
        raise ScoreError(f"the scorer returned shape {scores.shape} for {len(unique)} texts")
    spread = scores[place]
    bad = np.flatnonzero(~np.isfinite(spread))
    if bad.size:
        raise ScoreError(f"row {names[bad[0]]}: the score is {spread[bad[0]]}, not a finite number")
    return spread
