"""Bootstrap intervals of means and of paired differences, and Wilson's where all values agree."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

# Resampled values held at a time: bounds memory whatever the sample's size.
_BUDGET = 4_000_000
# What a share or an accuracy can be.
SHARE = (0.0, 1.0)
# Group means that differ by less are equal: they are quotients of sums.
_EQUAL = 1e-12
# Up to here, counting each kind of group is cheaper than drawing the groups one by one.
_FEW_KINDS = 64


@dataclass(frozen=True)
class Interval:
    """An estimate with its interval.

    Attributes:
        estimate: the mean.
        low, high: ends of the percentile bootstrap interval.
        level: of the interval, in (0, 1).
        unanimous: all samples were equal, so that ``low`` and ``high`` are those of
            :func:`unanimous`, not the bootstrap's.
    """

    estimate: float
    low: float
    high: float
    level: float
    unanimous: bool = False

    @property
    def ends(self) -> str:
        """Both ends in words."""
        return f"{self.low:.3f} to {self.high:.3f}{', all alike' if self.unanimous else ''}"

    def __str__(self) -> str:
        return f"{self.estimate:.3f} ({self.ends})"


def bootstrap_mean(
    values: NDArray[np.floating] | Sequence[float],
    *,
    groups: Sequence[Hashable] | None = None,
    bounds: tuple[float, float] | None = None,
    level: float = 0.95,
    resamples: int = 4000,
    seed: int = 0,
) -> Interval:
    """Percentile bootstrap interval of the mean.

    Where all values are equal, resampling sees no variation, which is not certainty: with
    ``bounds`` the interval is that of :func:`unanimous`, without them it has no width.

    Args:
        values: ``[n]``, finite.
        groups: ``[n]``; values of one group (such as a prompt) are drawn together, since they
            are not independent. The mean stays the mean over values.
        bounds: the least and the greatest that a value can be, such as :data:`SHARE`.
        level: of the interval, in (0, 1).
        resamples: bootstrap samples.
        seed: the same seed, the same interval.

    Raises:
        ValueError: for no values, values that are not finite, or options out of range.
    """
    sample = np.asarray(values, np.float64)
    if sample.ndim != 1 or not sample.size:
        raise ValueError(f"a bootstrap needs a vector of values, got shape {sample.shape}")
    if not np.isfinite(sample).all():
        raise ValueError(f"value {int(np.argmin(np.isfinite(sample)))} is not finite")
    if not 0 < level < 1:
        raise ValueError(f"level must be between 0 and 1, got {level}")
    if resamples < 1:
        raise ValueError(f"resamples must be 1 or more, got {resamples}")
    if bounds is not None and (count := alike(sample, groups)) is not None:
        return unanimous(float(sample.mean()), count, bounds, level=level)
    generator = np.random.default_rng(seed)
    means = resampled_means(sample, groups=groups, resamples=resamples, generator=generator)
    low, high = np.quantile(means, [(1 - level) / 2, (1 + level) / 2])
    return Interval(float(sample.mean()), float(low), float(high), level)


def paired_difference(
    first: NDArray[np.floating] | Sequence[float],
    second: NDArray[np.floating] | Sequence[float],
    *,
    groups: Sequence[Hashable] | None = None,
    bounds: tuple[float, float] | None = None,
    level: float = 0.95,
    resamples: int = 4000,
    seed: int = 0,
) -> Interval:
    """Interval of mean(first - second) over the same samples, resampled together.

    ``bounds`` are those of a value, not of a difference.

    Raises:
        ValueError: for lengths that differ, and as :func:`bootstrap_mean`.
    """
    a, b = np.asarray(first, np.float64), np.asarray(second, np.float64)
    if a.shape != b.shape:
        raise ValueError(f"paired samples differ in shape: {a.shape} and {b.shape}")
    return bootstrap_mean(
        a - b,
        groups=groups,
        bounds=None if bounds is None else of_differences(bounds),
        level=level,
        resamples=resamples,
        seed=seed,
    )


def of_differences(bounds: tuple[float, float]) -> tuple[float, float]:
    """What a difference of two values within ``bounds`` can be.

    >>> of_differences(SHARE)
    (-1.0, 1.0)
    """
    low, high = bounds
    return low - high, high - low


def unanimous(
    value: float, count: int, bounds: tuple[float, float], *, level: float = 0.95
) -> Interval:
    """Interval of a mean of which ``count`` independent samples were all ``value``.

    Seen 0 times in ``count``, samples of another value are a share of at most
    u = z^2 / (count + z^2) of all: the end of Wilson's score interval (Wilson, Journal of the
    American Statistical Association 22, 1927). Wherever within ``bounds`` they lie, the mean is
    between value - u (value - least) and value + u (greatest - value). For a share that is
    Wilson's interval itself; for a difference it is on the wide side.

    >>> str(unanimous(1.0, 16, SHARE))
    '1.000 (0.806 to 1.000, all alike)'
    """
    z = NormalDist().inv_cdf((1 + level) / 2)
    others = z**2 / (count + z**2)
    least, greatest = bounds
    low = value - others * max(0.0, value - least)
    high = value + others * max(0.0, greatest - value)
    return Interval(value, low, high, level, unanimous=True)


def alike(values: NDArray[np.float64], groups: Sequence[Hashable] | None = None) -> int | None:
    """Number of independent samples in values ``[n]`` where all are equal; None where they differ.

    A sample is a value, or the mean of a group.
    """
    sums, counts = _by_group(values, groups)
    means = sums / counts
    return len(means) if np.ptp(means) <= _EQUAL else None


def resampled_means(
    values: NDArray[np.float64],
    *,
    groups: Sequence[Hashable] | None,
    resamples: int,
    generator: np.random.Generator,
) -> NDArray[np.float64]:
    """Means ``[resamples]`` of samples drawn again from values ``[n]``, by group."""
    sums, counts = _by_group(values, groups)
    kinds, times = np.unique(np.stack([sums, counts]), axis=1, return_counts=True)
    if kinds.shape[1] <= _FEW_KINDS:
        # How often each kind of group is drawn is multinomial: exact, and cheap for accuracies.
        drawn = generator.multinomial(len(sums), times / len(sums), size=resamples)
        return (drawn @ kinds[0]) / (drawn @ kinds[1])
    means = np.empty(resamples)
    step = max(1, _BUDGET // len(sums))
    for start in range(0, resamples, step):
        shape = (min(step, resamples - start), len(sums))
        drawn = generator.integers(0, len(sums), size=shape)
        means[start : start + step] = sums[drawn].sum(1) / counts[drawn].sum(1)
    return means


def resampled_parts(
    parts: Sequence[tuple[NDArray[np.float64], Sequence[Hashable] | None]],
    *,
    resamples: int,
    generator: np.random.Generator,
) -> NDArray[np.float64]:
    """Means ``[parts, resamples]`` of several samples, the groups that they share drawn together.

    Samples that share no group are drawn each by itself. Of those that do, the groups of all are
    drawn at once, and each sample's mean is over what it has of the drawn groups; draws that leave
    a sample without any are made again.

    Args:
        parts: values ``[n]`` and their groups ``[n]``, None where each value stands alone.
        resamples: bootstrap samples.
        generator: source of chance.
    """
    means = np.empty((len(parts), resamples))
    for places in _linked([groups or () for _, groups in parts]):
        if len(places) > 1:
            means[places] = _joint_means([parts[i] for i in places], resamples, generator)
            continue
        values, groups = parts[places[0]]
        means[places[0]] = resampled_means(
            values, groups=groups, resamples=resamples, generator=generator
        )
    return means


def _linked(groups: Sequence[Sequence[Hashable]]) -> list[list[int]]:
    """Places of samples, those together that share a group with one another or a third.

    >>> _linked([["x", "y"], ["z"], ["y"], []])
    [[0, 2], [1], [3]]
    """
    label = list(range(len(groups)))
    first: dict[Hashable, int] = {}
    for place, own in enumerate(groups):
        for group in own:
            old, new = label[place], label[first.setdefault(group, place)]
            if old != new:
                label = [min(old, new) if at in (old, new) else at for at in label]
    return [[i for i, at in enumerate(label) if at == name] for name in sorted(set(label))]


def _joint_means(
    parts: Sequence[tuple[NDArray[np.float64], Sequence[Hashable] | None]],
    resamples: int,
    generator: np.random.Generator,
) -> NDArray[np.float64]:
    index: dict[Hashable, int] = {}
    places = [[index.setdefault(g, len(index)) for g in groups or ()] for _, groups in parts]
    size = len(index)
    sums = [np.bincount(at, values, size) for at, (values, _) in zip(places, parts, strict=True)]
    totals, counts = np.stack(sums), np.stack([np.bincount(at, minlength=size) for at in places])
    means = np.empty((len(parts), resamples))
    step = max(1, _BUDGET // size)
    for start in range(0, resamples, step):
        drawn = _times_drawn(size, min(step, resamples - start), generator)
        while len(bare := np.flatnonzero((drawn @ counts.T == 0).any(1))):
            drawn[bare] = _times_drawn(size, len(bare), generator)
        means[:, start : start + step] = ((drawn @ totals.T) / (drawn @ counts.T)).T
    return means


def _times_drawn(size: int, resamples: int, generator: np.random.Generator) -> NDArray[np.float64]:
    """How often each of ``size`` groups is among as many drawn, ``[resamples, size]``."""
    drawn = generator.integers(0, size, size=(resamples, size))
    drawn += np.arange(resamples)[:, None] * size
    counts = np.bincount(drawn.ravel(), minlength=resamples * size)
    return counts.reshape(resamples, size).astype(np.float64)


def _by_group(
    sample: NDArray[np.float64], groups: Sequence[Hashable] | None
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    if groups is None:
        return sample, np.ones_like(sample)
    if len(groups) != len(sample):
        raise ValueError(f"{len(groups)} groups for {len(sample)} values")
    index: dict[Hashable, int] = {}
    place = np.array([index.setdefault(group, len(index)) for group in groups])
    return np.bincount(place, sample).astype(np.float64), np.bincount(place).astype(np.float64)
