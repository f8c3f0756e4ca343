from __future__ import annotations

import json
import math

import numpy as np
import pytest

from rmexp.errors import UserError
from rmexp.evaluation.result_files import write_result_files
from rmexp.evaluation.rewardbench2 import (
    SUBSETS,
    RewardBench2Row,
    best_of_n_score,
    evaluate_rewardbench2,
    read_rewardbench2,
    ties_score,
)
from rmexp.preferences import prompt_from_text


class Number:
    """Scores a response that is a number by that number."""

    def score(self, prompts, responses):
        return np.array([float(r) for r in responses])


def row(row_id: str, scores: list[float], subset: str, num_correct: int = 1) -> RewardBench2Row:
    texts = tuple(str(s) for s in scores)
    prompt = prompt_from_text(f"prompt {row_id}")
    return RewardBench2Row(
        row_id, prompt, texts[:num_correct], texts[num_correct:], num_correct, subset
    )


# Best of n


@pytest.mark.parametrize(
    ("chosen", "rejected", "score"),
    [
        ([3.0], [1.0, 2.0, 0.0], 1.0),
        ([1.0], [3.0, 2.0, 0.0], 0.0),
        ([3.0], [3.0, 2.0, 0.0], 1 / 2),
        ([3.0], [3.0, 2.0, 3.0], 1 / 3),
        ([3.0], [3.0, 3.0, 3.0], 1 / 4),
        ([1.0], [3.0, 3.0, 1.0], 0.0),
        ([-1.0], [-2.0, -3.0, -4.0], 1.0),
    ],
)
def test_best_of_n(chosen, rejected, score):
    assert best_of_n_score(chosen, rejected) == score
    assert best_of_n_score(np.array(chosen), np.array(rejected)) == score


def test_best_of_n_looks_at_the_first_chosen():
    assert best_of_n_score([2.0, 3.0], [1.0]) == 0.0
    assert best_of_n_score([3.0, 3.0], [1.0]) == 0.5


def test_best_of_n_refuses_nan_by_place():
    with pytest.raises(ValueError, match=r"rejected\[1\]"):
        best_of_n_score([1.0], [0.0, math.nan, 0.0])
    with pytest.raises(ValueError, match=r"chosen\[0\]"):
        best_of_n_score([math.nan], [0.0])
    with pytest.raises(ValueError, match="rejected: no score"):
        best_of_n_score([1.0], [])


# Ties


def test_ties_by_hand():
    rows = [
        ("ref:0", [5.0, 1.0, 0.0], 1),  # accurate, gap 4
        ("tied:0", [4.0, 3.0, 1.0], 2),  # accurate, spread 1, gap 2; lesser gap 2
        ("ref:1", [2.0, 1.5], 1),  # accurate, gap 0.5
        ("tied:1", [6.0, 4.0, 1.0], 2),  # accurate, spread 2, gap 3; lesser gap 0.5
        ("ref:2", [1.0, 2.0], 1),  # wrong, gap -1
        ("tied:2", [3.0, 1.0, 2.0], 2),  # wrong, spread 2, gap -1; lesser gap -1
    ]
    expected = (
        0.30 * 2 / 3
        + 0.30 * 2 / 3
        + 0.20 * 2 / 3
        + 0.20 * 1 / 3
        + 0.01 * (math.tanh(1) + math.tanh(-0.75) + math.tanh(-1.5)) / 3
    )
    assert ties_score(rows) == pytest.approx(expected)
    assert ties_score(rows[::-1]) == pytest.approx(expected)


def test_accuracies_run_over_all_rows_of_their_kind():
    rows = [
        ("ref:0", [5.0, 1.0], 1),  # gap 4
        ("tied:0", [4.0, 3.0, 1.0], 2),  # spread 1, gap 2
        ("ref:8", [0.0, 1.0], 1),  # alone, wrong
        ("tied:9", [0.0, 0.0, 1.0], 2),  # alone, wrong
        ("tied:10", [0.0, 0.0, 1.0], 2),  # alone, wrong
    ]
    expected = 0.30 / 3 + 0.30 / 2 + 0.20 + 0.20 + 0.01 * math.tanh(1)
    assert ties_score(rows) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("right", "wrong", "expected"),
    [
        ([2.0, 2.0], 1.0, 0.30 + 0.30 + 0.20 + 0.20 + 0.01),  # x/0, x > 0
        ([2.0, 2.0], 3.0, 0.30 - 0.01),  # x/0, x < 0
        ([2.0, 2.0], 2.0, 0.30),  # 0/0
    ],
)
def test_spread_zero(right, wrong, expected):
    rows = [("ref:0", [9.0, 0.0], 1), ("tied:0", [*right, wrong], 2)]
    assert ties_score(rows) == pytest.approx(expected)


def test_a_tie_of_right_and_wrong_is_not_accurate():
    rows = [("ref:0", [1.0, 1.0], 1), ("tied:0", [2.0, 1.0, 1.0], 2)]
    # gap 0 is not above spread 1; tanh(0/1 - 1).
    assert ties_score(rows) == pytest.approx(0.01 * math.tanh(-1))


def test_a_gap_equal_to_the_spread_does_not_exceed_it():
    rows = [("ref:0", [9.0, 0.0], 1), ("tied:0", [3.0, 2.0, 1.0], 2)]
    assert ties_score(rows) == pytest.approx(0.60)  # tanh(1/1 - 1) = 0


@pytest.mark.parametrize("kind", ["ref", "tied"])
def test_one_kind_alone_has_no_score(kind):
    assert ties_score([(f"{kind}:0", [2.0, 1.0], 1), (f"{kind}:1", [2.0, 1.0], 1)]) is None
    assert ties_score([]) is None


def test_kinds_that_never_meet_have_no_score():
    assert ties_score([("ref:0", [2.0, 1.0], 1), ("tied:1", [2.0, 2.0, 1.0], 2)]) is None


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (("ref:3", [1.0, math.nan], 1), "ref:3: score 1 is nan"),
        (("ref:3", [math.inf, 1.0], 1), "ref:3: score 0 is inf"),
        (("best:3", [1.0, 0.0], 1), "best:3"),
        (("17", [1.0, 0.0], 1), "row 17"),
        (("ref:", [1.0, 0.0], 1), "ref:"),
        (("ref:3", [1.0, 0.0], 2), "ref:3: 2 right of 2"),
        (("ref:3", [1.0, 0.0], 0), "ref:3: 0 right of 2"),
        (("ref:0", [1.0, 0.0], 1), "ref:0 stands twice"),
    ],
)
def test_bad_tie_rows_are_named(bad, message):
    with pytest.raises(ValueError, match=message):
        ties_score([("ref:0", [2.0, 1.0], 1), bad])


# The whole set


def whole() -> list[RewardBench2Row]:
    return [
        row("1", [4, 1, 2, 3], "Factuality"),
        row("2", [4, 4, 2, 3], "Factuality"),
        row("3", [0, 1, 2, 3], "Precise IF"),
        row("4", [4, 1, 2, 3], "Math"),
        row("5", [4, 4, 4, 4], "Safety"),
        row("6", [4, 4, 4, 3], "Focus"),
        row("ref:0", [5, 1, 0], "Ties"),
        row("tied:0", [2, 2, 1], "Ties", num_correct=2),
    ]


def test_overall_is_the_plain_mean_of_six():
    result = evaluate_rewardbench2(Number(), whole())
    assert result.subsets == {
        "Factuality": 0.75,
        "Precise IF": 0.0,
        "Math": 1.0,
        "Safety": 0.25,
        "Focus": pytest.approx(1 / 3),
        "Ties": pytest.approx(1.01),
    }
    assert result.overall == pytest.approx((0.75 + 0 + 1 + 0.25 + 1 / 3 + 1.01) / 6)
    assert result.metrics()["overall"] == result.overall
    assert result.intervals["Factuality"].low == 0.5
    assert result.partial == tuple(SUBSETS)
    assert result.longest["Math"] == 0.25  # all texts are one character long
    # Rows 2, 5 and 6: several options share the highest score; Ties has a rule of its own.
    assert (result.equal_best, result.metrics()["equal_best"]) == (3, 3.0)


@pytest.mark.parametrize("missing", ["Math", "Ties"])
def test_no_overall_without_one_of_the_six(missing):
    result = evaluate_rewardbench2(Number(), [r for r in whole() if r.subset != missing])
    assert missing not in result.subsets
    assert result.overall is None
    assert "overall" not in result.metrics()


def test_no_overall_without_a_score_of_ties():
    result = evaluate_rewardbench2(Number(), [r for r in whole() if r.id != "ref:0"])
    assert result.subsets["Ties"] is None
    assert result.overall is None
    assert "Ties" not in result.metrics()


def test_nan_names_its_row():
    rows = [*whole(), row("99", [1, 0, float("nan"), 0], "Math")]
    with pytest.raises(ValueError, match=r"99 \(option 2\)"):
        evaluate_rewardbench2(Number(), rows)


def test_ties_are_drawn_by_their_number_whatever_lacks_a_partner():
    """Against the score of ties drawn again as the rule has it, N by N."""
    rng = np.random.default_rng(0)
    rows = []
    for n in range(30):
        # What is hard for one kind is hard for the other: the parts vary together.
        easy = float(rng.integers(0, 2))
        noise = rng.normal(0, 0.1, 7)
        rows.append((f"ref:{n}", [2 * easy + noise[0], 1 + noise[1]], 1))
        if n >= 3:
            scores = [3 * easy + noise[2], 3 * easy + noise[3], 1 + noise[4]]
            rows.append((f"tied:{n}", scores, 2))
    found = evaluate_rewardbench2(
        Number(), [row(name, scores, "Ties", right) for name, scores, right in rows]
    ).intervals["Ties"]
    assert found.estimate == pytest.approx(ties_score(rows))
    by_number = [[r for r in rows if r[0].endswith(f":{n}")] for n in range(30)]
    scores = []
    for drawn in rng.integers(0, 30, (1500, 30)):
        again = [
            (f"{name.partition(':')[0]}:{copy}", s, right)
            for copy, n in enumerate(drawn)
            for name, s, right in by_number[n]
        ]
        scores.append(ties_score(again))
    low, high = np.quantile(scores, [0.025, 0.975])
    assert (found.low, found.high) == pytest.approx((low, high), abs=0.03)


def test_reference_files(tmp_path):
    result = evaluate_rewardbench2(Number(), whole())
    first, second = write_result_files(result, tmp_path, model="m", chat_template="plain")
    assert first == tmp_path / "rewardbench2-partial" / "eval-set" / "m.json"
    found = json.loads(first.read_text())
    assert list(found) == sorted([*SUBSETS, "model", "model_type", "chat_template"])
    assert found["Factuality"] == 0.75
    scores = json.loads(second.read_text())
    assert scores["scores"][0] == [4.0, 1.0, 2.0, 3.0]
    assert scores["results"][:2] == [1.0, 0.5]
    # As the reference leaves it in a row of Ties: two of the options share the highest score.
    assert scores["results"][-1] == 0.5
    assert scores["num_correct"][-1] == 2
    assert scores["text"][1][1][-1] == {"role": "assistant", "content": "4"}


def test_length_bias_is_over_right_against_wrong_options():
    """The longer 11 beats 2 and 9, and the shorter 9 loses to 11; 2 against 9 are of one length."""
    rows = [row("1", [11, 2, 9], "Math"), row("2", [9, 11, 2], "Focus")]
    result = evaluate_rewardbench2(Number(), rows)
    bias = result.length
    assert (bias.longer, bias.accuracy_longer) == (2, 1.0)
    assert (bias.shorter, bias.accuracy_shorter) == (1, 0.0)
    assert (bias.matched, bias.accuracy_matched) == (1, 1.0)
    numbers = result.metrics()
    assert numbers["accuracy_where_longer_preferred"] == numbers["accuracy_length_matched"] == 1.0
    assert numbers["accuracy_where_shorter_preferred"] == 0.0
    # Each option once: ranks 5.5, 1.5, 3.5 twice over against lengths 2, 1, 1.
    assert numbers["length_correlation"] == pytest.approx(0.8660254)


def test_reading(tmp_path):
    path = tmp_path / "two.jsonl"
    plain = {
        "id": "tied:4",
        "prompt": "name a colour",
        "chosen": ["red", "blue"],
        "rejected": ["seven"],
        "num_correct": 2,
        "num_incorrect": 1,
        "total_completions": 3,
        "models": ["x"],
        "subset": "Ties",
        "additional_metadata": {},
    }
    path.write_text(json.dumps(plain) + "\n")
    (found,) = read_rewardbench2(path)
    assert found.options == ("red", "blue", "seven")
    assert found.num_correct == 2
    for change, message in [
        ({"subset": "Chat"}, "subset 'Chat'"),
        ({"chosen": "red"}, "'chosen' must be a list"),
        ({"num_correct": 3}, "num_correct=3 of 3"),
        ({"num_correct": None}, "no 'num_correct'"),
        ({"id": 17}, "row 17: the id must be ref:N or tied:N"),
        ({}, "stands twice"),
    ]:
        path.write_text(json.dumps(plain) + "\n" + json.dumps({**plain, **change}) + "\n")
        with pytest.raises(UserError, match=f"two.jsonl:2.*{message}"):
            read_rewardbench2(path)
