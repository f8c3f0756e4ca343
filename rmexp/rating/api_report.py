"""What asking an endpoint costs: prices, the estimate before, the report after."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

from rmexp.rating.rater import Item


@dataclass(frozen=True)
class Price:
    """Dollars for a million tokens."""

    input: float
    output: float

    def of(self, input_tokens: float, output_tokens: float) -> float:
        """Dollars."""
        return (input_tokens * self.input + output_tokens * self.output) / 1e6


@dataclass(frozen=True)
class Estimate:
    """What a rating would take: token counts from text length, cost None without a price."""

    requests: int
    ratings: int
    input_tokens: int
    output_tokens: int
    cost: float | None

    def __str__(self) -> str:
        text = (
            f"{self.requests} requests for {self.ratings} ratings, about {self.input_tokens} + "
            f"{self.output_tokens} tokens"
        )
        if self.cost is None:
            return f"{text}; set rater.price for the cost"
        return f"{text}, about ${self.cost:.2f}"


@dataclass
class Report:
    """What has been asked of an endpoint so far, and what came of it.

    Attributes:
        requests: requests sent, retries included.
        ratings: ratings received.
        words: those of them that were read from the answer's word, for want of probabilities.
        retries: requests sent again, by reason.
        unrated: ratings that could not be had, by reason.
        reasons: why, for each (item, rule id) of them.
        input_tokens: as the endpoint counts them, or estimated where it does not.
        output_tokens: likewise.
        cost: dollars; 0 without a price.
    """

    requests: int = 0
    ratings: int = 0
    words: int = 0
    retries: Counter[str] = field(default_factory=Counter)
    unrated: Counter[str] = field(default_factory=Counter)
    reasons: dict[tuple[Item, str], str] = field(default_factory=dict)
    input_tokens: int = 0
    output_tokens: int = 0
    cost: float = 0.0

    def give_up(self, item: Item, rule_ids: Sequence[str], reason: str) -> None:
        """Count ratings that cannot be had."""
        self.unrated[reason] += len(rule_ids)
        self.reasons.update({(item, rule_id): reason for rule_id in rule_ids})

    def __str__(self) -> str:
        parts = [f"{self.requests} requests, {self.ratings} ratings"]
        if self.words:
            parts.append(f"{self.words} of them from a word, without probabilities")
        if self.retries:
            parts.append(f"sent again: {_counts(self.retries)}")
        if self.unrated:
            parts.append(f"not rated: {_counts(self.unrated)}")
        parts.append(f"{self.input_tokens} + {self.output_tokens} tokens")
        if self.cost:
            parts.append(f"${self.cost:.4f}")
        return "; ".join(parts)


def _counts(counter: Counter[str]) -> str:
    return ", ".join(f"{reason} x{count}" for reason, count in sorted(counter.items()))
