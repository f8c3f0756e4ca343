"""What was read, what was dropped, and why."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field


@dataclass
class ReadReport:
    """Counts of a reading, with the first places of each reason for dropping."""

    source: str
    read: int = 0
    kept: int = 0
    dropped: Counter[str] = field(default_factory=Counter)
    examples: dict[str, list[str]] = field(default_factory=dict)
    notes: dict[str, int] = field(default_factory=dict)

    def drop(self, reason: str, where: str, count: int = 1) -> None:
        """Count dropped rows under a reason; the first three places are kept."""
        self.dropped[reason] += count
        places = self.examples.setdefault(reason, [])
        if len(places) < 3:
            places.append(where)

    def to_plain(self) -> dict[str, object]:
        """Plain data for a record."""
        return {
            "source": self.source,
            "read": self.read,
            "kept": self.kept,
            "dropped": dict(self.dropped),
            "examples": dict(self.examples),
            "notes": dict(self.notes),
        }

    def __str__(self) -> str:
        reasons = ", ".join(
            f"{n} {reason} (first: {self.examples[reason][0]})"
            for reason, n in self.dropped.items()
        )
        notes = "".join(f"; {count} {what}" for what, count in self.notes.items())
        return (
            f"{self.source}: read {self.read}, kept {self.kept}"
            + (f", dropped {reasons}" if reasons else "")
            + notes
        )
