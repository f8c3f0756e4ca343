from __future__ import annotations

import gzip
import json
from collections import Counter

import numpy as np
import pytest

from rmexp.errors import UserError
from rmexp.evaluation.preferences import evaluate_preferences
from rmexp.evaluation.suites import (
    read_hh,
    read_humanevalpack,
    read_llmbar,
    read_pairs_suite,
    read_pku,
    read_suite,
)

TASK = {
    "task_id": "Python/0",
    "instruction": "Write a function f.",
    "prompt": "def f():\n",
    "canonical_solution": "    return 1\n",
    "buggy_solution": "    return 2\n",
}


def write(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_llmbar_keeps_sides_and_label(tmp_path):
    rows = [
        {"input": "x", "output_1": "one", "output_2": "two", "label": 2},
        {"input": "y", "output_1": "one", "output_2": "two", "label": 1},
    ]
    (tmp_path / "natural.json").write_text(json.dumps(rows))
    suite = read_llmbar(tmp_path)
    assert [(p.response_a, p.preference, p.chosen) for p in suite.pairs] == [
        ("one", "b", "two"),
        ("one", "a", "one"),
    ]
    assert {p.category for p in suite.pairs} == {"natural"}
    assert suite.partial["natural"] == (2, 100)
    assert suite.partial["adversarial-manual"] == (0, 46)
    assert suite.to_plain()["licence"] == "MIT"


def test_humanevalpack_is_prompt_and_solution(tmp_path):
    with gzip.open(tmp_path / "python.jsonl.gz", "wt") as stream:
        stream.write(json.dumps(TASK) + "\n")
    (pair,) = read_humanevalpack(tmp_path).pairs
    assert pair.prompt[0].content == "Write a function f."
    assert pair.chosen == "def f():\n    return 1\n"
    assert pair.rejected == "def f():\n    return 2\n"
    assert (pair.id, pair.category) == ("Python/0", "python")
    assert pair.group == "HumanEval/0"


@pytest.mark.parametrize(
    ("change", "problem"),
    [({"label": 0}, "'label' must be 1 or 2"), ({"input": " "}, "'input' must be a text")],
)
def test_bad_rows_are_named(tmp_path, change, problem):
    row = {"input": "x", "output_1": "one", "output_2": "two", "label": 2}
    (tmp_path / "natural.json").write_text(json.dumps([row, {**row, **change}]))
    with pytest.raises(UserError, match=rf"natural.json\[2\]: {problem}"):
        read_llmbar(tmp_path)


def test_a_folder_of_something_else(tmp_path):
    with pytest.raises(UserError, match="no file of LLMBar"):
        read_llmbar(tmp_path)
    with pytest.raises(UserError, match="llmbar, humanevalpack, hh, pku"):
        read_suite("rewardbench", tmp_path)


def test_any_pairs(tmp_path):
    path = write(tmp_path / "mine.jsonl", [{"prompt": "x", "chosen": "a", "rejected": "b"}])
    suite = read_pairs_suite(path, name="mine", licence="CC0")
    assert suite.pairs[0].chosen == "a"
    assert suite.to_plain() == {
        "name": "mine",
        "licence": "CC0",
        "pairs": 1,
        "partial": {},
        "dropped": {},
    }


def test_one_to_many_is_every_pair(tmp_path):
    rows = [{"id": "q", "prompt": "x", "chosen": ["a", "b"], "rejected": ["c", "d", "e"]}]
    suite = read_pairs_suite(write(tmp_path / "m.jsonl", rows), name="m", licence="CC0")
    assert {(p.chosen, p.rejected) for p in suite.pairs} == {
        (good, bad) for good in "ab" for bad in "cde"
    }
    assert len({p.id for p in suite.pairs}) == 6
    assert len({p.prompt for p in suite.pairs}) == 1


@pytest.mark.parametrize(
    ("row", "problem"),
    [
        ({"prompt": "x", "response_a": "a", "response_b": "b"}, "no human preference"),
        ({"prompt": "x", "chosen": ["a"], "rejected": "b"}, "'rejected' must be a list"),
        ({"prompt": "x", "chosen": [], "rejected": ["b"]}, "'chosen' must be a list"),
        ({"prompt": "x", "chosen": ["a"], "rejected": ["a"]}, "identical"),
    ],
)
def test_rows_that_say_nothing(tmp_path, row, problem):
    path = write(tmp_path / "mine.jsonl", [row])
    with pytest.raises(UserError, match=f"mine.jsonl:1.*{problem}"):
        read_pairs_suite(path, name="mine", licence="CC0")


def test_repeated_ids(tmp_path):
    row = {"id": "q", "prompt": "x", "chosen": "a", "rejected": "b"}
    path = write(tmp_path / "mine.jsonl", [row, {**row, "chosen": "c"}])
    with pytest.raises(UserError, match="id 'q' stands twice"):
        read_pairs_suite(path, name="mine", licence="CC0")


@pytest.mark.parametrize(
    "name", ["RewardBench", "reward-bench 2", "My Reward Bench", "Reward_Bench", "reward.bench"]
)
def test_never_called_rewardbench(tmp_path, name):
    path = write(tmp_path / "mine.jsonl", [{"prompt": "x", "chosen": "a", "rejected": "b"}])
    with pytest.raises(UserError, match="no RewardBench figure"):
        read_pairs_suite(path, name=name, licence="CC0")
    with pytest.raises(UserError, match="licence"):
        read_pairs_suite(path, name="mine", licence=" ")


# Real data


def test_llmbar_whole(shared_data):
    suite = read_llmbar(shared_data / "llmbar")
    assert not suite.partial
    assert Counter(p.category for p in suite.pairs) == {
        "natural": 100,
        "adversarial-neighbor": 134,
        "adversarial-gptinst": 92,
        "adversarial-gptout": 47,
        "adversarial-manual": 46,
    }
    assert Counter(p.preference for p in suite.pairs if p.category == "natural") == {
        "a": 42,
        "b": 58,
    }


def test_humanevalpack_whole(shared_data):
    suite = read_humanevalpack(shared_data / "humanevalpack")
    assert not suite.partial
    assert set(Counter(p.category for p in suite.pairs).values()) == {164}
    assert len(suite.pairs) == 6 * 164
    assert set(Counter(p.group for p in suite.pairs).values()) == {6}
    # The coin that places the right solution shows no side.
    assert abs(np.mean([p.preference == "a" for p in suite.pairs]) - 0.5) < 0.05


def test_hh_and_pku_whole(shared_data):
    hh = read_hh(shared_data / "hh-rlhf")
    assert len(hh.pairs) + sum(hh.dropped.values()) == 2312
    assert len(hh.pairs) > 2290
    pku = read_pku(shared_data / "pku-saferlhf")
    assert len(pku.pairs) + sum(pku.dropped.values()) == 5135
    assert len({p.prompt for p in pku.pairs}) <= 930
    assert "BY-NC" in pku.licence


def test_a_suite_scores_like_any_pairs(shared_data):
    class Longest:
        def score(self, prompts, responses):
            return np.array([float(len(r)) for r in responses])

    suite = read_llmbar(shared_data / "llmbar")
    result = evaluate_preferences(Longest(), suite.pairs)
    longer = [len(p.chosen) > len(p.rejected) for p in suite.pairs]
    assert result.accuracy.estimate == pytest.approx(np.mean(longer))
    assert set(result.by_category) == {p.category for p in suite.pairs}
