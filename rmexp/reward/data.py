"""What a reward model is trained on: labelled pairs as arrays."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from rmexp.fingerprint import Fingerprint, fingerprint
from rmexp.preferences.pair import Pair, Prompt


@dataclass(frozen=True)
class TrainingPairs:
    """Labelled pairs.

    Attributes:
        ids: names of the pairs, for messages.
        prompts: ``[pairs]`` dialogues.
        chosen: ``[pairs]`` preferred responses.
        rejected: ``[pairs]`` the others.
        margin: float ``[pairs]``, by how much chosen's reward must lead, or None.
        target: float ``[pairs]`` in [0, 1], probability that chosen is preferred, or None.
        weight: float ``[pairs]``, not negative, or None for equal weights.
    """

    ids: Sequence[str]
    prompts: Sequence[Prompt]
    chosen: Sequence[str]
    rejected: Sequence[str]
    margin: NDArray[np.floating] | None = None
    target: NDArray[np.floating] | None = None
    weight: NDArray[np.floating] | None = None

    def __post_init__(self) -> None:
        count = len(self.prompts)
        for name in ("ids", "chosen", "rejected", "margin", "target", "weight"):
            value = getattr(self, name)
            if value is not None and len(value) != count:
                raise ValueError(f"{name} has {len(value)} entries for {count} prompts")
        for name in ("margin", "target", "weight"):
            value = getattr(self, name)
            if value is not None and not np.isfinite(value).all():
                raise ValueError(f"{name} has entries that are not finite")
        if self.target is not None and ((self.target < 0) | (self.target > 1)).any():
            raise ValueError("target has entries outside 0 to 1")
        if self.weight is not None and (self.weight < 0).any():
            raise ValueError("weight has negative entries")

    def __len__(self) -> int:
        return len(self.prompts)

    @property
    def fingerprint(self) -> Fingerprint:
        """Identity of all that the pairs hold, and of their order."""
        columns = {"margin": self.margin, "target": self.target, "weight": self.weight}
        given = {name: column for name, column in columns.items() if column is not None}
        return fingerprint(
            "labelled pairs",
            ids=self.ids,
            prompts=[[[m.role, m.content] for m in prompt] for prompt in self.prompts],
            chosen=self.chosen,
            rejected=self.rejected,
            **given,
        )

    def take(self, rows: NDArray[np.int64]) -> TrainingPairs:
        """The pairs at some rows, in that order."""

        def pick(values: NDArray[np.floating] | None) -> NDArray[np.floating] | None:
            return None if values is None else np.asarray(values)[rows]

        return TrainingPairs(
            ids=[self.ids[i] for i in rows],
            prompts=[self.prompts[i] for i in rows],
            chosen=[self.chosen[i] for i in rows],
            rejected=[self.rejected[i] for i in rows],
            margin=pick(self.margin),
            target=pick(self.target),
            weight=pick(self.weight),
        )

    @classmethod
    def from_preferences(cls, pairs: Iterable[Pair]) -> TrainingPairs:
        """The pairs that have a human preference, as labels."""
        known = [p for p in pairs if p.preference is not None]
        return cls(
            ids=[p.id for p in known],
            prompts=[p.prompt for p in known],
            chosen=[p.chosen for p in known],
            rejected=[p.rejected for p in known],
        )
