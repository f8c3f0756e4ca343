"""Intervals, paired comparisons and bias measures on plain arrays."""

from rmexp.statistics.bias import LengthBias, length_bias, rank_correlation
from rmexp.statistics.bootstrap import (
    SHARE,
    Interval,
    bootstrap_mean,
    of_differences,
    paired_difference,
    unanimous,
)
from rmexp.statistics.calibration import Calibration, margin_calibration
from rmexp.statistics.crossed import bootstrap_crossed

__all__ = [
    "SHARE",
    "Calibration",
    "Interval",
    "LengthBias",
    "bootstrap_crossed",
    "bootstrap_mean",
    "length_bias",
    "margin_calibration",
    "of_differences",
    "paired_difference",
    "rank_correlation",
    "unanimous",
]
