from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from rmexp.labelling import critical, critical_rules, discrepancy

# Few distinct values, so that ties are the rule and not the exception.
QUARTERS = st.sampled_from([-1.0, -0.5, 0.0, 0.5, 1.0])
SHARES = st.sampled_from([0.0, 0.25, 0.5, 1.0])
GAMMAS = st.sampled_from([0.0, 0.5, 1.0, 3.0, np.inf])


@st.composite
def problems(draw):
    shape = (draw(st.integers(1, 6)), draw(st.integers(1, 40)))
    dtype = draw(st.sampled_from([np.float32, np.float64]))
    psi_a = draw(hnp.arrays(dtype, shape, elements=QUARTERS))
    psi_b = draw(hnp.arrays(dtype, shape, elements=QUARTERS))
    relevance = draw(hnp.arrays(dtype, shape, elements=SHARES))
    return psi_a, psi_b, relevance, draw(st.integers(1, shape[1]))


def by_sorting(psi_a, psi_b, relevance, r, gamma):
    """The definition, row by row in plain Python."""
    rows = []
    for a, b, rho in zip(psi_a.tolist(), psi_b.tolist(), relevance.tolist(), strict=True):
        score = [
            w if gamma == np.inf else abs(u - v) / 2 + gamma * w
            for u, v, w in zip(a, b, rho, strict=True)
        ]
        rows.append(sorted(range(len(score)), key=lambda i: (-score[i], i))[:r])
    return rows


def test_discrepancy_by_hand():
    assert discrepancy([1.0, -0.25, 0.5], [-1.0, 0.25, 0.5]).tolist() == [1.0, 0.25, 0.0]


def test_by_hand():
    psi_a = np.array([[1.0, 0.5, 0.0, 0.0]])
    psi_b = np.array([[0.0, -0.5, 0.0, 0.0]])
    relevance = np.array([[0.0, 0.0, 0.75, 0.25]])
    # d = 0.5, 0.5, 0, 0
    assert critical_rules(psi_a, psi_b, relevance, 2, 0.0).tolist() == [[0, 1]]
    assert critical_rules(psi_a, psi_b, relevance, 2, 1.0).tolist() == [[2, 0]]
    assert critical_rules(psi_a, psi_b, relevance, 3, np.inf).tolist() == [[2, 3, 0]]


@given(problems(), GAMMAS)
def test_equals_the_definition(problem, gamma):
    psi_a, psi_b, relevance, r = problem
    found = critical_rules(psi_a, psi_b, relevance, r, gamma)
    assert found.dtype == np.int64
    assert found.tolist() == by_sorting(psi_a, psi_b, relevance, r, gamma)


@given(problems())
def test_gamma_zero_is_discrepancy_alone(problem):
    psi_a, psi_b, relevance, r = problem
    found = critical_rules(psi_a, psi_b, relevance, r, 0.0)
    assert (found == critical_rules(psi_a, psi_b, 1 - relevance, r, 0.0)).all()
    assert (found == critical_rules(psi_a, psi_b, None, r, 0.0)).all()
    d = discrepancy(psi_a, psi_b)
    assert (found == np.argsort(-d, axis=1, kind="stable")[:, :r]).all()


@given(problems())
def test_gamma_infinite_is_relevance_alone(problem):
    psi_a, psi_b, relevance, r = problem
    found = critical_rules(psi_a, psi_b, relevance, r, np.inf)
    assert (found == critical_rules(psi_b * 0, psi_a * 0, relevance, r, np.inf)).all()
    assert (found == np.argsort(-relevance, axis=1, kind="stable")[:, :r]).all()


@given(problems(), GAMMAS)
def test_all_rules_when_r_is_their_number(problem, gamma):
    psi_a, psi_b, relevance, _ = problem
    rules = psi_a.shape[1]
    found = critical_rules(psi_a, psi_b, relevance, rules, gamma)
    assert (np.sort(found, axis=1) == np.arange(rules)).all()


@given(problems(), GAMMAS)
def test_equal_values_go_to_the_lower_index(problem, gamma):
    psi_a, _, relevance, r = problem
    same = np.broadcast_to(relevance[:, :1], relevance.shape)
    found = critical_rules(psi_a, psi_a, same, r, gamma)
    assert (found == np.arange(r)).all()


@given(st.data(), st.integers(1, 40), st.integers(1, 4), GAMMAS)
def test_permuting_rules_permutes_the_choice(data, rules, pairs, gamma):
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32)))
    psi_a, psi_b, relevance = rng.uniform(-1, 1, (3, pairs, rules))  # no ties
    r = data.draw(st.integers(1, rules))
    order = rng.permutation(rules)
    found = critical_rules(psi_a, psi_b, np.abs(relevance), r, gamma)
    permuted = critical_rules(
        psi_a[:, order], psi_b[:, order], np.abs(relevance)[:, order], r, gamma
    )
    assert (order[permuted] == found).all()


@given(problems(), GAMMAS)
def test_swapping_the_responses_changes_nothing(problem, gamma):
    psi_a, psi_b, relevance, r = problem
    found = critical_rules(psi_a, psi_b, relevance, r, gamma)
    assert (found == critical_rules(psi_b, psi_a, relevance, r, gamma)).all()


@settings(max_examples=20)
@given(st.integers(0, 2**32), st.sampled_from([3, 30]), GAMMAS)
def test_chunks_do_not_show(seed, r, gamma):
    rng = np.random.default_rng(seed)
    psi_a, psi_b = rng.integers(-4, 5, (2, critical._CHUNK_ROWS * 2 + 3, 31)) / 4
    relevance = rng.integers(0, 4, psi_a.shape) / 4
    whole = critical_rules(psi_a, psi_b, relevance, r, gamma)
    for row in (0, critical._CHUNK_ROWS - 1, critical._CHUNK_ROWS, len(psi_a) - 1):
        one = slice(row, row + 1)
        alone = critical_rules(psi_a[one], psi_b[one], relevance[one], r, gamma)
        assert alone.tolist() == whole[one].tolist()


def test_inputs_are_left_alone():
    psi_a, psi_b = np.array([[0.5, np.nan, 0.0]]), np.array([[0.0, 0.0, 0.0]])
    relevance = np.array([[0.1, 0.2, 0.3]])
    for gamma in (0.0, 1.0, np.inf):
        critical_rules(psi_a, psi_b, relevance, 2, gamma)
    assert np.isnan(psi_a[0, 1])
    assert relevance.tolist() == [[0.1, 0.2, 0.3]]


def test_one_relevance_for_all_pairs():
    psi = np.zeros((3, 4))
    found = critical_rules(psi, psi, np.array([0.0, 0.5, 0.0, 1.0]), 2, 1.0)
    assert found.tolist() == [[3, 1]] * 3


@pytest.mark.parametrize("gamma", [0.0, 1.0, np.inf])
@pytest.mark.parametrize("r", [2, 30])
def test_unrated_rules_are_never_critical(gamma, r):
    psi_a, psi_b = np.full((2, 40), 1.0), np.full((2, 40), -1.0)
    psi_a[0, 0] = psi_b[1, 5] = np.nan
    found = critical_rules(psi_a, psi_b, np.ones((2, 40)), r, gamma)
    assert 0 not in found[0]
    assert 5 not in found[1]
    assert 0 in found[1]


def test_too_few_rated_rules_name_the_row():
    psi = np.zeros((critical._CHUNK_ROWS + 5, 3), dtype=np.float32)
    psi[critical._CHUNK_ROWS + 2, :2] = np.nan
    with pytest.raises(ValueError, match=rf"row {critical._CHUNK_ROWS + 2}: 1 of 3 rules"):
        critical_rules(psi, psi, None, 2, 0.0)


def test_a_huge_finite_gamma_does_not_overflow():
    psi_a = np.array([[0.0, 0.5, 1.0]], dtype=np.float32)
    relevance = np.array([[0.5, 0.75, 0.25]], dtype=np.float32)
    with np.errstate(all="raise"):
        found = critical_rules(psi_a, psi_a * 0, relevance, 3, 1e39)
    assert found.tolist() == [[1, 0, 2]]


def test_no_pairs():
    empty = np.zeros((0, 4))
    assert critical_rules(empty, empty, empty, 2, 1.0).shape == (0, 2)


@pytest.mark.parametrize("r", [0, -1, 4, 1.5, True])
def test_r_out_of_range(r):
    psi = np.zeros((1, 3))
    with pytest.raises(ValueError, match="number of rules, 3"):
        critical_rules(psi, psi, psi, r, 1.0)


@pytest.mark.parametrize("gamma", [-0.1, np.nan, -np.inf])
def test_gamma_out_of_range(gamma):
    psi = np.zeros((1, 3))
    with pytest.raises(ValueError, match="gamma="):
        critical_rules(psi, psi, psi, 1, gamma)


def test_shapes_that_do_not_fit():
    psi = np.zeros((2, 3))
    with pytest.raises(ValueError, match="pairs, rules"):
        critical_rules(psi, np.zeros((2, 4)), psi, 1, 1.0)
    with pytest.raises(ValueError, match="pairs, rules"):
        critical_rules(psi[0], psi[0], psi[0], 1, 1.0)
    with pytest.raises(ValueError, match="relevance"):
        critical_rules(psi, psi, np.zeros((3, 3)), 1, 1.0)
    with pytest.raises(ValueError, match="needs a relevance"):
        critical_rules(psi, psi, None, 1, 1.0)


@pytest.mark.parametrize("r", [3, 30])
def test_unrated_rules_lose_against_rules_of_score_zero(r):
    psi = np.zeros((1, 31))
    psi[0, 0] = np.nan
    assert critical_rules(psi, psi, np.zeros(31), r, 1.0)[0].tolist() == list(range(1, r + 1))
