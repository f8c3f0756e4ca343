from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rating_fakes import HashRater, make_rules

from rmexp.errors import UserError
from rmexp.preferences import prompt_from_text
from rmexp.rating.rater import Item, RatedBatch
from rmexp.rating.store import FILE, RatingStore

ROOT = Path(__file__).resolve().parents[2]
ITEMS = [Item(prompt_from_text(f"prompt {i}"), f"response {i}") for i in range(5)]
RULES = make_rules(4).rules
RATER = HashRater().fingerprint


def filled(folder: Path) -> RatingStore:
    store = RatingStore(folder)
    store.put(RATER, ITEMS, RULES, HashRater(relevance=True).rate(ITEMS, RULES))
    return store


def test_what_was_put_is_found_in_any_order_and_by_another_store(tmp_path: Path) -> None:
    filled(tmp_path).close()
    with RatingStore(tmp_path) as store:
        got = store.get(RATER, ITEMS[::-1], (RULES[2], RULES[0]))
    expected = HashRater(relevance=True).rate(ITEMS[::-1], (RULES[2], RULES[0]))
    np.testing.assert_array_equal(got.psi, expected.psi)
    np.testing.assert_array_equal(got.relevance, expected.relevance)


def test_unknown_rater_item_and_rule_are_nan(tmp_path: Path) -> None:
    store = filled(tmp_path)
    other = Item(prompt_from_text("prompt 0"), "another response")
    assert np.isnan(store.get(HashRater("other").fingerprint, ITEMS, RULES).psi).all()
    assert np.isnan(store.get(RATER, [other], RULES).psi).all()
    assert np.isnan(store.get(RATER, ITEMS, make_rules(6).rules).psi[:, 4:]).all()


def test_prompt_and_response_are_told_apart(tmp_path: Path) -> None:
    store = RatingStore(tmp_path)
    items = [Item(prompt_from_text("ab"), "c"), Item(prompt_from_text("a"), "bc")]
    store.put(RATER, items[:1], RULES, HashRater().rate(items[:1], RULES))
    assert np.isnan(store.get(RATER, items[1:], RULES).psi).all()


@settings(max_examples=30, deadline=None)
@given(
    st.lists(
        st.tuples(st.integers(0, 4), st.integers(0, 3), st.floats(-1, 1, width=32)),
        max_size=20,
    )
)
def test_the_store_is_a_mapping_whose_last_write_counts(
    tmp_path_factory: pytest.TempPathFactory, writes: list[tuple[int, int, float]]
) -> None:
    expected = np.full((5, 4), np.nan, np.float32)
    with RatingStore(tmp_path_factory.mktemp("mapping")) as store:
        for item, rule, psi in writes:
            expected[item, rule] = psi
            store.put(
                RATER, [ITEMS[item]], [RULES[rule]], RatedBatch(np.array([[psi]], np.float32))
            )
        np.testing.assert_array_equal(store.get(RATER, ITEMS, RULES).psi, expected)


def test_an_id_alone_does_not_make_another_rule(tmp_path: Path) -> None:
    from dataclasses import replace

    store = filled(tmp_path)
    renamed = [replace(rule, id=f"new_{rule.id}") for rule in RULES]
    assert not np.isnan(store.get(RATER, ITEMS, renamed).psi).any()
    reworded = [replace(rule, sentence=rule.sentence + "!") for rule in RULES]
    assert np.isnan(store.get(RATER, ITEMS, reworded).psi).all()


def test_ratings_outside_the_scale_are_refused(tmp_path: Path) -> None:
    store = RatingStore(tmp_path)
    with pytest.raises(ValueError, match=r"outside \[-1, 1\]"):
        store.put(RATER, ITEMS, RULES, RatedBatch(np.full((5, 4), 1.5, np.float32)))
    with pytest.raises(ValueError, match="must be"):
        store.put(RATER, ITEMS, RULES, RatedBatch(np.zeros((5, 3), np.float32)))


@pytest.mark.parametrize("content", [b"not a database, but more than a hundred bytes. " * 9, b"x"])
def test_a_foreign_file_is_refused_by_name_and_left_alone(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / FILE
    path.write_bytes(content)
    with pytest.raises(UserError, match=FILE):
        RatingStore(tmp_path)
    assert path.read_bytes() == content
    assert [p.name for p in tmp_path.iterdir()] == [FILE]


def test_another_programs_database_is_refused_and_left_alone(tmp_path: Path) -> None:
    path = tmp_path / FILE
    with sqlite3.connect(path) as connection:
        connection.execute("CREATE TABLE mine (x)")
    connection.close()
    before = path.read_bytes()
    with pytest.raises(UserError, match="not a rating store"):
        RatingStore(tmp_path)
    assert path.read_bytes() == before


def test_a_torn_file_is_refused_by_name_and_left_alone(tmp_path: Path) -> None:
    filled(tmp_path).close()
    path = tmp_path / FILE
    torn = path.read_bytes()[:-5000]
    path.write_bytes(torn)
    with pytest.raises(UserError, match=f"{FILE}.*torn"):
        RatingStore(tmp_path)
    assert path.read_bytes() == torn


def test_damaged_ratings_are_an_error_not_an_answer(tmp_path: Path) -> None:
    filled(tmp_path).close()
    path = tmp_path / FILE
    psi = HashRater().rate(ITEMS, RULES).psi[0, 0].tobytes()
    data = path.read_bytes()
    assert data.count(psi) == 1
    path.write_bytes(data.replace(psi, np.float32(0.125).tobytes()))
    with RatingStore(tmp_path) as store, pytest.raises(UserError, match=f"{FILE}.*damaged"):
        store.get(RATER, ITEMS, RULES)


def test_an_unwritable_place_is_a_user_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot make the folder"):
        RatingStore(tmp_path / "file" / "ratings")


def test_a_fork_opens_the_file_for_itself(tmp_path: Path) -> None:
    store = filled(tmp_path)
    child = os.fork()
    if child == 0:
        found = not np.isnan(store.get(RATER, ITEMS, RULES).psi).any()
        store.put(
            RATER, ITEMS[:1], make_rules(5).rules, HashRater().rate(ITEMS[:1], make_rules(5).rules)
        )
        os._exit(0 if found else 1)
    assert os.waitpid(child, 0)[1] == 0
    assert not np.isnan(store.get(RATER, ITEMS[:1], make_rules(5).rules).psi).any()


WRITER = """
    import sys, numpy as np
    from rating_fakes import HashRater, make_rules
    from rmexp.preferences import prompt_from_text
    from rmexp.rating import Item, RatingStore
    store, start = RatingStore(sys.argv[1]), int(sys.argv[2])
    rules, rater = make_rules(5).rules, HashRater()
    for i in range(start, start + int(sys.argv[3])):
        items = [Item(prompt_from_text("p"), f"r{i}.{k}") for k in range(4)]
        store.put(rater.fingerprint, items, rules, rater.rate(items, rules))
        print(i, flush=True)
"""


def writer(folder: Path, start: int, count: int) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(WRITER), str(folder), str(start), str(count)],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": f"{ROOT}:{Path(__file__).parent}"},
    )


@pytest.mark.slow
def test_four_processes_write_one_store_and_nothing_is_lost(tmp_path: Path) -> None:
    writers = [writer(tmp_path, 100 * n, 25) for n in range(4)]
    assert [w.wait() for w in writers] == [0] * 4
    items = [
        Item(prompt_from_text("p"), f"r{i}.{k}")
        for n in range(4)
        for i in range(100 * n, 100 * n + 25)
        for k in range(4)
    ]
    rules = make_rules(5).rules
    with RatingStore(tmp_path) as store:
        np.testing.assert_array_equal(
            store.get(RATER, items, rules).psi, HashRater().rate(items, rules).psi
        )


@pytest.mark.slow
def test_a_killed_writer_loses_at_most_the_batch_in_flight(tmp_path: Path) -> None:
    process = writer(tmp_path, 0, 100_000)
    assert process.stdout is not None
    for _ in range(20):
        last = int(process.stdout.readline())
    process.send_signal(signal.SIGKILL)
    process.wait()
    rules = make_rules(5).rules
    items = [Item(prompt_from_text("p"), f"r{i}.{k}") for i in range(last + 1) for k in range(4)]
    with RatingStore(tmp_path) as store:
        assert not np.isnan(store.get(RATER, items, rules).psi).any()
