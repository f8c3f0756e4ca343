from __future__ import annotations

import itertools
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rating_fakes import HashRater, make_pairs, make_rules

from rmexp.errors import UserError
from rmexp.preferences import prompt_from_text
from rmexp.rating import Item, RatingStore, rate_pairs
from rmexp.rating.maintenance import (
    copy_store,
    export_ratings,
    import_ratings,
    prune_ratings,
    store_stats,
)
from rmexp.rating.store_records import item_key, row_id_of
from rmexp.rules import RuleSet

PAIRS = make_pairs(10)
RULES = make_rules(6)
ITEMS = [Item(p.prompt, r) for p in PAIRS for r in (p.response_a, p.response_b)]
FIRST, SECOND = HashRater("first"), HashRater("second", relevance=True)


@pytest.fixture
def store(tmp_path: Path) -> RatingStore:
    store = RatingStore(tmp_path / "ratings")
    rate_pairs(PAIRS, RULES, FIRST, store)
    rate_pairs(PAIRS[:4], RuleSet("part", RULES.rules[:2]), SECOND, store)
    return store


def test_stats_count_by_rater(store: RatingStore) -> None:
    stats = store_stats(store)
    assert [s.rater for s in stats.raters] == [FIRST.fingerprint, SECOND.fingerprint]
    assert [(s.responses, s.ratings, s.rules) for s in stats.raters] == [(20, 120, 6), (8, 16, 2)]
    assert stats.ratings == 136
    psi = FIRST.rate(ITEMS, RULES.rules).psi
    assert stats.raters[0].mean == pytest.approx(psi.mean(), abs=1e-6)
    assert stats.raters[0].deviation == pytest.approx(psi.std(), abs=1e-6)
    assert stats.bytes > 0


def test_stats_of_an_empty_store(tmp_path: Path) -> None:
    assert store_stats(RatingStore(tmp_path)).ratings == 0


def test_a_copy_holds_what_is_committed(store: RatingStore, tmp_path: Path) -> None:
    assert copy_store(store, tmp_path / "copy") == "hash_rater 120, hash_rater 16"
    with RatingStore(tmp_path / "copy") as copy:
        for rater in (FIRST, SECOND):
            old, new = (s.get(rater.fingerprint, ITEMS, RULES.rules) for s in (store, copy))
            np.testing.assert_array_equal(old.psi, new.psi)
            np.testing.assert_array_equal(old.relevance, new.relevance)
        copy.put(
            FIRST.fingerprint,
            ITEMS[:1],
            make_rules(9).rules,
            FIRST.rate(ITEMS[:1], make_rules(9).rules),
        )
    assert store_stats(store).ratings == 136


def test_an_export_fills_another_store(store: RatingStore, tmp_path: Path) -> None:
    path = tmp_path / "ratings.parquet"
    assert export_ratings(store, path) == 136
    other = RatingStore(tmp_path / "other")
    other.put(
        FIRST.fingerprint,
        ITEMS[:1],
        make_rules(9).rules,
        FIRST.rate(ITEMS[:1], make_rules(9).rules),
    )
    assert import_ratings(other, path) == 136
    for rater in (FIRST.fingerprint, SECOND.fingerprint):
        old, new = store.get(rater, ITEMS, RULES.rules), other.get(rater, ITEMS, RULES.rules)
        np.testing.assert_array_equal(new.psi, old.psi)
        np.testing.assert_array_equal(new.relevance, old.relevance)
    assert not np.isnan(other.get(FIRST.fingerprint, ITEMS[:1], make_rules(9).rules).psi).any()
    rater = HashRater("first")
    assert rate_pairs(PAIRS, RULES, rater, other).reused == 120
    assert rater.asked == []


def test_what_is_no_export_is_refused(store: RatingStore, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such file"):
        import_ratings(store, tmp_path / "none.parquet")
    (tmp_path / "torn.parquet").write_bytes(b"PAR1 torn")
    with pytest.raises(UserError, match=r"torn\.parquet"):
        import_ratings(store, tmp_path / "torn.parquet")
    import pyarrow
    import pyarrow.parquet

    pyarrow.parquet.write_table(pyarrow.table({"x": [1]}), tmp_path / "other.parquet")
    with pytest.raises(UserError, match="no export of ratings"):
        import_ratings(store, tmp_path / "other.parquet")


def test_pruning_a_rater_keeps_the_others(store: RatingStore) -> None:
    deleted = prune_ratings(store, lambda rater: rater.parts["name"] == "second")
    assert deleted == 120
    assert [s.rater for s in store_stats(store).raters] == [SECOND.fingerprint]
    assert np.isnan(store.get(FIRST.fingerprint, ITEMS, RULES.rules).psi).all()
    rater = HashRater("first")
    assert rate_pairs(PAIRS, RULES, rater, store).rated == 120, "assembled arrays went as well"


def test_pruning_rules_keeps_the_rest_of_each_record(store: RatingStore) -> None:
    keep = {rule.fingerprint.hexdigest for rule in RULES.rules[1:]}
    assert prune_ratings(store, lambda rater: True, keep_rules=keep) == 20 + 8
    psi = store.get(FIRST.fingerprint, ITEMS, RULES.rules).psi
    np.testing.assert_array_equal(np.isnan(psi), np.tile(np.arange(6) == 0, (20, 1)))
    store.put(FIRST.fingerprint, ITEMS, RULES.rules, FIRST.rate(ITEMS, RULES.rules))
    np.testing.assert_array_equal(
        store.get(FIRST.fingerprint, ITEMS, RULES.rules).psi, FIRST.rate(ITEMS, RULES.rules).psi
    )


def _between_transactions(
    store: RatingStore, nth: int, act: Callable[[], object], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Act as another process would, right before a store's nth transaction from now."""
    begin, count = store._transaction, itertools.count(1)

    def watched(kind: str) -> Any:
        if next(count) == nth:
            act()
        return begin(kind)

    monkeypatch.setattr(store, "_transaction", watched)


def test_ratings_added_behind_a_pruning_go_with_their_rater(
    store: RatingStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = RatingStore(store.directory)
    late = sorted(
        (Item(prompt_from_text(f"late {n}"), "r") for n in range(9)),
        key=lambda item: row_id_of(item_key(FIRST.fingerprint, item)),
    )[:1]

    def add() -> None:
        other.put(FIRST.fingerprint, late, RULES.rules, FIRST.rate(late, RULES.rules))

    # Raters, rules, the scan and its end; then what is left of the rater goes.
    _between_transactions(store, 4, add, monkeypatch)
    assert prune_ratings(store, lambda rater: rater == SECOND.fingerprint) == 126
    assert [s.rater for s in store_stats(store).raters] == [SECOND.fingerprint]
    assert {record.rater for record in store.records()} == set(store.raters())


def test_what_is_added_during_an_export_is_not_in_it(
    store: RatingStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other, third, rules = RatingStore(store.directory), HashRater("third"), make_rules(9).rules

    def add() -> None:
        for rater in (FIRST, third):
            other.put(rater.fingerprint, ITEMS, rules, rater.rate(ITEMS, rules))

    _between_transactions(store, 3, add, monkeypatch)
    assert export_ratings(store, tmp_path / "ratings.parquet") == 136


def test_an_import_does_not_hide_damage(store: RatingStore, tmp_path: Path) -> None:
    export_ratings(store, tmp_path / "ratings.parquet")
    with sqlite3.connect(store.path) as connection:
        item, body = connection.execute("SELECT item, body FROM ratings LIMIT 1").fetchone()
        body = body[:20] + bytes([body[20] ^ 1]) + body[21:]
        connection.execute("UPDATE ratings SET body = ? WHERE item = ?", (body, item))
    with pytest.raises(UserError, match="the file is damaged"):
        import_ratings(store, tmp_path / "ratings.parquet")
