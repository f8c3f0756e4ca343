"""Whether sigmoid(margin) is the probability of being right."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Calibration:
    """Reliability of the stated confidence.

    Attributes:
        ece: expected calibration error: mean over pairs of |confidence - accuracy| of their bin.
        confidence: mean confidence of each bin that is not empty.
        accuracy: accuracy of each, a tie counting half: at confidence 1/2 no side is named.
        count: pairs in each.
    """

    ece: float
    confidence: NDArray[np.float64]
    accuracy: NDArray[np.float64]
    count: NDArray[np.int64]


def margin_calibration(margins: NDArray[np.floating], bins: int = 10) -> Calibration:
    """Calibration of a Bradley-Terry model: confidence is sigmoid(|margin|), in [1/2, 1].

    Args:
        margins: ``[pairs]``, score of chosen minus score of rejected.
        bins: equal widths over [1/2, 1].
    """
    margins = np.asarray(margins, np.float64)
    # exp of a negative number only: no overflow for any margin.
    confidence = 1 / (1 + np.exp(-np.abs(margins)))
    place = np.minimum(((confidence - 0.5) * 2 * bins).astype(int), bins - 1)
    count = np.bincount(place, minlength=bins)
    kept = count > 0
    stated = np.bincount(place, confidence, bins)[kept] / count[kept]
    actual = np.bincount(place, (np.sign(margins) + 1) / 2, bins)[kept] / count[kept]
    ece = float((np.abs(stated - actual) * count[kept]).sum() / max(1, margins.size))
    return Calibration(ece, stated, actual, count[kept])
