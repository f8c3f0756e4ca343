from __future__ import annotations

import numpy as np
import pytest

from rmexp.evaluation.distribution import score_drift, score_quantiles
from rmexp.evaluation.figures import Figure, Part, difference
from rmexp.evaluation.style import style_robustness, style_tags
from rmexp.preferences import Pair, prompt_from_text


def figure(values, weight=1.0, groups=None) -> Figure:
    return Figure("f", (Part(weight, np.array(values, np.float64), groups),))


def test_a_figure_is_the_weighted_sum_of_means() -> None:
    made = Figure("f", (Part(0.75, np.array([1.0, 0.0])), Part(0.25, np.array([1.0]))))
    assert made.estimate == pytest.approx(0.625)
    # Only the first part varies, between 0 and 0.75.
    assert made.interval().low == pytest.approx(0.25)
    assert made.interval().high == pytest.approx(1.0)
    assert made.rows == 3
    assert made.to_plain()["partial"] is None


def test_partial_is_said_with_both_counts() -> None:
    made = Figure("f", (Part(1.0, np.ones(3)),), of_published=(3, 5))
    assert made.to_plain()["partial"] == [3, 5]
    assert not Figure("f", made.parts, of_published=(5, 5)).partial


def test_a_paired_difference_sees_what_two_intervals_hide() -> None:
    """Both are right on a random half; one loses 5 rows in 100 more: clear only when paired."""
    rng = np.random.default_rng(0)
    first = rng.integers(0, 2, 400).astype(float)
    second = first.copy()
    second[np.flatnonzero(first)[:20]] = 0.0
    better, worse = figure(first), figure(second)
    assert worse.interval().high > better.interval().low
    change = difference(worse, better)
    assert change.estimate == pytest.approx(-0.05)
    assert change.high < 0
    # No row differs in 400: at most 3.8415 / 403.8415 of all do, by 1 at most.
    same = difference(better, better)
    assert same.unanimous
    assert (same.low, same.high) == pytest.approx((-0.009512, 0.009512), abs=1e-6)


def test_rows_that_all_agree_still_leave_doubt() -> None:
    """16 of 16 right is Wilson's 16 / (16 + 1.96^2) to 1; with weights, of each part."""
    interval = figure(np.ones(16)).interval()
    assert interval.unanimous
    assert (interval.low, interval.high) == (pytest.approx(0.80639, abs=1e-5), 1.0)
    parts = (Part(0.75, np.ones(16)), Part(0.25, np.zeros(4)))
    both = Figure("f", parts).interval()
    assert both.low == pytest.approx(0.75 * 0.80639, abs=1e-5)
    assert both.high == pytest.approx(0.75 + 0.25 * 0.48990, abs=1e-5)
    assert not Figure("f", (parts[0], Part(0.25, np.array([1.0, 0.0])))).interval().unanimous


def test_groups_are_drawn_together() -> None:
    values = [1.0, 0.0] * 50
    alone, grouped = figure(values), figure(values, groups=tuple(i // 2 for i in range(100)))
    # 50 prompts of the same mean: the half that 3.8415 / 53.8415 of others could move it by.
    assert grouped.interval().unanimous
    assert grouped.interval().low == pytest.approx(0.5 - 0.5 * 0.071348, abs=1e-6)
    assert alone.interval().low < 0.5


def test_groups_that_parts_share_are_drawn_together_in_all() -> None:
    """Six translations of one task are no more evidence than the task."""
    values = np.random.default_rng(0).integers(0, 2, 160).astype(float)
    tasks = tuple(range(160))
    one = Figure("f", (Part(1.0, values, tasks),)).interval()
    six = Figure("f", (Part(1 / 6, values, tasks),) * 6).interval()
    apart = Figure("f", (Part(1 / 6, values),) * 6).interval()
    assert (six.low, six.high) == pytest.approx((one.low, one.high), abs=0.01)
    assert six.high - six.low > 2 * (apart.high - apart.low)


@pytest.mark.parametrize("other", [figure([1.0]), figure([1.0, 0.0], weight=0.5)])
def test_other_rows_cannot_be_paired(other: Figure) -> None:
    with pytest.raises(ValueError, match="same rows"):
        difference(figure([1.0, 0.0]), other)


def test_drift_by_hand() -> None:
    earlier = np.array([0.0, 1.0, 2.0, 3.0])
    drift = score_drift(earlier, 2 * earlier + 10)
    assert drift.rank_correlation == pytest.approx(1.0)
    assert drift.scale == pytest.approx(2.0)
    assert drift.shift == pytest.approx(11.5 / earlier.std())
    assert drift.distance == 1.0
    none = score_drift(earlier, earlier)
    assert (none.shift, none.scale, none.distance) == (0.0, 1.0, 0.0)
    assert score_drift(earlier, -earlier).rank_correlation == pytest.approx(-1.0)
    assert "score_shift" not in score_drift(np.ones(3), earlier[:3]).metrics()
    with pytest.raises(ValueError, match="same texts"):
        score_drift(earlier, earlier[:2])
    assert score_quantiles(earlier)["0.5"] == 1.5


def test_style_robustness_by_hand() -> None:
    names = ("plain", "list")
    pairs, correct = [], []
    # A scorer that likes lists: right unless the wrong answer alone is a list.
    for good in (0, 1):
        for bad in (0, 1):
            tags = ("other", *style_tags((good, names[good]), (bad, names[bad])))
            pairs.append(Pair("p", prompt_from_text("q"), "x", "y", "a", tags=tags))
            correct.append(good >= bad)
    pairs.append(Pair("none", prompt_from_text("q"), "x", "y", "a"))
    found = style_robustness(pairs, np.array([*correct, True]))
    assert found is not None
    assert found.metrics() == {
        "accuracy_style_with": 1.0,
        "accuracy_style_same": 1.0,
        "accuracy_style_against": 0.0,
        "style_gap": 1.0,
    }
    assert found.to_plain() == {
        "styles": ["plain", "list"],
        "accuracy": [[1.0, 0.0], [1.0, 1.0]],
        "count": [[1, 1], [1, 1]],
    }
    assert style_robustness(pairs[-1:], np.array([True])) is None
