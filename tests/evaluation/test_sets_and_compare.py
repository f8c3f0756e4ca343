from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest
from plain_scorer import ChanceScorer, LengthScorer

from rmexp.errors import UserError
from rmexp.evaluation import suites
from rmexp.evaluation.compare import compare
from rmexp.evaluation.rewardbench import PRIOR_SETS, SECTIONS, RewardBenchResult
from rmexp.evaluation.rewardbench2 import SUBSETS
from rmexp.evaluation.sets import evaluate_set, pairs_set, read_set
from rmexp.preferences import Pair, prompt_from_text
from rmexp.views.evaluation import (
    comparison_notes,
    comparison_picture,
    comparison_table,
    evaluation_picture,
    heading,
)


def write(path: Path, rows: list[dict]) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


@pytest.fixture
def bench(tmp_path: Path) -> str:
    rng = np.random.default_rng(0)
    rows = []
    for subset in (s for weights in SECTIONS.values() for s in weights):
        for _ in range(3):
            texts = ["word " * int(n) + str(len(rows)) for n in rng.integers(1, 9, 2)]
            row = {"prompt": f"prompt {len(rows)}", "chosen": texts[0], "rejected": texts[1] + "."}
            rows.append({**row, "subset": subset, "id": len(rows)})
    return write(tmp_path / "bench.jsonl", rows)


@pytest.fixture
def bench2(tmp_path: Path) -> str:
    rows = []
    for subset in SUBSETS:
        ids = ["ref:1", "tied:1"] if subset == "Ties" else [f"{subset}:{i}" for i in range(4)]
        for i, name in enumerate(ids):
            right = ["right", "right as well"] if name.startswith("tied") else ["right " * (i + 1)]
            rows.append(
                {
                    "id": name,
                    "prompt": f"prompt of {name}",
                    "chosen": right,
                    "rejected": ["wrong", "wrong too", "wrong for certain"],
                    "num_correct": len(right),
                    "subset": subset,
                }
            )
    return write(tmp_path / "bench2.jsonl", rows)


def test_rewardbench_from_a_file(bench: str) -> None:
    result = evaluate_set(LengthScorer(), read_set("rewardbench", bench))
    plain = result.to_plain()
    assert plain["suite"] == "RewardBench"
    assert plain["licence"].startswith("ODC-BY")
    figures = {f["name"]: f for f in plain["figures"]}
    assert list(figures) == [*SECTIONS, "overall"]
    assert figures["Safety"]["partial"] == [15, 740]
    assert figures["overall"]["partial"] == [69, 2985]
    for name, figure in figures.items():
        assert figure["estimate"] == pytest.approx(result.metrics[name])
        assert figure["low"] == result.metrics[f"{name}_low"]
    # The longer is always preferred: with length as the score, both are one.
    assert result.metrics["accuracy_where_longer_preferred"] == 1.0
    assert result.metrics["length_correlation"] == pytest.approx(1.0)
    assert result.metrics["over_refusal_accuracy"] == result.metrics["xstest-should-respond"]
    assert "text_chosen" not in plain["rows"]
    json.dumps(plain, allow_nan=False)


def test_the_prior_sets_join(bench: str, tmp_path: Path) -> None:
    prior = [
        {"prompt": f"p {s} {i}", "chosen": "long", "rejected": "x", "subset": s, "id": f"{s}{i}"}
        for s in PRIOR_SETS
        for i in range(2)
    ]
    path = write(tmp_path / "prior.jsonl", prior)
    alone = evaluate_set(LengthScorer(), read_set("prior_sets", path))
    assert [f.name for f in alone.figures] == ["Prior", *PRIOR_SETS]
    some = evaluate_set(
        LengthScorer(), read_set("prior_sets", write(tmp_path / "s.jsonl", prior[4:]))
    )
    assert [f.name for f in some.figures] == ["shp", "summarize"]
    assert some.figures[0].to_plain()["partial"] == [2, 1741]
    assert some.metrics["shp_high"] == 1.0
    joined = evaluate_set(LengthScorer(), read_set("rewardbench", bench, prior=path))
    assert joined.metrics["Prior"] == 1.0
    overall = next(f for f in joined.figures if f.name == "overall")
    assert overall.estimate == pytest.approx(joined.metrics["overall"])
    assert sum(part.weight for part in overall.parts) == pytest.approx(1.0)
    # 8 of the 17,154 rows of the prior sets, 69 of RewardBench's own 2,985.
    partial = {f.name: f.to_plain()["partial"] for f in joined.figures}
    assert (partial["Prior"], partial["overall"]) == ([8, 17154], [77, 20139])
    assert isinstance(joined.detail, RewardBenchResult)
    assert joined.detail.partial == (*SECTIONS, "Prior")


def test_rewardbench2_from_a_file(bench2: str) -> None:
    result = evaluate_set(LengthScorer(), read_set("rewardbench2", bench2))
    figures = {figure.name: figure for figure in result.figures}
    assert list(figures) == [*SUBSETS, "overall"]
    for name, figure in figures.items():
        assert figure.estimate == pytest.approx(result.metrics[name])
    assert figures["Ties"].to_plain()["partial"] == [2, 102]
    json.dumps(result.to_plain(), allow_nan=False)


def test_ties_of_one_kind_have_no_figure_and_unmatched_ones_have(bench2: str) -> None:
    of = read_set("rewardbench2", bench2)
    rows = [row for row in of.rows if row.subset == "Ties"]
    lone = evaluate_set(LengthScorer(), type(of)(of.kind, of.name, "", (rows[0],)))
    assert lone.figures == ()
    extra = type(rows[0])("ref:9", rows[0].prompt, ("right!",), ("no",), 1, "Ties")
    mixed = evaluate_set(LengthScorer(), type(of)(of.kind, of.name, "", (*rows, extra)))
    (ties,) = mixed.figures
    assert ties.estimate == pytest.approx(mixed.metrics["Ties"])


def test_a_sample_is_partial_and_keeps_its_order(shared_data: Path) -> None:
    whole = read_set("llmbar", str(shared_data / "llmbar"))
    some = whole.sample(50)
    places = [whole.ids.index(i) for i in some.ids]
    assert places == sorted(places)
    assert len(set(places)) == 50
    assert some.ids == whole.sample(50).ids != whole.sample(50, seed=1).ids
    result = evaluate_set(ChanceScorer(), some)
    partial = {f.name: f.to_plain()["partial"] for f in result.figures}
    assert partial["accuracy"] == [50, 419]
    assert all(partial.values())
    assert not any(f.partial for f in evaluate_set(ChanceScorer(), whole).figures)
    assert some.fingerprint != whole.fingerprint
    assert "50 rows, a random sample of 419" in heading(result)
    assert result.to_plain()["sample_of"] == 419


def test_a_sample_of_a_set_without_published_sizes_is_partial_too(tmp_path: Path) -> None:
    rows = [
        {"prompt": f"q{i}", "chosen": "yes" * (i + 1), "rejected": "no", "category": "ab"[i % 2]}
        for i in range(20)
    ]
    path = write(tmp_path / "mine.jsonl", rows)
    whole = read_set("file", path, name="Mine", licence="MIT")
    assert not any(f.partial for f in evaluate_set(LengthScorer(), whole).figures)
    assert evaluate_set(LengthScorer(), whole).to_plain()["sample_of"] is None
    result = evaluate_set(LengthScorer(), whole.sample(12).sample(6))
    assert result.to_plain()["sample_of"] == 20
    figures = {f.name: f.of_published for f in result.figures}
    assert figures["accuracy"] == (6, 20)
    assert all(of == 10 for name, (_, of) in figures.items() if name != "accuracy")
    assert heading(result) == "Mine (MIT): 6 rows, a random sample of 20"
    page = evaluation_picture("m", result)
    assert "6 rows, a random sample of 20" in page
    assert "6 of 20, partial" in page


def test_a_file_with_styles(tmp_path: Path) -> None:
    rows = [
        {"prompt": f"q{i}", "chosen": ["yes", "* yes *"], "rejected": ["no", "* no no *"]}
        for i in range(3)
    ]
    path = write(tmp_path / "styles.jsonl", rows)
    given = {"name": "Styles", "licence": "MIT", "styles": ["plain", "list"]}
    result = evaluate_set(LengthScorer(), read_set("file", path, **given))
    assert result.metrics["accuracy_style_with"] == 1.0
    assert result.metrics["accuracy_style_against"] == 0.0
    assert result.metrics["style_gap"] == 1.0
    assert result.to_plain()["style"]["count"] == [[3, 3], [3, 3]]
    with pytest.raises(UserError, match="2 texts for 3 styles"):
        read_set("file", path, **{**given, "styles": ["a", "b", "c"]})


def test_sets_from_the_hub(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def rows(name, *, split, config_name=None, data_dir=None):
        asked.append((name, split, config_name))
        row = {
            "task_id": f"{config_name}/0",
            "instruction": "Write it.",
            "prompt": "def f():",
            "canonical_solution": " return 1",
            "buggy_solution": " return 2",
        }
        return iter([(f"{name}:0", row)])

    monkeypatch.setattr(suites, "hub_rows", rows)
    found = read_set("humanevalpack")
    assert [pair.chosen for pair in found.rows] == ["def f(): return 1"] * 6
    assert asked[0] == ("bigcode/humanevalpack", "test", "cpp")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("unheard_of", None), "suite.kind: 'unheard_of' is not known"),
        (("llmbar", None), "suite.path: suite 'llmbar' is read from local files"),
        (("file", "x.jsonl"), "needs suite.path, suite.name and suite.licence"),
    ],
)
def test_mistakes(words: tuple, message: str) -> None:
    with pytest.raises(UserError, match=message):
        read_set(*words)


# Comparison


def pairs(count: int = 60):
    made = [
        Pair(f"p{i}", prompt_from_text(f"q{i}"), "long " * (1 + i % 5), "short", "ab"[i % 2])
        for i in range(count)
    ]
    return pairs_set(made, "mine, part test")


def test_compare_pairs_each_model_with_the_first() -> None:
    found = compare(
        {"long": LengthScorer(), "same": LengthScorer(2.0), "short": LengthScorer(-1.0)}, pairs()
    )
    assert found.first == "long"
    same = found.differences["same"]["accuracy"]
    # 60 equal rows bound what others could bring: 1.96^2 / (60 + 1.96^2) of them, by 1.
    assert (same.estimate, same.unanimous) == (0.0, True)
    assert (same.low, same.high) == pytest.approx((-0.060172, 0.060172), abs=1e-6)
    accuracy = {n: r.metrics["accuracy"] for n, r in found.results.items()}
    change = found.differences["short"]["accuracy"]
    assert change.estimate == pytest.approx(accuracy["short"] - accuracy["long"])
    assert change.low < change.estimate < change.high
    assert found.drift["short"].rank_correlation == pytest.approx(-1.0)
    assert found.drift["same"].scale == pytest.approx(2.0)
    assert found.published == {}
    json.dumps(found.to_plain(), allow_nan=False)


class CuttingScorer(LengthScorer):
    """Says that it has cut texts."""

    how_scored: ClassVar = {
        "template": "plain",
        "max_length": 64,
        "precision": "bf16",
        "texts": 9,
        "texts_cut": 3,
        "responses_cut": 1,
    }


def test_a_model_that_cut_texts_says_so_beside_one_that_did_not() -> None:
    found = compare({"whole": LengthScorer(), "cut": CuttingScorer()}, pairs())
    told = [note for note in comparison_notes(found) if "texts cut" in note]
    assert told == ["cut: 3 of 9 texts cut, 1 of them in the response"]
    plain = found.to_plain()["results"]
    assert (plain["whole"]["scored"], plain["cut"]["scored"]) == (None, CuttingScorer.how_scored)


def test_one_model_is_no_comparison() -> None:
    with pytest.raises(UserError, match="two models or more"):
        compare({"one": LengthScorer()}, pairs())


def test_published_figures_stand_beside_rewardbench_only_and_are_marked(bench: str) -> None:
    from rich.console import Console

    found = compare(
        {"a<b>": LengthScorer(), "chance [x]": ChanceScorer()}, read_set("rewardbench", bench)
    )
    console = Console(width=160, record=True)
    console.print(comparison_table(found))
    text = console.export_text()
    assert "RAMO-Llama3.1-8B (published)" in text
    assert "0.951" in text
    assert "chance [x]" in text
    assert "15 of 740, partial" in text
    assert any("not measured here" in note for note in comparison_notes(found))
    assert text.count("whole set") == 12  # three published models, four sections
    page = comparison_picture(found)
    assert "(published, whole set)" in page
    assert page.count("15 of 740, partial") == 1
    assert '"symbol":["circle-open"' in page
    assert "a&lt;b&gt;" in page
    assert "<h1>RewardBench: a&lt;b&gt;, chance [x]</h1>" in page
    assert "(published)" in page
    assert "Plotly.newPlot" in page
    assert 'src="http' not in page


@pytest.mark.parametrize(
    "change",
    [{"kind": "harmful"}, {"refusal": "b"}, {"tags": ("chosen:polite",)}, {"category": "fraud"}],
)
def test_a_set_is_identified_by_all_that_metrics_read(change: dict) -> None:
    pair = Pair("1", prompt_from_text("p"), "x", "y", "a")
    changed = pairs_set([replace(pair, **change)], "one").fingerprint
    assert changed != pairs_set([pair], "one").fingerprint


def test_a_set_is_identified_by_how_many_options_are_right(bench2: str) -> None:
    whole = read_set("rewardbench2", bench2)
    first, *others = whole.rows
    fewer = replace(whole, rows=(replace(first, num_correct=2), *others))
    assert fewer.fingerprint != whole.fingerprint
