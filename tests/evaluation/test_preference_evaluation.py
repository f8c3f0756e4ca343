from __future__ import annotations

import json
import math
from dataclasses import replace

import numpy as np
import pytest

from rmexp.errors import UserError
from rmexp.evaluation.objective import evaluate_objective
from rmexp.evaluation.preferences import evaluate_preferences
from rmexp.evaluation.scorer import checked_scores
from rmexp.preferences import Pair, prompt_from_text


class ByText:
    """Looks responses up, and remembers what it was asked."""

    def __init__(self, scores: dict[str, float]) -> None:
        self.scores = scores
        self.seen: list[str] = []

    def score(self, prompts, responses):
        assert len(prompts) == len(responses)
        self.seen += responses
        return np.array([self.scores[r] for r in responses])


class ByLength:
    def score(self, prompts, responses):
        return np.array([float(len(r)) for r in responses])


def pair(number: int, a: str, b: str, preference: str | None = "a", **more) -> Pair:
    prompt = prompt_from_text(f"prompt {number}")
    return Pair(f"p{number}", prompt, a, b, preference, **more)


SCORER = {"no": 0.0, "nope": 0.0, "yes": 1.0, "yes, of course": 2.0}
PAIRS = [
    pair(0, "yes", "no", "a", category="x", kind="looks_dangerous", refusal="b"),  # right
    pair(1, "no", "yes", "a", category="x", kind="harmful", refusal="a"),  # wrong
    pair(2, "yes, of course", "yes", "b", category="y"),  # wrong, shorter preferred
    pair(3, "no", "nope", "a", category="y", kind="both_refuse", refusal="both"),  # tie: wrong
    pair(4, "no", "yes", "b", category="y", kind="looks_dangerous", refusal="a"),  # right
]


def test_by_hand():
    found = evaluate_preferences(ByText(SCORER), PAIRS)
    numbers = found.metrics()
    assert found.correct.tolist() == [True, False, False, False, True]
    assert found.margins.tolist() == [1.0, -1.0, -1.0, 0.0, 1.0]
    assert numbers["accuracy"] == pytest.approx(0.4)
    assert numbers["accuracy_low"] < 0.4 < numbers["accuracy_high"]
    assert numbers["ties"] == 1
    assert numbers["pairs"] == 5
    assert numbers["baseline_majority"] == pytest.approx(0.6)
    assert numbers["baseline_longer"] == pytest.approx(0.4)
    assert numbers["baseline_shorter"] == pytest.approx(0.6)
    assert numbers["over_length_baseline"] == pytest.approx(0.4 - 0.6)
    assert numbers["over_length_baseline_low"] <= -0.2 <= numbers["over_length_baseline_high"]
    assert numbers["over_refusal_accuracy"] == 1.0
    assert numbers["under_refusal_accuracy"] == 0.0
    assert numbers["kind/looks_dangerous"] == 1.0
    assert numbers["category/x"] == 0.5
    assert numbers["accuracy_where_shorter_preferred"] == pytest.approx(0.0)
    assert numbers["loss"] == pytest.approx(np.logaddexp(0, [-1, 1, 1, 0, -1]).mean())
    assert all(isinstance(v, float) and math.isfinite(v) for v in numbers.values())
    plain = found.to_plain()
    assert (plain["over_refusal_pairs"], plain["under_refusal_pairs"]) == (2, 1)
    assert plain["by_category"]["y"] == [pytest.approx(1 / 3), 3]


def test_the_result_is_json():
    plain = evaluate_preferences(ByText(SCORER), PAIRS[:1]).to_plain()
    again = json.loads(json.dumps(plain, allow_nan=False))
    assert again["samples"] == [{"id": "p0", "chosen": 1.0, "rejected": 0.0}]
    assert again["score_quantiles"]["0.5"] == 0.5


def test_what_is_undefined_is_left_out():
    numbers = evaluate_preferences(ByText(SCORER), [pair(0, "yes", "no")]).metrics()
    assert "over_refusal_accuracy" not in numbers
    assert "accuracy_where_shorter_preferred" not in numbers


def test_the_side_of_the_preferred_response_does_not_matter():
    swapped = [
        Pair(p.id, p.prompt, p.response_b, p.response_a, {"a": "b", "b": "a"}[p.preference])
        for p in PAIRS
    ]
    first = evaluate_preferences(ByText(SCORER), PAIRS)
    second = evaluate_preferences(ByText(SCORER), swapped)
    assert first.margins.tolist() == second.margins.tolist()
    assert first.accuracy == second.accuracy


def test_a_scorer_of_length_gains_nothing_over_its_baseline():
    rng = np.random.default_rng(0)
    pairs = [
        pair(i, "x" * int(a), "x" * int(b), "ab"[int(side)])
        for i, (a, b, side) in enumerate(
            zip(
                rng.integers(1, 50, 80),
                rng.integers(51, 99, 80),
                rng.integers(0, 2, 80),
                strict=True,
            )
        )
    ]
    found = evaluate_preferences(ByLength(), pairs)
    numbers = found.metrics()
    assert numbers["accuracy"] == numbers["baseline_longer"]
    assert numbers["over_length_baseline"] <= 0
    assert numbers["length_correlation"] == pytest.approx(1.0)
    assert numbers["accuracy_where_longer_preferred"] == 1.0


def test_pairs_of_one_prompt_are_drawn_together():
    apart = [pair(i, "yes", "no", "ab"[i % 2]) for i in range(40)]
    together = [
        Pair(p.id, prompt_from_text(f"prompt {i % 2}"), p.response_a, p.response_b, p.preference)
        for i, p in enumerate(apart)
    ]
    narrow = evaluate_preferences(ByText(SCORER), apart).accuracy
    wide = evaluate_preferences(ByText(SCORER), together).accuracy
    assert narrow.estimate == wide.estimate == 0.5
    assert (wide.low, wide.high) == (0.0, 1.0)
    assert narrow.low > 0.2


def test_pairs_of_one_group_are_drawn_together_whatever_their_prompts():
    """Six languages with one task each are no more than the task."""
    tasks = [pair(i, "yes", "no", "ab"[i % 2]) for i in range(40)]
    six = [replace(p, prompt=prompt_from_text(f"{p.id} in {n}")) for n in range(6) for p in tasks]
    apart = evaluate_preferences(ByText(SCORER), six)
    joined = evaluate_preferences(ByText(SCORER), [replace(p, group=p.id) for p in six])
    once = evaluate_preferences(ByText(SCORER), tasks)
    assert joined.accuracy == once.accuracy
    assert joined.figures[0].interval() == once.figures[0].interval()
    assert joined.over_length_baseline == once.over_length_baseline
    assert apart.accuracy.low > once.accuracy.low + 0.05


def test_the_seed_holds_the_interval():
    pairs = [pair(i, "yes", "no", "ab"[i % 2]) for i in range(30)]
    first = evaluate_preferences(ByText(SCORER), pairs, seed=1).accuracy
    assert first == evaluate_preferences(ByText(SCORER), pairs, seed=1).accuracy


def test_identical_texts_are_scored_once():
    scorer = ByText(SCORER)
    same = prompt_from_text("same")
    pairs = [Pair(f"p{i}", same, "yes", "no", "a") for i in range(3)]
    assert evaluate_preferences(scorer, pairs).accuracy.estimate == 1.0
    assert sorted(scorer.seen) == ["no", "yes"]


def test_the_same_response_to_another_prompt_is_scored_again():
    scorer = ByText(SCORER)
    evaluate_preferences(scorer, [pair(0, "yes", "no"), pair(1, "yes", "no")])
    assert len(scorer.seen) == 4


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_score_that_is_no_number_names_its_row(bad):
    with pytest.raises(ValueError, match=r"p2 \(chosen\)"):
        evaluate_preferences(ByText({**SCORER, "yes": bad}), PAIRS[2:])


def test_a_scorer_that_refuses_its_own_nan_names_no_row_of_ours_but_we_do():
    class Refusing:
        def score(self, prompts, responses):
            error = ArithmeticError("rows 1")
            error.rows = (responses.index("yes, of course"),)
            raise error

    with pytest.raises(ValueError, match=r"row p2 \(rejected\)"):
        evaluate_preferences(Refusing(), [PAIRS[0], pair(2, "yes", "yes, of course")])


def test_a_scorer_of_the_wrong_shape():
    class Short:
        def score(self, prompts, responses):
            return np.zeros(len(responses) - 1)

    with pytest.raises(ValueError, match="shape"):
        checked_scores(Short(), [prompt_from_text("x")] * 2, ["a", "b"], ["0", "1"])


def test_pairs_without_a_preference_are_named():
    with pytest.raises(UserError, match="p9"):
        evaluate_preferences(ByText(SCORER), [*PAIRS, pair(9, "yes", "no", None)])
    with pytest.raises(UserError, match="no pair"):
        evaluate_preferences(ByText(SCORER), [])


def test_an_objective_over_the_metrics():
    numbers = evaluate_preferences(ByText(SCORER), PAIRS).metrics()
    formula = "over_refusal_accuracy - 0.5*max(0, 0.75 - 'category/x')"
    assert evaluate_objective(formula, numbers) == pytest.approx(1 - 0.5 * 0.25)


def test_a_kind_of_any_name_leaves_the_other_numbers_alone():
    plain = evaluate_preferences(ByText(SCORER), [replace(p, kind="") for p in PAIRS]).metrics()
    for name in ("low", "high", "where_longer_preferred", "style_with"):
        named = evaluate_preferences(ByText(SCORER), [replace(p, kind=name) for p in PAIRS])
        assert named.metrics() == {**plain, f"kind/{name}": plain["accuracy"]}
