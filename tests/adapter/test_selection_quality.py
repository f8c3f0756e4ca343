from __future__ import annotations

import numpy as np

from rmexp.adapter.quality import FREQUENT, RELEVANCE, baselines, selection_quality
from rmexp.labelling import critical_rules
from rmexp.rating.pairs import PairRatings


def _ratings(psi_a: list, relevance: list) -> PairRatings:
    a = np.array(psi_a, np.float32)
    return PairRatings(a, np.zeros_like(a), np.array(relevance, np.float32), 0, 0)


def test_worked_by_hand() -> None:
    ratings = _ratings(
        [[1, -0.5, 0, 0.25], [1, 0.5, 0, -0.75], [0.5, -0.5, 0, 0.25]], [[0] * 4] * 3
    )
    critical = np.array([[0, 1], [0, 3], [0, 1]])
    chosen = np.array([[1, 0], [3, 2], [2, 3]])
    found = selection_quality(chosen, critical, ratings)
    assert found["precision"].tolist() == [1.0, 0.5, 0.0]
    np.testing.assert_allclose(found["jaccard"], [1.0, 1 / 3, 0.0])
    assert found["top_recall"].tolist() == [1.0, 0.0, 0.0]
    # Labels A, A and a tie by the critical rules; A, B and A by the chosen ones.
    np.testing.assert_array_equal(found["label_agreement"], [1.0, 0.0, np.nan])


def test_the_critical_rules_themselves_are_perfect() -> None:
    generator = np.random.default_rng(0)
    a, b, rho = generator.uniform(-1, 1, (3, 50, 9)).astype(np.float32)
    ratings = PairRatings(a, b, np.abs(rho), 0, 0)
    critical = critical_rules(a, b, np.abs(rho), 3, 1.0)
    found = selection_quality(critical[:, ::-1], critical, ratings)
    assert all((values == 1).all() for values in found.values())


def test_baselines() -> None:
    ratings = _ratings([[1, 1, 1], [1, 1, 1]], [[0.1, 0.9, 0.5], [0.3, 0.2, 0.1]])
    found = baselines([0.2, 0.1, 0.7], ratings, 2)
    assert found[FREQUENT].tolist() == [[2, 0], [2, 0]]
    assert found[RELEVANCE].tolist() == [[1, 2], [0, 1]]
