from __future__ import annotations

import numpy as np
import pytest

from rmexp.labelling.theorem import (
    information_of_agreement,
    linear_growth,
    mutual_information,
    simulate,
)


def test_information_of_agreement():
    found = information_of_agreement([0.0, 0.5, 0.75, 1.0])
    assert found == pytest.approx([1.0, 0.0, 0.1887218755, 1.0])
    growing = information_of_agreement(linear_growth(np.linspace(0, 1, 50)))
    assert (np.diff(growing) > 0).all()


def test_mutual_information():
    assert mutual_information([0, 1, 0, 1], [0, 1, 0, 1]) == pytest.approx(1.0)
    assert mutual_information([0, 1, 0, 1], [0, 0, 1, 1]) == pytest.approx(0.0)
    assert mutual_information([1, 1], [0, 1]) == pytest.approx(0.0)


def test_one_rule_tells_what_the_sketch_says():
    found = simulate(pairs=40_000, rules=20, r=1, seed=3)
    # The largest of 20 uniform discrepancies is 20/21 on average, and g is linear.
    assert found["maximum"].agreement == pytest.approx(0.5 + 20 / 21 / 4, abs=0.01)
    assert found["random"].agreement == pytest.approx(0.625, abs=0.01)
    expected = float(information_of_agreement(found["maximum"].agreement))
    assert found["maximum"].information == pytest.approx(expected, abs=0.005)


@pytest.mark.parametrize("r", [1, 5])
def test_maximum_discrepancy_tells_most(r):
    found = simulate(pairs=10_000, rules=50, r=r, seed=0)
    for measure in ("agreement", "information"):
        values = [getattr(found[name], measure) for name in ("maximum", "random", "minimum")]
        assert values == sorted(values, reverse=True)
        assert values[0] > values[1] + 0.02


def test_nothing_is_told_where_rules_are_coins():
    found = simulate(pairs=10_000, rules=10, r=3, growth=lambda d: np.full_like(d, 0.5))
    assert found["maximum"].information < 0.001
    assert found["maximum"].agreement == pytest.approx(0.5, abs=0.02)


def test_seeded():
    assert simulate(pairs=500, seed=4) == simulate(pairs=500, seed=4)
    assert simulate(pairs=500, seed=4) != simulate(pairs=500, seed=5)
