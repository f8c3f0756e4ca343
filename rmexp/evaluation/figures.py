"""Figures of a suite that carry what they are made of, so that two models' can be compared.

Every figure here is a weighted sum of means of per-row values: a section of RewardBench weighs the
accuracies of its subsets, an accuracy over pairs is one mean.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rmexp.statistics import SHARE, Interval, of_differences, unanimous
from rmexp.statistics.bootstrap import alike, resampled_parts

_Parts = Sequence[tuple[float, NDArray[np.float64], tuple[Hashable, ...] | None]]
_RESAMPLES = 4000


@dataclass(frozen=True)
class Part:
    """Rows that are drawn again among themselves, but for what other parts have of their groups.

    Attributes:
        weight: of their mean in the figure.
        values: ``[rows]``.
        groups: ``[rows]``; rows of one group are drawn together, in all parts of a figure at once.
            None: each alone.
    """

    weight: float
    values: NDArray[np.float64]
    groups: tuple[Hashable, ...] | None = None


@dataclass(frozen=True)
class Figure:
    """One number of a result.

    Attributes:
        name: section, subset or metric.
        parts: what it is the weighted sum of.
        of_published: rows there and rows of the published set; None where that is not known.
    """

    name: str
    parts: tuple[Part, ...]
    of_published: tuple[int, int] | None = None

    @property
    def estimate(self) -> float:
        """The weighted sum of the parts' means."""
        return float(sum(part.weight * part.values.mean() for part in self.parts))

    @property
    def rows(self) -> int:
        """Rows it is made of."""
        return self.of_published[0] if self.of_published else sum(len(p.values) for p in self.parts)

    @property
    def partial(self) -> bool:
        """Whether rows of the published set are missing."""
        return self.of_published is not None and self.of_published[0] < self.of_published[1]

    def interval(self, *, level: float = 0.95, seed: int = 0) -> Interval:
        """Percentile bootstrap interval, rows resampled within their part, shared groups in all.

        Where all rows agree in every part, that of :func:`~rmexp.statistics.unanimous`.
        """
        parts = [(p.weight, p.values, p.groups) for p in self.parts]
        return _interval(self.estimate, parts, SHARE, level, seed)

    def to_plain(self, seed: int = 0) -> dict[str, Any]:
        """Plain data for a result file."""
        interval = self.interval(seed=seed)
        return {
            "name": self.name,
            "estimate": interval.estimate,
            "low": interval.low,
            "high": interval.high,
            "rows": self.rows,
            "partial": list(self.of_published) if self.of_published and self.partial else None,
        }


def difference(first: Figure, second: Figure, *, level: float = 0.95, seed: int = 0) -> Interval:
    """Interval of first minus second, both on the same rows, resampled together.

    Raises:
        ValueError: the two are not made of the same rows.
    """
    paired = []
    for a, b in zip(first.parts, second.parts, strict=True):
        if a.weight != b.weight or len(a.values) != len(b.values) or a.groups != b.groups:
            raise ValueError(f"{first.name} and {second.name} are not figures on the same rows")
        paired.append((a.weight, a.values - b.values, a.groups))
    estimate = first.estimate - second.estimate
    return _interval(estimate, paired, of_differences(SHARE), level, seed)


def _interval(
    estimate: float, parts: _Parts, bounds: tuple[float, float], level: float, seed: int
) -> Interval:
    counts = [alike(values, groups) for _, values, groups in parts]
    if None not in counts:
        low = high = 0.0
        for (weight, values, _), count in zip(parts, counts, strict=True):
            assert count is not None
            part = unanimous(float(values.mean()), count, bounds, level=level)
            low, high = low + weight * part.low, high + weight * part.high
        return Interval(estimate, low, high, level, unanimous=True)
    generator = np.random.default_rng(seed)
    samples = [(values, groups) for _, values, groups in parts]
    means = resampled_parts(samples, resamples=_RESAMPLES, generator=generator)
    total = np.array([weight for weight, _, _ in parts]) @ means
    low, high = np.quantile(total, [(1 - level) / 2, (1 + level) / 2])
    return Interval(estimate, float(low), float(high), level)
