from __future__ import annotations

import numpy as np
import pytest

from rmexp.statistics import SHARE, bootstrap_crossed, bootstrap_mean


def _table(seeds: int, samples: int, seed_effect: float, draw: np.random.Generator) -> np.ndarray:
    effects = draw.normal(0, seed_effect, (seeds, 1)) + draw.normal(0, 1, (1, samples))
    return effects + draw.normal(0, 0.3, (seeds, samples))


def test_the_interval_knows_both_sources_of_chance() -> None:
    table = _table(5, 200, 0.5, np.random.default_rng(0))
    crossed = bootstrap_crossed(table)
    samples_only = bootstrap_mean(table.mean(0))
    assert crossed.estimate == pytest.approx(table.mean())
    assert crossed.high - crossed.low > 1.3 * (samples_only.high - samples_only.low)


def test_the_interval_covers_the_truth_about_as_often_as_it_says() -> None:
    draw = np.random.default_rng(1)
    tables = [_table(8, 60, 0.3, draw) for _ in range(150)]
    intervals = [bootstrap_crossed(t, resamples=500, seed=i) for i, t in enumerate(tables)]
    covered = np.mean([i.low <= 0 <= i.high for i in intervals])
    assert 0.88 <= covered <= 1.0


@pytest.mark.parametrize("effect", [0.3, 1.0])
@pytest.mark.parametrize("seeds", [2, 3, 5])
def test_few_seeds_are_covered_too(seeds: int, effect: float) -> None:
    draw = np.random.default_rng([seeds, int(10 * effect)])
    tables = [_table(seeds, 60, effect, draw) for _ in range(200)]
    intervals = [bootstrap_crossed(t, resamples=500, seed=i) for i, t in enumerate(tables)]
    assert np.mean([i.low <= 0 <= i.high for i in intervals]) >= 0.90


def test_many_seeds_give_no_wider_an_interval_than_there_is_chance() -> None:
    draw = np.random.default_rng(4)
    tables = [_table(100, 60, 0.5, draw) for _ in range(40)]
    intervals = [bootstrap_crossed(t, resamples=1000, seed=i) for i, t in enumerate(tables)]
    deviation = np.sqrt(0.5**2 / 100 + 1 / 60 + 0.3**2 / 6000)
    ratio = np.mean([i.high - i.low for i in intervals]) / (2 * 1.96 * deviation)
    assert 0.9 < ratio < 1.1


def test_seeds_alone_give_students_interval() -> None:
    """Three seeds on samples that are all alike: mean -+ t(0.975, 2) s / sqrt(3), t = 4.3027."""
    interval = bootstrap_crossed(np.repeat([[0.1], [0.2], [0.4]], 5, axis=1), resamples=200_000)
    half = 4.3027 * np.std([0.1, 0.2, 0.4], ddof=1) / np.sqrt(3)
    assert interval.high - interval.estimate == pytest.approx(half, rel=0.03)
    assert interval.estimate - interval.low == pytest.approx(half, rel=0.03)


def test_the_interval_stays_within_what_a_value_can_be() -> None:
    table = np.random.default_rng(5).integers(0, 2, (2, 30)).astype(float)
    table[0] = 1
    free, bounded = bootstrap_crossed(table), bootstrap_crossed(table, bounds=SHARE)
    assert free.high > 1
    assert (bounded.low, bounded.high) == (max(free.low, 0.0), 1.0)


def test_one_seed_tells_of_samples_alone() -> None:
    table = np.random.default_rng(6).integers(0, 2, (1, 200)).astype(float)
    crossed, alone = bootstrap_crossed(table), bootstrap_mean(table[0])
    assert crossed.low == pytest.approx(alone.low, abs=0.01)
    assert crossed.high == pytest.approx(alone.high, abs=0.01)


def test_samples_of_a_group_are_drawn_together() -> None:
    base = np.random.default_rng(2).integers(0, 2, (3, 40)).astype(float)
    table = np.repeat(base, 5, axis=1)
    grouped = bootstrap_crossed(table, groups=np.repeat(np.arange(40), 5).tolist())
    assert (grouped.low, grouped.high) == (
        bootstrap_crossed(base).low,
        bootstrap_crossed(base).high,
    )
    alone = bootstrap_crossed(table)
    assert grouped.high - grouped.low > 1.2 * (alone.high - alone.low)


def test_equal_differences_leave_no_width() -> None:
    interval = bootstrap_crossed(np.full((3, 10), 0.25))
    assert (interval.low, interval.high) == (0.25, 0.25)


def test_seeds_that_all_agree_count_each_sample_once() -> None:
    """8 samples right under 3 seeds: Wilson's for 8 of 8, 8 / (8 + 1.96^2) = 0.6756 to 1."""
    interval = bootstrap_crossed(np.ones((3, 8)), bounds=SHARE)
    assert interval.unanimous
    assert (interval.low, interval.high) == (pytest.approx(0.67559, abs=1e-5), 1.0)
    grouped = bootstrap_crossed(np.ones((3, 8)), groups=[0, 0, 1, 1, 2, 2, 3, 3], bounds=SHARE)
    assert grouped.low == pytest.approx(4 / (4 + 3.841459), abs=1e-5)
    one_wrong = np.ones((3, 8))
    one_wrong[0, 0] = 0
    assert not bootstrap_crossed(one_wrong, bounds=SHARE).unanimous


@pytest.mark.parametrize(
    ("table", "options"),
    [
        (np.zeros(3), {}),
        (np.zeros((0, 3)), {}),
        (np.array([[np.nan, 1.0]]), {}),
        (np.zeros((2, 3)), {"groups": [1, 2]}),
        (np.zeros((2, 3)), {"level": 1.0}),
        (np.zeros((2, 3)), {"resamples": 0}),
    ],
)
def test_what_cannot_be_resampled_is_refused(table: np.ndarray, options: dict) -> None:
    with pytest.raises(ValueError, match=r"wanted|finite|groups|level|resamples"):
        bootstrap_crossed(table, **options)
