"""A random sample that keeps a set's proportions, and together what is only scored together."""

from __future__ import annotations

from collections.abc import Hashable, Sequence

import numpy as np


def stratified_sample(
    strata: Sequence[str], together: Sequence[Hashable], count: int, seed: int
) -> list[int]:
    """Places of a random sample, in order.

    Each stratum gives rows in proportion to its size, and one at least (or what belongs together
    once) where ``count`` allows that.

    Args:
        strata: ``[rows]``, the stratum of each row.
        together: ``[rows]``, what rows share that come both or not at all, within their stratum.
        count: rows wanted; where rows come together, it may be a few fewer.
        seed: of the draw.

    >>> stratified_sample(["a"] * 6 + ["b"] * 2, list(range(8)), 4, seed=0)
    [2, 3, 5, 7]
    """
    units: dict[str, dict[Hashable, list[int]]] = {}
    for place, (stratum, key) in enumerate(zip(strata, together, strict=True)):
        units.setdefault(stratum, {}).setdefault(key, []).append(place)
    sizes = {s: sum(map(len, own.values())) for s, own in units.items()}
    least = {s: max(map(len, own.values())) for s, own in units.items()}
    generator = np.random.default_rng(seed)
    taken: list[int] = []
    # Those of several rows a unit first: what they cannot fill goes to the others.
    order = sorted(units, key=lambda s: -least[s])
    for place, stratum in enumerate(order):
        left = order[place:]
        quota = _shares({s: sizes[s] for s in left}, least, count - len(taken))[stratum]
        own = [*units[stratum].values()]
        drawn = 0
        for i in generator.permutation(len(own)):
            if drawn + len(own[i]) <= quota:
                taken += own[i]
                drawn += len(own[i])
    return sorted(taken)


def _shares(sizes: dict[str, int], least: dict[str, int], count: int) -> dict[str, int]:
    """Rows of each stratum, ``count`` in all: in proportion, those that fall short of theirs first.

    None is given less than ``least``, unless all of that is more than ``count``.
    """
    total = sum(sizes.values())
    exact = {s: count * size / total for s, size in sizes.items()}
    floor = {s: min(least[s], sizes[s]) for s in sizes}
    if sum(floor.values()) > count:
        floor = dict.fromkeys(sizes, 0)
    shares = {s: min(max(int(exact[s]), floor[s]), sizes[s]) for s in sizes}
    while sum(shares.values()) < min(count, total):
        room = (s for s in sizes if shares[s] < sizes[s])
        shares[max(room, key=lambda s: exact[s] - shares[s])] += 1
    while sum(shares.values()) > count:
        spare = (s for s in sizes if shares[s] > floor[s])
        shares[max(spare, key=lambda s: shares[s] - exact[s])] -= 1
    return shares
