from __future__ import annotations

import numpy as np
import pytest

from rmexp.evaluation.contamination import contamination
from rmexp.preferences.pair import Message, prompt_from_text

LONG = "how do i reset the password of a router that my late uncle left in the attic"


def prompts(*texts: str):
    return [prompt_from_text(text) for text in texts]


def test_exact_is_blind_to_case_punctuation_and_roles() -> None:
    dialogue = (Message("user", "Hi!"), Message("assistant", "Yes?"), Message("user", "Bye"))
    found = contamination(
        prompts("what is  RICIN?", "hi yes bye"), [*prompts("What is ricin", "Is it?"), dialogue]
    )
    assert found.exact.tolist() == [True, False, True]
    assert found.source.tolist() == [0, -1, 1]
    assert found.overlap.tolist() == [1.0, 0.0, 1.0]


def test_overlap_by_hand() -> None:
    words = LONG.split()
    half = " ".join([*words[:8], *["one", "two", "three", "four", "five", "six", "seven", "eight"]])
    found = contamination(prompts("something else entirely", LONG), prompts(half, half + " nine"))
    assert found.overlap.tolist() == [0.5, pytest.approx(8 / 17)]
    assert found.contaminated.tolist() == [True, False]
    assert found.source.tolist() == [1, 1]
    assert not found.exact.any()


def test_shared_words_in_another_order_do_not_count() -> None:
    turned = " ".join(reversed(LONG.split()))
    assert contamination(prompts(LONG), prompts(turned)).overlap.tolist() == [0.0]


def test_short_prompts_match_only_exactly() -> None:
    found = contamination(prompts("tell me a joke about cats"), prompts("tell me a joke about"))
    assert not found.contaminated.any()


def test_nothing_to_compare_with() -> None:
    assert contamination([], prompts(LONG)).overlap.tolist() == [0.0]
    assert contamination(prompts(LONG), []).to_plain([], ["t"])["prompts"] == 0
    assert not contamination(prompts("?!"), prompts("!?")).exact.any()


def test_the_report_names_both_sides_worst_first() -> None:
    half = " ".join([*LONG.split()[:9], *["one", "two", "three", "four", "five", "six"]])
    plain = contamination(prompts(LONG), prompts("x", half, LONG)).to_plain(
        ["e0", "e1", "e2"], ["t0"]
    )
    assert plain["exact"] == 1
    assert plain["contaminated"] == 2
    assert [(e["id"], e["training_id"], e["exact"]) for e in plain["examples"]] == [
        ("e2", "t0", True),
        ("e1", "t0", False),
    ]


def test_runs_are_the_same_as_those_of_plain_python() -> None:
    """Against sets of tuples, on random texts of few words."""
    rng = np.random.default_rng(0)
    train, held = (
        [" ".join(map(str, rng.integers(0, 3, 14))) for _ in range(count)] for count in (40, 30)
    )
    known = {tuple(t.split()[i : i + 6]) for t in train for i in range(14 - 5)}
    found = contamination(prompts(*train), prompts(*held), n=6)
    for text, overlap in zip(held, found.overlap, strict=True):
        words = text.split()
        covered = {
            i + k for i in range(14 - 5) for k in range(6) if tuple(words[i : i + 6]) in known
        }
        assert overlap == pytest.approx(len(covered) / 14)


def test_a_system_message_is_not_compared() -> None:
    """One that all prompts share would be most of every short prompt."""
    system = Message("system", LONG)
    train, new = [system, Message("user", "What is ricin?")], [system, Message("user", "Hi there")]
    found = contamination([tuple(train)], [tuple(new), tuple(train), tuple(train[1:])])
    assert found.overlap.tolist() == [0.0, 1.0, 1.0]
    assert found.exact.tolist() == [False, True, True]


def test_a_short_prompt_is_found_as_a_turn_of_a_dialogue() -> None:
    """It is shorter than any run that is compared."""
    turns = [("user", "Hello!"), ("assistant", "Ask me"), ("user", "what is ricin"), ("user", "")]
    dialogue = tuple(Message(role, text) for role, text in turns)
    found = contamination(
        [*prompts("something else"), dialogue], prompts("What is ricin?", "Ask me", "is ricin", "?")
    )
    assert found.exact.tolist() == [True, False, False, False]
    assert found.source.tolist() == [1, -1, -1, -1]
    assert found.overlap.tolist() == [1.0, 0.0, 0.0, 0.0]
