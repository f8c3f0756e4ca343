"""How scores are distributed, and how they have moved from another checkpoint's."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from rmexp.statistics import rank_correlation

_QUANTILES = (0.0, 0.05, 0.25, 0.5, 0.75, 0.95, 1.0)
# The names of a drift's numbers.
SCORE_DRIFT = ("score_shift", "score_scale", "score_rank_correlation", "score_distance")


def score_quantiles(scores: NDArray[np.floating]) -> dict[str, float]:
    """Quantiles of scores ``[n]``, by their level."""
    found = np.quantile(scores, _QUANTILES)
    return {str(q): float(v) for q, v in zip(_QUANTILES, found, strict=True)}


@dataclass(frozen=True)
class ScoreDrift:
    """From the earlier scores to the later.

    Attributes:
        shift: change of the mean, in standard deviations of the earlier scores.
        scale: standard deviation of the later over that of the earlier.
        rank_correlation: Spearman's; 1 where the order of all texts has stayed.
        distance: Kolmogorov-Smirnov distance of the two distributions, in [0, 1].
    """

    shift: float
    scale: float
    rank_correlation: float
    distance: float

    def metrics(self) -> dict[str, float]:
        """Flat numbers; those that are undefined here are left out."""
        numbers = (self.shift, self.scale, self.rank_correlation, self.distance)
        named = zip(SCORE_DRIFT, numbers, strict=True)
        return {name: float(v) for name, v in named if math.isfinite(v)}


def score_drift(earlier: NDArray[np.floating], later: NDArray[np.floating]) -> ScoreDrift:
    """Drift between two checkpoints.

    Args:
        earlier: ``[texts]``, at least one.
        later: ``[texts]``, the same texts in the same order.
    """
    first, second = np.asarray(earlier, np.float64), np.asarray(later, np.float64)
    if first.shape != second.shape or not first.size:
        raise ValueError(f"drift needs scores of the same texts: {first.shape}, {second.shape}")
    spread = float(first.std())
    places = np.concatenate([first, second])
    below = [np.searchsorted(np.sort(s), places, side="right") / s.size for s in (first, second)]
    return ScoreDrift(
        shift=float(second.mean() - first.mean()) / spread if spread else math.nan,
        scale=float(second.std()) / spread if spread else math.nan,
        rank_correlation=rank_correlation(first, second),
        distance=float(np.abs(below[0] - below[1]).max()),
    )
