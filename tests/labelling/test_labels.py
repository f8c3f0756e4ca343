from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rmexp.labelling import critical_rules, preference_labels

# Three pairs by hand, r = 2: R_S(A) - R_S(B) = 1.0, -0.5 and 0.
PSI_A = np.array([[0.5, 0.5, 9.0], [0.0, 0.5, 0.0], [0.25, 0.0, 0.0]])
PSI_B = np.array([[0.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.25, 0.0]])
CRITICAL = np.array([[0, 1], [2, 1], [1, 0]])


def test_by_hand():
    labels = preference_labels(PSI_A, PSI_B, CRITICAL)
    assert labels.preferred.dtype == np.int8
    assert labels.preferred.tolist() == [1, 0, -1]
    assert labels.margin.tolist() == [0.25, -0.125, 0.0]
    assert labels.contradictory.tolist() == [False, False, True]
    assert labels.tied.tolist() == [False, False, True]
    assert labels.kept.tolist() == [True, True, False]
    assert labels.ties == 1
    assert labels.share_contradictory == pytest.approx(1 / 3)
    assert len(labels) == 3


@pytest.mark.parametrize(
    ("tie", "preferred", "kept", "target"),
    [
        ("drop", -1, False, np.nan),
        ("a", 1, True, 1.0),
        ("b", 0, True, 1.0),
        ("half", -1, True, 0.5),
    ],
)
def test_tie_policies(tie, preferred, kept, target):
    labels = preference_labels(PSI_A, PSI_B, CRITICAL, tie=tie)
    assert labels.preferred[2] == preferred
    assert labels.kept[2] == kept
    assert np.array_equal(labels.target[2], target, equal_nan=True)
    assert labels.margin[2] == 0.0
    assert labels.preferred[:2].tolist() == [1, 0]
    assert labels.target[:2].tolist() == [1.0, 1.0]
    assert labels.ties == 1


def test_full_margin_is_one():
    ones = np.ones((1, 7))
    critical = np.arange(7)[None, :]
    assert preference_labels(ones, -ones, critical).margin.tolist() == [1.0]
    assert preference_labels(-ones, ones, critical).margin.tolist() == [-1.0]


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_the_same_ratings_in_another_order_are_a_tie(dtype):
    # (0.1 + 0.2) + 0.3 and (0.3 + 0.2) + 0.1 differ in the last bit.
    psi_a = np.array([[0.1, 0.2, 0.3]], dtype=dtype)
    labels = preference_labels(psi_a, psi_a[:, ::-1], np.array([[0, 1, 2]]))
    assert labels.preferred.tolist() == [-1]
    tenths = np.array([[0.1, 0.2]], dtype=dtype), np.array([[0.3, 0.0]], dtype=dtype)
    assert preference_labels(*tenths, np.array([[0, 1]])).preferred.tolist() == [-1]


def test_a_small_real_difference_is_no_tie():
    psi_a = np.array([[0.5 + 1e-6]], dtype=np.float32)
    psi_b = np.array([[0.5]], dtype=np.float32)
    assert preference_labels(psi_a, psi_b, [[0]]).preferred.tolist() == [1]


@given(st.integers(0, 2**32), st.integers(1, 9))
def test_swapping_the_responses_swaps_the_label(seed, r):
    rng = np.random.default_rng(seed)
    psi_a, psi_b = rng.integers(-2, 3, (2, 20, 9)) / 2
    critical = critical_rules(psi_a, psi_b, None, r, 0.0)
    labels = preference_labels(psi_a, psi_b, critical)
    swapped = preference_labels(psi_b, psi_a, critical)
    opposite = np.where(labels.preferred < 0, -1, 1 - labels.preferred)
    assert (swapped.preferred == opposite).all()
    assert (swapped.margin == -labels.margin).all()
    assert (swapped.contradictory == labels.contradictory).all()
    assert (np.abs(labels.margin) <= 1).all()


def test_only_critical_rules_need_a_rating():
    psi_a = np.array([[0.5, np.nan], [0.5, 0.5]])
    psi_b = np.zeros((2, 2))
    assert preference_labels(psi_a, psi_b, [[0], [1]]).preferred.tolist() == [1, 1]
    with pytest.raises(ValueError, match="row 0: critical rule 1 has no rating"):
        preference_labels(psi_a, psi_b, [[1], [1]])


@pytest.mark.parametrize("critical", [[[0, 3]], [[-1, 0]], [[0], [1]], [0, 1], np.zeros((1, 0))])
def test_critical_rules_that_do_not_fit(critical):
    with pytest.raises(ValueError, match="critical"):
        preference_labels(PSI_A[:1], PSI_B[:1], critical)


def test_an_unknown_tie_policy():
    with pytest.raises(ValueError, match="drop, a, b, half"):
        preference_labels(PSI_A, PSI_B, CRITICAL, tie="coin")


def test_no_pairs():
    labels = preference_labels(PSI_A[:0], PSI_B[:0], CRITICAL[:0])
    assert len(labels) == 0
    assert labels.share_contradictory == 0.0
