"""Samples keep proportions, and together what is scored together."""

from __future__ import annotations

import json
from collections import Counter

import pytest
from plain_scorer import LengthScorer

from rmexp.evaluation.rewardbench2 import SUBSETS, TIES
from rmexp.evaluation.sampling import stratified_sample
from rmexp.evaluation.sets import EvaluationSet, evaluate_set, read_set


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> EvaluationSet:
    """RewardBench 2 in its published sizes."""
    path = tmp_path_factory.mktemp("bench") / "bench2.jsonl"
    with path.open("w") as stream:
        for subset, count in SUBSETS.items():
            for i in range(count):
                name = f"{('ref', 'tied')[i % 2]}:{i // 2}" if subset == TIES else f"{subset}{i}"
                right = ["yes", "yes yes"] if name.startswith("tied") else ["yes " * (1 + i % 3)]
                row = {"id": name, "prompt": name, "chosen": right, "rejected": ["no", "no no"]}
                row |= {"num_correct": len(right), "subset": subset}
                stream.write(json.dumps(row) + "\n")
    return read_set("rewardbench2", str(path))


@pytest.mark.parametrize("count", [7, 30, 200, 201, 1864])
def test_every_subset_gives_its_share_and_ties_come_in_pairs(
    whole: EvaluationSet, count: int
) -> None:
    rows = whole.sample(count).rows
    assert len(rows) == count
    found = Counter(row.subset for row in rows)
    for subset, size in SUBSETS.items():
        fair = count * size / len(whole.rows)
        least = 2 if subset == TIES else 1
        assert found[subset] >= least
        assert abs(found[subset] - fair) < 2 or found[subset] == least
    ties = Counter(row.id.partition(":")[2] for row in rows if row.subset == TIES)
    assert set(ties.values()) == {2}


def test_a_sample_has_all_figures_of_the_whole(whole: EvaluationSet) -> None:
    result = evaluate_set(LengthScorer(), whole.sample(200))
    assert [figure.name for figure in result.figures] == [*SUBSETS, "overall"]
    assert {figure.name: figure.of_published for figure in result.figures}[TIES] == (10, 102)


def test_the_draw_is_of_the_seed(whole: EvaluationSet) -> None:
    first = whole.sample(60, seed=1).ids
    assert first == whole.sample(60, seed=1).ids
    assert first != whole.sample(60, seed=2).ids
    assert [whole.ids.index(i) for i in first] == sorted(whole.ids.index(i) for i in first)


def test_fewer_rows_than_strata_go_to_the_largest() -> None:
    strata = ["a"] * 5 + ["b"] * 2 + ["c"]
    drawn = stratified_sample(strata, list(range(8)), 2, seed=0)
    assert [strata[i] for i in drawn] == ["a", "b"]


def test_what_comes_together_and_does_not_fit_leaves_its_place_to_others() -> None:
    strata, together = ["t"] * 6 + ["a"] * 6, ["x", "y", "z", "x", "y", "z", *range(6)]
    drawn = stratified_sample(strata, together, 7, seed=0)
    assert len(drawn) == 7
    assert Counter(strata[i] for i in drawn) in ({"t": 2, "a": 5}, {"t": 4, "a": 3})
