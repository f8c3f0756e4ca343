"""Style robustness, where a set says in which style each response is written.

RM-Bench (Liu et al., arXiv 2410.16184) writes every right and every wrong answer in several styles,
from plain to elaborate. A scorer that judges content is as right when the wrong answer is the
more elaborate one as when it is the plainer.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rmexp.preferences import Pair

_CHOSEN, _REJECTED = "chosen_style", "rejected_style"


@dataclass(frozen=True)
class StyleRobustness:
    """Accuracy by the styles of the two sides.

    Attributes:
        styles: from plain to elaborate.
        accuracy: ``[styles, styles]``, of chosen (rows) against rejected; NaN without a pair.
        count: ``[styles, styles]``, pairs.
    """

    styles: tuple[str, ...]
    accuracy: NDArray[np.float64]
    count: NDArray[np.int64]

    def metrics(self) -> dict[str, float]:
        """Accuracy where style speaks for the chosen side, for neither, against it; and the gap."""
        places = np.subtract.outer(np.arange(len(self.styles)), np.arange(len(self.styles)))
        numbers = {}
        for name, where in (("with", places > 0), ("same", places == 0), ("against", places < 0)):
            count = self.count[where]
            if count.sum():
                right = np.where(count > 0, self.accuracy[where], 0.0) @ count
                numbers[f"accuracy_style_{name}"] = float(right / count.sum())
        if {"accuracy_style_with", "accuracy_style_against"} <= numbers.keys():
            gap = numbers["accuracy_style_with"] - numbers["accuracy_style_against"]
            numbers["style_gap"] = gap
        return numbers

    def to_plain(self) -> dict[str, Any]:
        """Plain data; null without a pair."""
        return {
            "styles": list(self.styles),
            "accuracy": [[None if np.isnan(v) else v for v in r] for r in self.accuracy.tolist()],
            "count": self.count.tolist(),
        }


def style_tags(chosen: tuple[int, str], rejected: tuple[int, str]) -> tuple[str, str]:
    """Tags of a pair: place (plain first) and name of each side's style."""
    return (f"{_CHOSEN}:{chosen[0]}:{chosen[1]}", f"{_REJECTED}:{rejected[0]}:{rejected[1]}")


def style_robustness(pairs: Sequence[Pair], correct: NDArray[np.bool_]) -> StyleRobustness | None:
    """Accuracy by styles, None where no pair is tagged with them.

    Args:
        pairs: ``[pairs]``, those with styles tagged by :func:`style_tags`.
        correct: ``[pairs]``.
    """
    styles: dict[int, str] = {}
    rows = []
    for pair, right in zip(pairs, correct, strict=True):
        tags = dict(t.split(":", 1) for t in pair.tags if t.startswith((_CHOSEN, _REJECTED)))
        if len(tags) == 2:
            places = []
            for side in (_CHOSEN, _REJECTED):
                place, name = tags[side].split(":", 1)
                styles[int(place)] = name
                places.append(int(place))
            rows.append((*places, bool(right)))
    if not rows:
        return None
    order = {place: i for i, place in enumerate(sorted(styles))}
    shape = (len(order), len(order))
    right_of, count = np.zeros(shape), np.zeros(shape, np.int64)
    for good, bad, right in rows:
        at = order[good], order[bad]
        right_of[at] += right
        count[at] += 1
    accuracy = np.where(count > 0, right_of / np.maximum(count, 1), np.nan)
    return StyleRobustness(tuple(styles[p] for p in sorted(styles)), accuracy, count)
