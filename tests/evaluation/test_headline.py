from __future__ import annotations

import numpy as np

from rmexp.evaluation.headline import headline
from rmexp.evaluation.preferences import evaluate_preferences
from rmexp.preferences import Pair, prompt_from_text


class Lengths:
    def __init__(self, sign: float):
        self.sign = sign

    def score(self, prompts, responses) -> np.ndarray:
        return self.sign * np.array([float(len(text)) for text in responses])


def judged(longer: int, shorter: int) -> list[Pair]:
    """So many pairs whose longer, and whose shorter response is preferred."""
    prefers = ["a"] * longer + ["b"] * shorter
    return [
        Pair(f"p{i}", prompt_from_text(f"q{i}"), "a long answer", "short", side)
        for i, side in enumerate(prefers)
    ]


def test_below_a_length_baseline_is_said_with_its_name() -> None:
    metrics = evaluate_preferences(Lengths(1.0), judged(4, 16)).metrics()
    accuracy, baselines, difference = headline(metrics, "test", "pairs the search never saw")
    assert accuracy.startswith("test accuracy 0.200 (95% interval 0.050 to 0.400, 20 pairs the")
    assert (
        baselines == "baselines on the same pairs: longer 0.200, shorter 0.800, majority side 0.800"
    )
    assert difference.startswith(
        'accuracy BELOW the better length baseline ("always prefer the shorter") by -0.600 (95%'
    )
    assert "covers 0" not in difference


def test_an_equal_or_better_accuracy_keeps_its_words() -> None:
    metrics = evaluate_preferences(Lengths(-1.0), judged(4, 16)).metrics()
    difference = headline(metrics, "test")[2]
    assert difference == (
        "accuracy above the better length baseline by +0.000 (95% interval -0.161 to +0.161, which "
        "covers 0)"
    )


def test_all_right_names_the_interval() -> None:
    metrics = evaluate_preferences(Lengths(1.0), judged(16, 0)).metrics()
    assert headline(metrics, "test")[0] == (
        "test accuracy 1.000 (95% interval 0.806 to 1.000, 16 pairs, all right: Wilson's interval)"
    )
    old = {**metrics, "accuracy_low": 1.0}
    assert "Wilson" not in headline(old, "test")[0]
