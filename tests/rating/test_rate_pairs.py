from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import numpy as np
import pytest
from rating_fakes import HashEmbedder, HashRater, hashed_psi, make_pairs, make_rules

from rmexp.errors import UserError
from rmexp.rating import Item, RatingStore, rate_pairs
from rmexp.rating.relevance import prompt_relevance
from rmexp.rules import RuleSet

ROOT = Path(__file__).resolve().parents[2]
PAIRS = make_pairs(12)
RULES = make_rules(7)


@pytest.fixture
def store(tmp_path: Path) -> RatingStore:
    return RatingStore(tmp_path / "ratings")


def test_ratings_stand_in_the_rows_and_columns_of_pairs_and_rules(store: RatingStore) -> None:
    ratings = rate_pairs(PAIRS, RULES, HashRater(), store, batch_items=5)
    for i, pair in enumerate(PAIRS):
        for j, rule in enumerate(RULES):
            assert ratings.psi_a[i, j] == hashed_psi(Item(pair.prompt, pair.response_a), rule)
            assert ratings.psi_b[i, j] == hashed_psi(Item(pair.prompt, pair.response_b), rule)
    np.testing.assert_array_equal(
        ratings.relevance,
        prompt_relevance([p.prompt for p in PAIRS], RULES.rules, HashEmbedder()),
    )
    assert (ratings.rated, ratings.reused, ratings.failed) == (12 * 2 * 7, 0, 0)


def test_the_second_time_rates_nothing(store: RatingStore) -> None:
    first = rate_pairs(PAIRS, RULES, HashRater(), store)
    rater = HashRater()
    second = rate_pairs(PAIRS, RULES, rater, store)
    assert rater.asked == []
    assert (second.rated, second.reused) == (0, first.rated)
    np.testing.assert_array_equal(second.psi_a, first.psi_a)
    np.testing.assert_array_equal(second.relevance, first.relevance)


def test_relevance_that_nobody_needs_is_not_made(store: RatingStore) -> None:
    rater = HashRater()
    rater.embedder = None  # anything that asked it would fail
    wanted = np.zeros((len(PAIRS), len(RULES)), bool)
    wanted[:, 2] = True
    ratings = rate_pairs(PAIRS, RULES, rater, store, wanted=wanted, relevance=False)
    assert ratings.rated == len(rater.asked) == 2 * len(PAIRS)
    assert np.isnan(ratings.relevance).all()
    assert np.array_equal(~np.isnan(ratings.psi_a), wanted)


def test_new_pairs_and_new_rules_are_paid_for_alone(store: RatingStore) -> None:
    rate_pairs(PAIRS[:6], RuleSet("part", RULES.rules[:3]), HashRater(), store)
    rater = HashRater()
    ratings = rate_pairs(PAIRS, RULES, rater, store)
    assert ratings.reused == 6 * 2 * 3
    assert ratings.rated == len(rater.asked) == len(set(rater.asked)) == 12 * 2 * 7 - 6 * 2 * 3
    whole = rate_pairs(PAIRS, RULES, HashRater(), RatingStore(store.directory / "fresh"))
    np.testing.assert_array_equal(ratings.psi_a, whole.psi_a)
    np.testing.assert_array_equal(ratings.psi_b, whole.psi_b)


def test_an_equal_prompt_and_response_is_rated_once(store: RatingStore) -> None:
    rater = HashRater()
    ratings = rate_pairs([*PAIRS, *PAIRS], RULES, rater, store)
    assert len(rater.asked) == 12 * 2 * 7
    np.testing.assert_array_equal(ratings.psi_a[:12], ratings.psi_a[12:])


def test_only_wanted_entries_are_rated(store: RatingStore) -> None:
    wanted = np.zeros((12, 7), np.bool_)
    wanted[:, 2] = True
    wanted[3, 5] = True
    rater = HashRater()
    ratings = rate_pairs(PAIRS, RULES, rater, store, wanted=wanted)
    np.testing.assert_array_equal(~np.isnan(ratings.psi_a), wanted)
    assert len(rater.asked) == ratings.rated == 2 * 12 + 2
    full = rate_pairs(PAIRS, RULES, HashRater(), store)
    assert full.reused == ratings.rated
    assert not np.isnan(full.psi_a).any()


def test_missing_ratings_are_an_error_that_counts_them(store: RatingStore) -> None:
    rate_pairs(PAIRS[:6], RULES, HashRater(), store)
    rater = HashRater()
    with pytest.raises(UserError, match="84 of 168 ratings are missing"):
        rate_pairs(PAIRS, RULES, rater, store, on_missing="error")
    assert rater.asked == []
    assert rate_pairs(PAIRS[:6], RULES, rater, store, on_missing="error").rated == 0


def test_the_raters_own_relevance_is_averaged_over_the_responses(store: RatingStore) -> None:
    ratings = rate_pairs(PAIRS, RULES, HashRater(relevance=True), store)
    expected = ((ratings.psi_a + 1) / 2 + (ratings.psi_b + 1) / 2) / 2
    np.testing.assert_allclose(ratings.relevance, expected, atol=1e-6)


def test_relevance_needs_a_source(store: RatingStore) -> None:
    rater = HashRater()
    del rater.embedder
    with pytest.raises(UserError, match=r"rater\.encoder"):
        rate_pairs(PAIRS, RULES, rater, store)
    assert rate_pairs(PAIRS, RULES, rater, store, embedder=HashEmbedder()).rated == 0


def test_what_cannot_be_rated_is_counted_and_tried_again(store: RatingStore) -> None:
    class Moody(HashRater):
        def rate(self, items, rules, wanted=None):  # type: ignore[no-untyped-def]
            rated = super().rate(items, rules, wanted)
            rated.psi[:, 0] = np.nan
            return rated

    ratings = rate_pairs(PAIRS, RULES, Moody(), store)
    assert ratings.failed == 24
    assert ratings.rated == 24 * 6
    assert rate_pairs(PAIRS, RULES, HashRater(), store).rated == 24


def test_progress_reaches_the_total(store: RatingStore) -> None:
    seen: list[tuple[int, int]] = []
    rate_pairs(
        PAIRS, RULES, HashRater(), store, batch_items=5, progress=lambda n, of: seen.append((n, of))
    )
    assert seen[-1] == (168, 168)
    assert [n for n, _ in seen] == sorted(n for n, _ in seen)


SLOW_RATER = """
    import sys, time
    from rating_fakes import HashRater, make_pairs, make_rules
    from rmexp.rating import RatingStore, rate_pairs
    class Slow(HashRater):
        def rate(self, items, rules, wanted=None):
            print("rating", flush=True)
            time.sleep(float(sys.argv[2]))
            return super().rate(items, rules, wanted)
    rater = Slow()
    with RatingStore(sys.argv[1]) as store:
        ratings = rate_pairs(make_pairs(12), make_rules(7), rater, store, batch_items=4)
    print("asked", len(rater.asked), ratings.rated, ratings.failed, flush=True)
"""


def slow_rater(folder: Path, seconds: float) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(SLOW_RATER), str(folder), str(seconds)],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": f"{ROOT}:{Path(__file__).parent}"},
    )


@pytest.mark.slow
def test_three_processes_that_miss_the_same_ratings_rate_each_once(tmp_path: Path) -> None:
    running = [slow_rater(tmp_path, 0.3) for _ in range(3)]
    lines = [p.communicate(timeout=60)[0].splitlines()[-1].split() for p in running]
    assert sum(int(line[1]) for line in lines) == 12 * 2 * 7
    assert all(line[3] == "0" for line in lines)


@pytest.mark.slow
def test_a_killed_rater_gives_up_its_claims(tmp_path: Path) -> None:
    first = slow_rater(tmp_path, 600)
    assert first.stdout is not None
    assert first.stdout.readline() == "rating\n"
    second = slow_rater(tmp_path, 0)
    time.sleep(1)
    assert second.poll() is None, "it waits for the claim of the first"
    first.send_signal(signal.SIGKILL)
    first.wait()
    assert second.communicate(timeout=60)[0].splitlines()[-1] == "asked 168 168 0"
