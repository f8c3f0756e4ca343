from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rating_fakes import HashEmbedder, make_pairs, make_rules

from rmexp.errors import UserError
from rmexp.preferences import prompt_from_text
from rmexp.preferences.rows import pair_from_row
from rmexp.rating import RatingStore, rate_pairs
from rmexp.rating.labelled import read_labelled
from rmexp.rating.rater import Item
from rmexp.rating.recorded import RecordedRater

RULES = make_rules(3)
NAN = float("nan")


def write(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def item(prompt: str, response: str) -> Item:
    return Item(prompt_from_text(prompt), response)


def test_every_shape_of_row(tmp_path: Path) -> None:
    rows = [
        {"prompt": "p", "response": "list", "psi": [0.5, None, -1]},
        {"prompt": "p", "response": "object", "scores": {"rule2": 0.25}},
        {"prompt": "p", "response": "one", "rule": "rule1", "psi": 0.75},
        {"prompt": "p", "response": "one", "rule": "rule0", "psi": -0.75},
        {
            "prompt": [{"role": "user", "content": "q"}],
            "response_a": "a",
            "response_b": "b",
            "psi_a": [0, 0, 1],
            "psi_b": [0, 0, -1],
        },
    ]
    rater = RecordedRater(write(tmp_path / "r.jsonl", rows), RULES)
    items = [
        item("p", "list"),
        item("p", "object"),
        item("p", "one"),
        item("q", "a"),
        item("q", "b"),
    ]
    rated = rater.rate([*items, item("p", "unknown")], RULES.rules)
    expected = [
        [0.5, NAN, -1],
        [NAN, NAN, 0.25],
        [-0.75, 0.75, NAN],
        [0, 0, 1],
        [0, 0, -1],
        [NAN, NAN, NAN],
    ]
    np.testing.assert_array_equal(rated.psi, np.array(expected, np.float32))
    assert rated.relevance is None
    swapped = rater.rate(items[:1], RULES.rules[::-1], np.array([[True, True, False]]))
    np.testing.assert_array_equal(swapped.psi, np.array([[-1, NAN, NAN]], np.float32))


def test_a_parquet_column_of_a_hundred_scores_per_response(tmp_path: Path) -> None:
    import pyarrow
    import pyarrow.parquet

    rules, pairs = make_rules(100), make_pairs(4)
    scores = np.random.default_rng(0).uniform(-1, 1, (2, 4, 100)).astype(np.float32)
    table = pyarrow.table(
        {
            "prompt": [pair.prompt[0].content for pair in pairs],
            "response_a": [pair.response_a for pair in pairs],
            "response_b": [pair.response_b for pair in pairs],
            "psi_a": scores[0].tolist(),
            "psi_b": scores[1].tolist(),
        }
    )
    pyarrow.parquet.write_table(table, tmp_path / "published.parquet")
    rater = RecordedRater(tmp_path / "published.parquet", rules, HashEmbedder())
    with RatingStore(tmp_path / "store") as store:
        ratings = rate_pairs(pairs, rules, rater, store)
    np.testing.assert_array_equal(ratings.psi_a, scores[0])
    np.testing.assert_array_equal(ratings.psi_b, scores[1])


def test_recorded_relevance_is_used(tmp_path: Path) -> None:
    row = {"prompt": "p", "response": "r", "psi": [0, 0, 0], "relevance": [0, 0.5, 1]}
    rater = RecordedRater(write(tmp_path / "r.jsonl", [row]), RULES)
    relevance = rater.rate([item("p", "r")], RULES.rules).relevance
    assert relevance is not None
    assert relevance.tolist() == [[0, 0.5, 1]]


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"response": "r", "psi": [0, 0, 0]}, r"r.jsonl:1: missing field 'prompt'"),
        ({"prompt": "p", "psi": [0, 0, 0]}, r"r.jsonl:1: missing field 'response'"),
        ({"prompt": "p", "response": "r"}, r"r.jsonl:1: missing field 'psi'"),
        ({"prompt": "p", "response": "r", "psi": [0, 0]}, r"1: 'psi' has 2 scores.*3 rules"),
        ({"prompt": "p", "response": "r", "psi": [0, 0, 2]}, r"outside \[-1, 1\]"),
        ({"prompt": "p", "response": "r", "psi": {"x": 0}}, r"no rule 'x'"),
        ({"prompt": "p", "response": "r", "psi": 0.5}, r"needs a field 'rule'"),
        ({"prompt": "p", "response": "r", "psi": ["0", 0, 0]}, r"must hold numbers"),
        (["p"], r"r.jsonl:1: expected an object"),
    ],
)
def test_a_row_that_cannot_be_read_is_named(tmp_path: Path, row: Any, message: str) -> None:
    with pytest.raises(UserError, match=message):
        RecordedRater(write(tmp_path / "r.jsonl", [row]), RULES)


def test_a_dialogue_is_the_prompt_that_a_pair_has(tmp_path: Path) -> None:
    row = {"prompt": "\n\nHuman: a\n\nAssistant: b\n\nHuman: c", "response": "r"}
    pair = pair_from_row({**row, "response_a": "r", "response_b": "s"}, "x")
    path = write(tmp_path / "r.jsonl", [{**row, "psi": [0, 0, 1], "labels": {"rule2": True}}])
    rated = RecordedRater(path, RULES).rate([Item(pair.prompt, "r")], RULES.rules)
    np.testing.assert_array_equal(rated.psi, [[0, 0, 1]])
    assert read_labelled(path, RULES).items == (Item(pair.prompt, "r"),)


def test_another_file_is_another_rater(tmp_path: Path) -> None:
    row = {"prompt": "p", "response": "r", "psi": [0, 0, 0]}
    first = RecordedRater(write(tmp_path / "a.jsonl", [row]), RULES)
    second = RecordedRater(write(tmp_path / "b.jsonl", [{**row, "psi": [0, 0, 1]}]), RULES)
    assert first.fingerprint.hexdigest != second.fingerprint.hexdigest


def test_labelled_responses_keep_the_rules_that_have_labels(tmp_path: Path) -> None:
    rows = [
        {"prompt": "p", "response": "r", "labels": {"rule2": True, "rule0": False}},
        {"prompt": "p", "response": "s", "labels": {"rule2": False}},
    ]
    labelled = read_labelled(write(tmp_path / "l.jsonl", rows), RULES)
    assert [rule.id for rule in labelled.rules] == ["rule0", "rule2"]
    np.testing.assert_array_equal(labelled.labels, [[0, 1], [NAN, 0]])
    assert labelled.items[1] == item("p", "s")


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"prompt": "p", "response": "r"}, "l.jsonl:1: missing field 'labels'"),
        ({"prompt": "p", "response": "r", "labels": {"x": True}}, "'x'"),
        ({"prompt": "p", "response": "r", "labels": {"rule0": 0.5}}, "true or false"),
        ({"prompt": "p", "response": "r", "labels": {}}, "no response has a label"),
        ({"prompt": [], "response": "r", "labels": {}}, "the prompt has no message"),
    ],
)
def test_labels_that_cannot_be_read_are_named(tmp_path: Path, row: Any, message: str) -> None:
    with pytest.raises(UserError, match=message):
        read_labelled(write(tmp_path / "l.jsonl", [row]), RULES)
