from __future__ import annotations

import numpy as np
import pytest

from rmexp.labelling import (
    AdaptiveSelector,
    AllSelector,
    FixedSelector,
    RandomSelector,
    SelectionContext,
    critical_rules,
    selectors,
)
from rmexp.preferences import Pair, prompt_from_text


def pairs(count: int) -> list[Pair]:
    return [Pair(f"p{i}", prompt_from_text("x"), "a", "b") for i in range(count)]


def context(count: int = 50, rules: int = 9) -> SelectionContext:
    rng = np.random.default_rng(0)
    psi_a, psi_b, relevance = rng.random((3, count, rules))
    return SelectionContext(pairs(count), psi_a, psi_b, relevance)


def test_adaptive_is_the_method():
    given = context()
    found = AdaptiveSelector(r=3, gamma=0.5).select(given)
    assert (found == critical_rules(given.psi_a, given.psi_b, given.relevance, 3, 0.5)).all()


def test_adaptive_needs_ratings():
    assert AdaptiveSelector(r=3, gamma=0.5).needs_ratings
    with pytest.raises(ValueError, match="rate first"):
        AdaptiveSelector(r=3, gamma=0.5).select(SelectionContext(pairs(2)))


def test_all_and_fixed():
    blind = SelectionContext(pairs(2))
    assert AllSelector(3).select(blind).tolist() == [[0, 1, 2]] * 2
    assert FixedSelector((4, 1)).select(blind).tolist() == [[4, 1]] * 2
    assert not AllSelector(3).needs_ratings
    assert not FixedSelector((1,)).needs_ratings


def test_random_hangs_on_seed_and_id_alone():
    many = pairs(selectors._CHUNK_ROWS + 7)
    whole = RandomSelector(r=4, rules=20, seed=1).select(SelectionContext(many))
    backwards = RandomSelector(r=4, rules=20, seed=1).select(SelectionContext(many[::-1]))
    assert (backwards[::-1] == whole).all()
    alone = RandomSelector(r=4, rules=20, seed=1).select(SelectionContext(many[5:6]))
    assert alone.tolist() == whole[5:6].tolist()
    other = RandomSelector(r=4, rules=20, seed=2).select(SelectionContext(many))
    assert (other != whole).any(axis=1).mean() > 0.9


def test_random_stays_what_it_was():
    # A stored trial must be repeated under any later NumPy.
    found = RandomSelector(r=3, rules=10, seed=0).select(SelectionContext(pairs(2)))
    assert found.tolist() == [[5, 4, 7], [0, 6, 4]]


def test_random_draws_every_rule_alike_and_none_twice():
    found = RandomSelector(r=3, rules=10).select(SelectionContext(pairs(20_000)))
    assert all(len(set(row)) == 3 for row in found[:500].tolist())
    share = np.bincount(found.ravel(), minlength=10) / len(found)
    assert np.abs(share - 0.3).max() < 0.02  # six standard errors
    together = ((found == 0).any(axis=1) & (found == 1).any(axis=1)).mean()
    assert abs(together - 3 * 2 / (10 * 9)) < 0.01


def test_fingerprints_tell_strategies_apart():
    made = [
        AdaptiveSelector(5, 1.0),
        AdaptiveSelector(4, 1.0),
        AdaptiveSelector(5, 0.5),
        AdaptiveSelector(5, np.inf),
        AllSelector(5),
        FixedSelector((0, 1)),
        FixedSelector((1, 0)),
        RandomSelector(5, 9),
        RandomSelector(5, 9, seed=1),
    ]
    assert len({s.fingerprint.hexdigest for s in made}) == len(made)
    assert AdaptiveSelector(5, 1).fingerprint == AdaptiveSelector(5, 1.0).fingerprint


@pytest.mark.parametrize(
    "make",
    [
        lambda: AdaptiveSelector(0, 1.0),
        lambda: AdaptiveSelector(5, -1.0),
        lambda: AdaptiveSelector(5, float("nan")),
        lambda: AllSelector(0),
        lambda: FixedSelector(()),
        lambda: FixedSelector((1, 1)),
        lambda: FixedSelector((-1,)),
        lambda: RandomSelector(5, 4),
    ],
)
def test_contradictory_options_are_refused(make):
    with pytest.raises(ValueError, match="="):
        make()
