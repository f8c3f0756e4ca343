"""Intervals over two crossed sources of chance: the samples and the seeds."""

from __future__ import annotations

from collections.abc import Hashable, Sequence

import numpy as np
from numpy.typing import NDArray

from rmexp.statistics.bootstrap import Interval, alike, unanimous

# Resampled counts held at a time: bounds memory whatever the sample's size.
_BUDGET = 4_000_000


def bootstrap_crossed(
    values: NDArray[np.floating],
    *,
    groups: Sequence[Hashable] | None = None,
    bounds: tuple[float, float] | None = None,
    level: float = 0.95,
    resamples: int = 4000,
    seed: int = 0,
) -> Interval:
    """Percentile interval of the mean where every seed was measured on every sample.

    It speaks about other seeds and other samples. Samples, of which there are many, are drawn with
    replacement. Seeds are few, and drawing m of them with replacement shows only (m - 1) / m of
    their variance, in steps: instead the mean over the seeds is moved by Student's t with m - 1
    degrees of freedom times its standard error, as measured on the samples drawn. That is the
    posterior of the mean of m normal values of unknown variance (Gelman et al., Bayesian Data
    Analysis, 3rd edition, section 3.2), and alone gives the usual t interval. Two seeds give a very
    wide interval, as they should.

    What is particular to one seed on one sample counts in both parts, so that the interval errs on
    the wide side, as the bootstrap of both margins does (Owen, Annals of Applied Statistics 1(2),
    2007). For a paired comparison hand in the differences. A single seed tells nothing of others:
    the interval is of other samples alone.

    Args:
        values: ``[seeds, samples]``, finite.
        groups: ``[samples]``; samples of one group (such as a prompt) are drawn together.
        bounds: as for :func:`~rmexp.statistics.bootstrap_mean`; the interval stays within them.
            Where all seeds agree on equal samples, each sample counts once: more seeds do not tell
            of other samples.
        level: of the interval, in (0, 1).
        resamples: draws of samples, each with one of the seeds' mean.
        seed: the same seed, the same interval.

    Raises:
        ValueError: for no values, values that are not finite, or options out of range.
    """
    table = np.asarray(values, np.float64)
    if table.ndim != 2 or not table.size:
        raise ValueError(f"wanted a table [seeds, samples] of values, got shape {table.shape}")
    if not np.isfinite(table).all():
        raise ValueError("the table has values that are not finite")
    if not 0 < level < 1:
        raise ValueError(f"level must be between 0 and 1, got {level}")
    if resamples < 1:
        raise ValueError(f"resamples must be 1 or more, got {resamples}")
    sums, counts = _by_group(table, groups)
    if bounds is not None and alike((sums / counts).ravel()) is not None:
        return unanimous(float(table.mean()), len(counts), bounds, level=level)
    runs, kinds = sums.shape
    generator = np.random.default_rng(seed)
    means = np.empty(resamples)
    step = max(1, _BUDGET // kinds)
    for start in range(0, resamples, step):
        size = min(step, resamples - start)
        drawn = generator.multinomial(kinds, np.full(kinds, 1 / kinds), size=size)
        by_seed = (drawn @ sums.T) / (drawn @ counts)[:, None]
        means[start : start + size] = by_seed.mean(1)
        if runs > 1:
            error = by_seed.std(1, ddof=1) / np.sqrt(runs)
            means[start : start + size] += error * generator.standard_t(runs - 1, size)
    low, high = np.quantile(means, [(1 - level) / 2, (1 + level) / 2])
    if bounds is not None:
        low, high = np.clip([low, high], *bounds)
    return Interval(float(table.mean()), float(low), float(high), level)


def _by_group(
    table: NDArray[np.float64], groups: Sequence[Hashable] | None
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Sums ``[seeds, groups]`` and sizes ``[groups]``."""
    samples = table.shape[1]
    if groups is None:
        return table, np.ones(samples)
    if len(groups) != samples:
        raise ValueError(f"{len(groups)} groups for {samples} samples")
    index: dict[Hashable, int] = {}
    place = np.array([index.setdefault(group, len(index)) for group in groups])
    sums = np.stack([np.bincount(place, row) for row in table])
    return sums.astype(np.float64), np.bincount(place).astype(np.float64)
