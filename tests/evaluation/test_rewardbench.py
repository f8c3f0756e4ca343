from __future__ import annotations

import json
import math

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest

from rmexp.errors import UserError
from rmexp.evaluation.result_files import write_result_files
from rmexp.evaluation.rewardbench import (
    SECTIONS,
    RewardBenchRow,
    evaluate_rewardbench,
    read_prior_sets,
    read_rewardbench,
    section_scores,
)
from rmexp.preferences import prompt_from_text

ALL = [subset for weights in SECTIONS.values() for subset in weights]


class ByText:
    """A scorer that looks the response up."""

    def __init__(self, scores: dict[str, float]) -> None:
        self.scores = scores
        self.seen: list[str] = []

    def score(self, prompts, responses):
        self.seen += responses
        return np.array([self.scores[r] for r in responses])


def row(number: int, chosen: str, rejected: str, subset: str) -> RewardBenchRow:
    return RewardBenchRow(number, prompt_from_text(f"prompt {number}"), chosen, rejected, subset)


def plain(number: int, subset: str = "xstest-should-refuse", **changes) -> dict:
    made = {
        "prompt": f"prompt {number}",
        "chosen": "good",
        "chosen_model": "x",
        "rejected": "bad",
        "rejected_model": "y",
        "subset": subset,
        "id": number,
    }
    return {**made, **changes}


# Section scores


def test_counts_of_the_published_set():
    assert {name: sum(w.values()) for name, w in SECTIONS.items()} == {
        "Chat": 358,
        "Chat Hard": 456,
        "Safety": 740,
        "Reasoning": 1968,
    }
    assert len(ALL) == len(set(ALL)) == 23


def test_all_right_is_one():
    scores = section_scores(dict.fromkeys(ALL, 1.0))
    assert scores == dict.fromkeys(["Chat", "Chat Hard", "Safety", "Reasoning", "overall"], 1.0)


def test_safety_by_hand():
    safety = {
        "refusals-dangerous": 0.5,
        "refusals-offensive": 1.0,
        "xstest-should-refuse": 1.0,
        "xstest-should-respond": 0.0,
        "donotanswer": 0.25,
    }
    # (50 + 100 + 154 + 0 + 34) / 740; with the xstest counts swapped it would be 434 / 740.
    assert section_scores(safety)["Safety"] == pytest.approx(338 / 740)


def test_math_weighs_as_much_as_all_code():
    scores = dict.fromkeys(SECTIONS["Reasoning"], 0.0) | {"math-prm": 1.0}
    assert section_scores(scores)["Reasoning"] == pytest.approx(0.5)


def test_a_missing_subset_leaves_the_weights_of_the_others():
    scores = section_scores({"mt-bench-easy": 1.0, "mt-bench-med": 0.5})
    assert scores == {"Chat": pytest.approx((28 + 20) / 68)}


def test_a_missing_section_is_absent_and_with_it_the_overall_score():
    rest = {s: 1.0 for s in ALL if s not in SECTIONS["Safety"]}
    assert set(section_scores(rest)) == {"Chat", "Chat Hard", "Reasoning"}
    assert section_scores({}) == {}


def test_overall_is_the_plain_mean_of_sections():
    scores = section_scores(
        {
            s: value
            for w, value in zip(SECTIONS.values(), [1.0, 0.5, 0.25, 0.75], strict=True)
            for s in w
        }
    )
    assert scores["overall"] == pytest.approx((1.0 + 0.5 + 0.25 + 0.75) / 4)


def test_prior_sets_weigh_half_a_section():
    prior = {"anthropic_helpful": 0.5, "anthropic_hhh": 0.9, "shp": 0.6, "summarize": 0.8}
    scores = section_scores(dict.fromkeys(ALL, 1.0) | prior)
    assert scores["Prior"] == pytest.approx(0.7)
    assert scores["overall"] == pytest.approx((2 * 4 + 0.7) / 9)
    assert section_scores(prior) == {"Prior": pytest.approx(0.7)}


def test_some_prior_sets_are_no_prior():
    some = {"anthropic_helpful": 0.5, "shp": 0.6, "summarize": 0.8}
    assert section_scores(dict.fromkeys(ALL, 1.0) | some)["overall"] == 1.0
    assert section_scores(some) == {}


def test_nan_and_unknown_subsets_are_named():
    with pytest.raises(ValueError, match="donotanswer"):
        section_scores({"donotanswer": math.nan})
    with pytest.raises(ValueError, match="xstest-should-reply"):
        section_scores({"xstest-should-reply": 1.0})


# Rows


def test_a_tie_is_wrong():
    rows = [
        row(1, "two", "one", "donotanswer"),
        row(2, "one", "two", "donotanswer"),
        row(3, "one", "uno", "donotanswer"),
        row(4, "two", "uno", "donotanswer"),
    ]
    result = evaluate_rewardbench(ByText({"one": 1.0, "uno": 1.0, "two": 2.0}), rows)
    assert result.subsets == {"donotanswer": 0.5}
    assert result.sections == {"Safety": 0.5}
    assert result.reference_rows()["results"] == [1, 0, 0, 1]
    assert (result.ties, result.metrics()["ties"]) == (1, 1.0)


def test_nan_names_its_row():
    rows = [row(1, "two", "one", "donotanswer"), row(77, "two", "none", "donotanswer")]
    with pytest.raises(ValueError, match=r"77 \(rejected\)"):
        evaluate_rewardbench(ByText({"one": 1.0, "two": 2.0, "none": math.nan}), rows)


def test_what_an_accuracy_hides_stands_beside_it():
    rows = [row(i, "long text", "short", "mt-bench-easy") for i in range(28)]
    rows += [row(100 + i, "short", "long text", "donotanswer") for i in range(10)]
    result = evaluate_rewardbench(ByText({"long text": 1.0, "short": 0.0}), rows)
    assert result.sections == {"Chat": 1.0, "Safety": 0.0}
    assert result.longer == {"Chat": 1.0, "Safety": 0.0}
    assert result.length.accuracy_shorter == 0.0
    assert result.partial == ("Chat", "Safety")
    assert result.metrics()["baseline_longer Chat"] == 1.0


def test_intervals_resample_within_subsets():
    rows = [row(i, "b" if i % 2 else "a", "m", "math-prm") for i in range(100)]
    rows += [row(100 + i, "b", "a", "hep-go") for i in range(10)]
    result = evaluate_rewardbench(ByText({"a": 0.0, "b": 2.0, "m": 1.0}), rows)
    interval = result.intervals["Reasoning"]
    assert interval.estimate == pytest.approx((984 * 0.5 + 164) / (984 + 164))
    # Only math-prm varies: its standard error 0.05, at weight 984/1148.
    half = 1.96 * 0.05 * 984 / 1148
    assert interval.low == pytest.approx(interval.estimate - half, abs=0.02)
    assert interval.high == pytest.approx(interval.estimate + half, abs=0.02)
    assert result.metrics()["Reasoning_low"] == interval.low
    # Each subset has one too: half of 100 rows, and Wilson's where all ten are right.
    math_prm = result.intervals["math-prm"]
    assert math_prm.low == pytest.approx(0.5 - 1.96 * 0.05, abs=0.02)
    assert math_prm.high == pytest.approx(0.5 + 1.96 * 0.05, abs=0.02)
    assert result.metrics()["hep-go_low"] == pytest.approx(10 / (10 + 1.96**2), abs=1e-3)


def test_a_complete_set_is_not_partial():
    rows = [
        row(1000 * k + i, "b", "a", subset)
        for k, (subset, count) in enumerate(SECTIONS["Chat"].items())
        for i in range(count)
    ]
    assert evaluate_rewardbench(ByText({"a": 0.0, "b": 1.0}), rows).partial == ()
    assert evaluate_rewardbench(ByText({"a": 0.0, "b": 1.0}), rows[1:]).partial == ("Chat",)


def test_nothing_to_evaluate():
    with pytest.raises(UserError, match="no row"):
        evaluate_rewardbench(ByText({}), [])


# Files


@pytest.mark.parametrize("suffix", ["jsonl", "json", "parquet"])
def test_reading_local_files(tmp_path, suffix):
    path = tmp_path / f"bench.{suffix}"
    rows = [plain(1), plain(2, "hep-go")]
    if suffix == "jsonl":
        path.write_text("".join(json.dumps(r) + "\n" for r in rows))
    elif suffix == "json":
        path.write_text(json.dumps(rows))
    else:
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), path)
    found = read_rewardbench(path)
    assert [(r.id, r.subset, r.chosen) for r in found] == [
        (1, "xstest-should-refuse", "good"),
        (2, "hep-go", "good"),
    ]
    assert found[0].prompt == prompt_from_text("prompt 1")


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (plain(2, subset="llmbar"), r"bench.jsonl:2.*'llmbar' is not of RewardBench"),
        (plain(2, chosen=None), r"bench.jsonl:2.*no 'chosen'"),
        (plain(2, rejected=["x"]), r"bench.jsonl:2.*'rejected' is not a text"),
        (["x"], r"bench.jsonl:2.*expected an object"),
    ],
)
def test_bad_rows_are_named(tmp_path, bad, message):
    path = tmp_path / "bench.jsonl"
    path.write_text(json.dumps(plain(1)) + "\n" + json.dumps(bad) + "\n")
    with pytest.raises(UserError, match=message):
        read_rewardbench(path)


def test_a_missing_file(tmp_path):
    with pytest.raises(UserError, match="no such file"):
        read_rewardbench(tmp_path / "none.jsonl")
    (tmp_path / "bench.csv").write_text("x")
    with pytest.raises(UserError, match="unknown kind"):
        read_rewardbench(tmp_path / "bench.csv")


def test_prior_sets_have_dialogues(tmp_path):
    path = tmp_path / "prior.jsonl"
    turns = [
        {"role": "user", "content": "a"},
        {"role": "assistant", "content": "b"},
        {"role": "user", "content": "c"},
    ]
    path.write_text(json.dumps(plain(1, "shp", prompt=turns)) + "\n")
    (found,) = read_prior_sets(path)
    assert [m.content for m in found.prompt] == ["a", "b", "c"]


def test_reference_files(tmp_path):
    rows = [row(7, "b", "a", "hep-go"), row(8, "a", "b", "hep-js")]
    result = evaluate_rewardbench(ByText({"a": 0.0, "b": 1.0}), rows)
    first, second = write_result_files(result, tmp_path, model="org/name")
    assert first == tmp_path / "rewardbench-partial" / "eval-set" / "org" / "name.json"
    # The whole file, as the reference's json.dumps(..., indent=4, sort_keys=True) leaves it.
    assert first.read_text() == (
        '{\n    "chat_template": "tokenizer",\n    "hep-go": 1.0,\n    "hep-js": 0.0,\n'
        '    "model": "org/name",\n    "model_type": "Seq. Classifier"\n}'
    )
    scores = json.loads(second.read_text())
    assert second == tmp_path / "rewardbench-partial" / "eval-set-scores" / "org" / "name.json"
    assert scores["id"] == [7, 8]
    assert scores["scores_chosen"] == [1.0, 0.0]
    assert scores["scores_rejected"] == [0.0, 1.0]
    assert scores["results"] == [1, 0]
    assert scores["subset"] == ["hep-go", "hep-js"]
    assert scores["text_chosen"][0] == [
        {"role": "user", "content": "prompt 7"},
        {"role": "assistant", "content": "b"},
    ]
    assert sorted(p.name for p in tmp_path.rglob("*.*")) == ["name.json", "name.json"]


def test_the_prior_sets_have_files_of_their_own(tmp_path):
    """Tools take every number of a file in eval-set for one of the 23 subsets."""
    rows = [row(7, "b", "a", "hep-go"), row(8, "a", "b", "shp"), row(9, "b", "a", "summarize")]
    result = evaluate_rewardbench(ByText({"a": 0.0, "b": 1.0}), rows)
    written = write_result_files(result, tmp_path, model="m")
    folders = ["eval-set", "eval-set-scores", "pref-sets", "pref-sets-scores"]
    assert written == [tmp_path / "rewardbench-partial" / folder / "m.json" for folder in folders]
    found = [json.loads(path.read_text()) for path in written]
    words = {"model", "model_type", "chat_template"}
    assert found[0].keys() == words | {"hep-go"}
    assert found[2] == {k: found[0][k] for k in words} | {"shp": 0.0, "summarize": 1.0}
    assert (found[1]["id"], found[3]["id"]) == ([7], [8, 9])
    assert found[3]["results"] == [0, 1]


def test_the_files_of_a_whole_set_lie_apart_from_those_of_a_part(tmp_path):
    counts = {s: n for weights in SECTIONS.values() for s, n in weights.items()}
    counts["math-prm"] = 447
    rows = [row(i, "b", "a", s) for s, n in counts.items() for i in range(n)]
    assert len(rows) == 2985
    prior = [row(9000, "b", "a", "shp")]
    result = evaluate_rewardbench(ByText({"a": 0.0, "b": 1.0}), rows + prior)
    written = write_result_files(result, tmp_path, model="m")
    assert [str(path.relative_to(tmp_path)) for path in written] == [
        "rewardbench/eval-set/m.json",
        "rewardbench/eval-set-scores/m.json",
        "rewardbench-partial/pref-sets/m.json",
        "rewardbench-partial/pref-sets-scores/m.json",
    ]
    result = evaluate_rewardbench(ByText({"a": 0.0, "b": 1.0}), rows[1:])
    written = write_result_files(result, tmp_path, model="m")
    assert written[0] == tmp_path / "rewardbench-partial" / "eval-set" / "m.json"


@pytest.mark.parametrize(
    ("model", "file"),
    [
        ("name", "name.json"),
        ("owner/name", "owner/name.json"),
        ("here/model", "here-model.json"),  # a folder here
        ("/tmp/run/model", "tmp-run-model.json"),
        ("here/../here/model", "here-model.json"),
        ("a/b/c", "a-b-c.json"),
    ],
)
def test_a_model_folder_is_named_by_its_path_and_leads_nowhere_else(
    tmp_path, monkeypatch, model, file
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "here" / "model").mkdir(parents=True)
    result = evaluate_rewardbench(ByText({"a": 0.0, "b": 1.0}), [row(7, "b", "a", "hep-go")])
    first, _ = write_result_files(result, tmp_path, model=model)
    assert first == tmp_path / "rewardbench-partial" / "eval-set" / file
    assert json.loads(first.read_text())["model"] == model


def test_another_models_files_are_not_replaced(tmp_path):
    result = evaluate_rewardbench(ByText({"a": 0.0, "b": 1.0}), [row(7, "b", "a", "hep-go")])
    first, _ = write_result_files(result, tmp_path, model="one", name="same")
    assert write_result_files(result, tmp_path, model="one", name="same")[0] == first
    with pytest.raises(UserError, match=r"same.json: holds the figures of another model, one"):
        write_result_files(result, tmp_path, model="two", name="same")
    assert json.loads(first.read_text())["model"] == "one"
    first.write_text("{}")
    with pytest.raises(UserError, match=r"same.json: is there already and is no result file"):
        write_result_files(result, tmp_path, model="one", name="same")


@pytest.mark.parametrize("model", ["", "/"])
def test_a_model_without_a_name(tmp_path, model):
    result = evaluate_rewardbench(ByText({"a": 0.0, "b": 1.0}), [row(7, "b", "a", "hep-go")])
    with pytest.raises(UserError, match="cannot name"):
        write_result_files(result, tmp_path, model=model)


def hep(task: int, right: bool, subset: str) -> RewardBenchRow:
    """A task in the words of its language, right or wrong in all."""
    snake, camel = f"task_{task}_of_x", f"Task{task}OfX"
    signature = {
        "hep-cpp": f"vector<int> {snake}(string s)",
        "hep-go": f"func {camel}(s string) []int",
        "hep-java": f"public int {camel[0].lower()}{camel[1:]}(String s)",
        "hep-js": f"const {camel[0].lower()}{camel[1:]} = (s)",
        "hep-python": f"{snake}(s: str) -> List[int]",
        "hep-rust": f"{snake}(s: &str) -> Vec<i32>",
    }[subset]
    texts = ("good", "bad") if right else ("bad", "good")
    prompt = prompt_from_text(f"Write a function `{signature}` to solve:\nReturn `x(1)`.")
    return RewardBenchRow(f"{subset}{task}", prompt, *texts, subset)


def test_a_task_in_six_languages_is_drawn_once():
    """As wide as one language alone: five translations are no new evidence."""
    scorer = ByText({"good": 1.0, "bad": 0.0})
    languages = [s for s in SECTIONS["Reasoning"] if s.startswith("hep-")]
    tasks = np.random.default_rng(0).integers(0, 2, 100).astype(bool)
    rows = [hep(i, bool(right), s) for s in languages for i, right in enumerate(tasks)]
    one = evaluate_rewardbench(scorer, rows[:100]).intervals["Reasoning"]
    six = evaluate_rewardbench(scorer, rows).intervals["Reasoning"]
    assert (six.estimate, six.low, six.high) == pytest.approx(
        (one.estimate, one.low, one.high), abs=0.02
    )


def test_pairs_of_one_prompt_are_drawn_together_in_all_sections():
    scorer = ByText({"good": 1.0, "bad": 0.0})
    rows = [
        RewardBenchRow(n, prompt_from_text(f"prompt {n % 4}"), *texts, subset)
        for n in range(80)
        for subset in ("mt-bench-easy", "mt-bench-hard", "shp", "summarize")
        for texts in [("good", "bad") if n % 4 < 2 else ("bad", "good")]
    ]
    found = evaluate_rewardbench(scorer, rows)
    # Four prompts, two of them right: now and then all drawn are right, or all wrong.
    for section in ("Chat", "Chat Hard"):
        assert (found.intervals[section].low, found.intervals[section].high) == (0.0, 1.0)
