"""A rule: one sentence that can be judged on a single response."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass

from rmexp.fingerprint import Fingerprint, fingerprint


@dataclass(frozen=True, slots=True)
class Example:
    """A short exchange that follows or breaks a rule."""

    prompt: str
    response: str


@dataclass(frozen=True, slots=True)
class Rule:
    """A rule with what a rater needs to know of it.

    Attributes:
        id: unique within a rule set.
        sentence: what a response must do, judged on one response.
        category: the group of the rule.
        applies_when: the prompts to which the rule has something to say.
        follows: exchanges that follow the rule.
        breaks: exchanges that break it.
    """

    id: str
    sentence: str
    category: str
    applies_when: str = ""
    follows: tuple[Example, ...] = ()
    breaks: tuple[Example, ...] = ()

    @property
    def fingerprint(self) -> Fingerprint:
        """Identity by content: everything a rater may read, but not the id."""
        content = asdict(self)
        del content["id"]
        return fingerprint("rule", **content)


@dataclass(frozen=True)
class RuleSet:
    """An ordered set of rules; column i of every rating array is ``rules[i]``."""

    name: str
    rules: tuple[Rule, ...]

    def __len__(self) -> int:
        return len(self.rules)

    def __iter__(self) -> Iterator[Rule]:
        return iter(self.rules)

    @property
    def ids(self) -> list[str]:
        """The rules' ids, in order."""
        return [rule.id for rule in self.rules]

    @property
    def fingerprint(self) -> Fingerprint:
        """Identity by content and order; the name does not count."""
        return fingerprint(
            "rules", **{f"{i:04d}:{r.id}": r.fingerprint for i, r in enumerate(self.rules)}
        )
