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
    assert bootstrap_crossed(one_wrong, bounds=SHARE) == bootstrap_crossed(one_wrong)


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
