from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rmexp.statistics import SHARE, bootstrap, bootstrap_mean, paired_difference

RNG = np.random.default_rng(0)


def test_a_share_has_the_width_of_its_standard_error():
    values = np.repeat([1.0, 0.0], [300, 100])
    interval = bootstrap_mean(values)
    half = 1.96 * np.sqrt(0.75 * 0.25 / 400)
    assert interval.estimate == 0.75
    assert interval.low == pytest.approx(0.75 - half, abs=0.006)
    assert interval.high == pytest.approx(0.75 + half, abs=0.006)
    assert interval.level == 0.95


def test_the_level_sets_the_width():
    values = RNG.normal(size=500)
    narrow, wide = bootstrap_mean(values, level=0.5), bootstrap_mean(values, level=0.99)
    assert wide.high - wide.low > 2.5 * (narrow.high - narrow.low)


def test_both_ways_to_draw_agree(monkeypatch):
    values = RNG.integers(0, 2, 200).astype(float)
    groups = RNG.integers(0, 60, 200).tolist()
    counted = bootstrap_mean(values, groups=groups, resamples=20_000)
    monkeypatch.setattr(bootstrap, "_FEW_KINDS", 0)
    monkeypatch.setattr(bootstrap, "_BUDGET", 1000)  # several chunks, the last one short
    drawn = bootstrap_mean(values, groups=groups, resamples=20_000)
    assert drawn.estimate == counted.estimate
    assert drawn.low == pytest.approx(counted.low, abs=0.005)
    assert drawn.high == pytest.approx(counted.high, abs=0.005)


def test_groups_are_drawn_together():
    # Ten prompts, each 50 times over: no more evidence than ten.
    values = np.repeat([1.0, 0.0] * 5, 50)
    groups = np.repeat(np.arange(10), 50).tolist()
    alone, grouped = bootstrap_mean(values), bootstrap_mean(values, groups=groups)
    assert grouped.estimate == alone.estimate == 0.5
    assert (grouped.high - grouped.low) > 5 * (alone.high - alone.low)
    singles = bootstrap_mean(values, groups=list(range(500)))
    assert (singles.low, singles.high) == (alone.low, alone.high)


def test_the_mean_over_uneven_groups_is_over_values():
    interval = bootstrap_mean([1.0, 1.0, 1.0, 0.0], groups=["x", "x", "x", "y"])
    assert interval.estimate == 0.75
    assert (interval.low, interval.high) == (0.0, 1.0)


def test_coverage():
    hits = 0
    for seed in range(200):
        values = np.random.default_rng(seed).random(80) < 0.7
        interval = bootstrap_mean(values.astype(float), resamples=1000, seed=seed)
        hits += interval.low <= 0.7 <= interval.high
    assert 180 <= hits <= 198


def test_coverage_needs_the_groups():
    # 25 prompts of 8 pairs that are right or wrong together: 25 observations, not 200.
    rng = np.random.default_rng(0)
    groups = np.repeat(np.arange(25), 8).tolist()
    hits = {"grouped": 0, "apart": 0}
    for seed in range(200):
        values = np.repeat((rng.random(25) < 0.6).astype(float), 8)
        for name, by in (("grouped", groups), ("apart", None)):
            interval = bootstrap_mean(values, groups=by, resamples=400, seed=seed)
            hits[name] += interval.low <= 0.6 <= interval.high
    assert hits["grouped"] >= 175
    assert hits["apart"] < 120


@given(st.lists(st.floats(-1e3, 1e3), min_size=1, max_size=30))
def test_seeded_and_within_the_values(values):
    first = bootstrap_mean(values, resamples=50, seed=3)
    assert first == bootstrap_mean(values, resamples=50, seed=3)
    slack = 1e-9 * max(map(abs, values))
    assert min(values) - slack <= first.low <= first.high <= max(values) + slack


def test_another_seed_another_interval():
    values = RNG.normal(size=100)
    assert bootstrap_mean(values, seed=0) != bootstrap_mean(values, seed=1)


def test_pairing_removes_what_is_common():
    common = RNG.normal(scale=10, size=300)
    first, second = common + 0.2 + RNG.normal(scale=0.1, size=300), common
    interval = paired_difference(first, second)
    assert interval.estimate == pytest.approx(0.2, abs=0.02)
    assert 0.15 < interval.low < interval.high < 0.25


@pytest.mark.parametrize(
    ("right", "count", "low", "high"),
    # Wilson's interval by hand at z^2 = 3.841459: n / (n + z^2) to 1, and 0 to z^2 / (n + z^2).
    [(1.0, 16, 0.806392, 1.0), (0.0, 16, 0.0, 0.193608), (1.0, 1, 0.206549, 1.0)],
)
def test_all_right_or_all_wrong_is_wilsons_interval(right, count, low, high):
    interval = bootstrap_mean(np.full(count, right), bounds=SHARE)
    assert interval.unanimous
    assert (interval.estimate, interval.level) == (right, 0.95)
    assert (interval.low, interval.high) == pytest.approx((low, high), abs=1e-6)


def test_where_all_agree_a_group_counts_once():
    grouped = bootstrap_mean(np.ones(16), groups=list("aaaabbbbccccdddd"), bounds=SHARE)
    assert grouped.low == pytest.approx(4 / (4 + 3.841459), abs=1e-6)


@pytest.mark.parametrize(
    ("first", "second", "low", "high"),
    # u = 3.841459 / 19.841459 = 0.193608 of others, at -1 and 1 at worst.
    [
        (1.0, 1.0, -0.193608, 0.193608),
        (1.0, 0.0, 1 - 2 * 0.193608, 1.0),
        (0.0, 0.5, -0.596804, -0.209588),
    ],
)
def test_equal_differences_are_no_certainty(first, second, low, high):
    interval = paired_difference(np.full(16, first), np.full(16, second), bounds=SHARE)
    assert interval.unanimous
    assert (interval.low, interval.high) == pytest.approx((low, high), abs=1e-6)


def test_one_that_differs_is_left_to_the_bootstrap():
    values = [1.0] * 15 + [0.0]
    assert bootstrap_mean(values, bounds=SHARE) == bootstrap_mean(values)
    assert not bootstrap_mean(values, bounds=SHARE).unanimous
    # Without bounds nothing is known of what was not seen.
    assert bootstrap_mean([1.0, 1.0]).low == 1.0


def test_the_score_interval_covers_where_the_bootstrap_cannot():
    """20 pairs at a true accuracy of 0.95: a third of the samples are all right."""
    draws = np.random.default_rng(0).random((300, 20)) < 0.95
    hits = {"bootstrap": 0, "bounded": 0}
    for values in draws.astype(float):
        for name, bounds in (("bootstrap", None), ("bounded", SHARE)):
            interval = bootstrap_mean(values, bounds=bounds, resamples=400)
            hits[name] += interval.low <= 0.95 <= interval.high
    assert hits["bootstrap"] < 220
    assert hits["bounded"] > 270


def test_swapping_a_pair_mirrors_its_interval():
    first, second = RNG.random((2, 60))
    there = paired_difference(first, second, resamples=20_000)
    back = paired_difference(second, first, resamples=20_000)
    assert back.estimate == pytest.approx(-there.estimate)
    assert (back.low, back.high) == pytest.approx((-there.high, -there.low), abs=0.005)


@pytest.mark.parametrize(
    ("values", "options", "message"),
    [
        ([], {}, "vector of values"),
        ([[1.0]], {}, "vector of values"),
        ([1.0, np.nan], {}, "value 1 is not finite"),
        ([1.0], {"level": 1.0}, "level"),
        ([1.0], {"resamples": 0}, "resamples"),
        ([1.0], {"groups": [1, 2]}, "2 groups for 1 values"),
    ],
)
def test_refused(values, options, message):
    with pytest.raises(ValueError, match=message):
        bootstrap_mean(values, **options)


def test_unpaired_samples_are_refused():
    with pytest.raises(ValueError, match="differ in shape"):
        paired_difference([1.0, 2.0], [1.0])


def test_parts_that_share_groups_are_means_over_the_same_draws():
    """Against drawing the groups one by one: uneven counts, and groups of one part alone."""
    values = [RNG.integers(0, 2, n).astype(float) for n in (30, 12, 8)]
    groups = [[i % 10 for i in range(30)], [*range(6), *range(10, 16)], ["x", "y"] * 4]
    found = bootstrap.resampled_parts(
        list(zip(values, groups, strict=True)), resamples=6000, generator=np.random.default_rng(1)
    )
    generator = np.random.default_rng(2)
    drawn = generator.integers(0, 16, (6000, 16))
    means = []
    for row in drawn:
        parts = [
            np.concatenate([own[np.array(of) == group] for group in row])
            for own, of in zip(values[:2], groups[:2], strict=True)
        ]
        if all(len(part) for part in parts):
            means.append([part.mean() for part in parts])
    expected = np.array(means).T
    assert np.cov(found[:2]) == pytest.approx(np.cov(expected), abs=2e-3)
    assert found[:2].mean(1) == pytest.approx(expected.mean(1), abs=0.01)
    # The third shares none: it is drawn by itself.
    assert abs(np.corrcoef(found)[2, :2]).max() < 0.05


def test_no_draw_leaves_a_part_without_a_value(monkeypatch):
    monkeypatch.setattr(bootstrap, "_BUDGET", 100)
    parts = [(np.array([1.0, 0.0]), ["x", "y"]), (np.array([1.0]), ["x"]), (np.ones(9), None)]
    means = bootstrap.resampled_parts(parts, resamples=500, generator=np.random.default_rng(0))
    assert np.isfinite(means).all()
    assert set(means[0].tolist()) == {0.5, 1.0}
