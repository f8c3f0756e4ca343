from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rmexp.statistics import length_bias, margin_calibration, rank_correlation


def test_length_bias_by_hand():
    chosen = np.array([3.0, 1.0, 2.0, 1.0, 5.0])
    rejected = np.array([1.0, 2.0, 1.0, 1.0, 4.0])
    # right, wrong, right, tie (wrong), right
    found = length_bias(
        chosen, rejected, np.array([100, 50, 10, 95, 40]), np.array([50, 100, 20, 100, 40])
    )
    assert (found.longer, found.shorter, found.matched) == (1, 3, 2)
    assert found.accuracy_longer == 1.0
    assert found.accuracy_shorter == pytest.approx(1 / 3)
    assert found.accuracy_matched == 0.5  # 95 against 100, 40 against 40


def test_a_scorer_of_length_is_found_out():
    rng = np.random.default_rng(0)
    lengths = rng.integers(10, 1000, (2, 400))
    found = length_bias(np.sqrt(lengths[0]), np.sqrt(lengths[1]), *lengths)
    assert found.accuracy_longer == 1.0
    assert found.accuracy_shorter == 0.0
    assert found.correlation == pytest.approx(1.0)
    blind = length_bias(rng.random(400), rng.random(400), *lengths)
    assert abs(blind.correlation) < 0.1


def test_without_such_pairs_there_is_no_accuracy():
    one = np.array([1.0])
    found = length_bias(one, one * 0, np.array([9]), np.array([1]))
    assert np.isnan(found.accuracy_shorter)
    assert np.isnan(found.accuracy_matched)
    assert found.matched == found.shorter == 0


def test_rank_correlation():
    assert rank_correlation(np.array([1, 2, 9]), np.array([2, 30, 31])) == pytest.approx(1.0)
    assert rank_correlation(np.array([1, 2, 9]), np.array([5, 4, -1])) == pytest.approx(-1.0)
    # Ranks 0.5, 0.5, 2 against 0, 1, 2.
    tied = rank_correlation(np.array([1, 1, 2]), np.array([1, 2, 3]))
    assert tied == pytest.approx(np.corrcoef([0.5, 0.5, 2], [0, 1, 2])[0, 1])
    assert np.isnan(rank_correlation(np.array([1, 1]), np.array([1, 2])))


@given(st.lists(st.integers(-20, 20), min_size=3, max_size=30, unique=True))
def test_rank_correlation_sees_order_only(values):
    x = np.array(values, dtype=float)
    other = np.random.default_rng(0).random(len(x))
    found = rank_correlation(x, other)
    assert rank_correlation(x**3, other) == pytest.approx(found)
    assert rank_correlation(other, x) == pytest.approx(found)
    assert rank_correlation(x, -other) == pytest.approx(-found)


def test_bins_hold_every_pair():
    margins = np.random.default_rng(0).normal(size=500)
    found = margin_calibration(margins, bins=7)
    assert found.count.sum() == 500
    assert (np.diff(found.confidence) > 0).all()
    apart = np.abs(found.confidence - found.accuracy) * found.count
    assert found.ece == pytest.approx(apart.sum() / 500)


def test_a_calibrated_scorer():
    rng = np.random.default_rng(1)
    size = np.abs(rng.normal(scale=2, size=50_000))
    right = rng.random(len(size)) < 1 / (1 + np.exp(-size))
    found = margin_calibration(np.where(right, size, -size))
    assert found.ece < 0.01
    assert np.abs(found.confidence - found.accuracy).max() < 0.03
    assert found.count.sum() == len(size)


def test_overconfidence_by_hand():
    # Confidence near 1 and right three times of four; confidence 1/2 on a tie.
    found = margin_calibration(np.array([50.0, 50.0, 50.0, -50.0, 0.0]))
    assert found.count.tolist() == [1, 4]
    assert found.confidence == pytest.approx([0.5, 1.0])
    assert found.accuracy.tolist() == [0.5, 0.75]
    assert found.ece == pytest.approx(0.25 * 4 / 5)


def test_huge_margins_do_not_overflow():
    with np.errstate(over="raise", invalid="raise"):
        found = margin_calibration(np.array([1e5, -1e5]))
    assert found.ece == pytest.approx(0.5)
