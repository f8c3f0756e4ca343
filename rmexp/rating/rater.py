"""The rater's protocol: how well a response follows each rule."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from rmexp.errors import UserError
from rmexp.fingerprint import Fingerprint
from rmexp.preferences import Prompt
from rmexp.rules import Rule


@dataclass(frozen=True, slots=True)
class Item:
    """One response to one prompt: what a rater rates."""

    prompt: Prompt
    response: str


@dataclass(frozen=True)
class RatedBatch:
    """Ratings of some items by some rules (method, section 1).

    Attributes:
        psi: float32 ``[items, rules]`` in [-1, 1]; NaN where not wanted or not rateable.
        relevance: float32 ``[items, rules]`` in [0, 1], NaN likewise; None from a rater that
            measures no relevance of its own.
    """

    psi: NDArray[np.float32]
    relevance: NDArray[np.float32] | None = None


class RaterStopped(UserError):
    """The rater cannot go on, whatever it is asked.

    Attributes:
        rated: what it rated before, which may have been paid for.
    """

    def __init__(self, message: str, rated: RatedBatch):
        super().__init__(message)
        self.rated = rated


class Rater(Protocol):
    """Anything that rates responses by rules."""

    @property
    def fingerprint(self) -> Fingerprint:
        """Identity: two raters of equal fingerprint give equal ratings."""

    def rate(
        self,
        items: Sequence[Item],
        rules: Sequence[Rule],
        wanted: NDArray[np.bool_] | None = None,
    ) -> RatedBatch:
        """Rate items by rules.

        A rating depends on its item and its rule alone, never on what is rated beside it.

        Args:
            items: responses with their prompts.
            rules: the rules, one per column.
            wanted: bool ``[items, rules]``, the entries to rate; None for all.

        Raises:
            RaterStopped: the rater cannot go on; its ratings so far are kept.
        """


class Embedder(Protocol):
    """Anything that gives a text one vector, such as ``rmexp.backbone``'s ``SentenceEncoder``."""

    @property
    def fingerprint(self) -> Fingerprint:
        """Identity: equal fingerprints embed equally."""

    def embed(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """float32 ``[texts, dim]``, rows of unit length."""


def only_wanted(
    values: NDArray[np.float32], wanted: NDArray[np.bool_] | None
) -> NDArray[np.float32]:
    """NaN where an entry is not wanted: for raters that compute whole blocks at once."""
    if wanted is None:
        return values
    if wanted.shape != values.shape:
        raise ValueError(f"wanted {wanted.shape} must be [items, rules] {values.shape}")
    return np.where(wanted, values, np.float32(np.nan))
