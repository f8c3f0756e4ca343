from __future__ import annotations

import numpy as np
import pytest
from rating_fakes import HashEmbedder, make_rules

from rmexp.errors import UserError
from rmexp.preferences import prompt_from_text
from rmexp.rating.exemplar import ExemplarRater
from rmexp.rating.rater import Item
from rmexp.rating.relevance import embedding_relevance, prompt_relevance
from rmexp.rating.wording import Rarity, grams, sentences, wording
from rmexp.rules import Example, Rule

POLITE = Rule(
    "polite",
    "The response says please.",
    "respect",
    follows=(Example("Hi", "Please sit down."), Example("Hi", "Wait here, please.")),
    breaks=(Example("Hi", "Sit down."), Example("Hi", "Wait here.")),
)


@pytest.fixture(scope="module")
def rater() -> ExemplarRater:
    return ExemplarRater(HashEmbedder())


def item(response: str, prompt: str = "Hello") -> Item:
    return Item(prompt_from_text(prompt), response)


def test_what_resembles_the_following_examples_rates_higher(rater: ExemplarRater) -> None:
    items = [item("Please come in."), item("Come in.")]
    psi = rater.rate(items, [POLITE]).psi
    assert psi.dtype == np.float32
    assert psi[0, 0] > 0.2
    assert psi[0, 0] > psi[1, 0]


def test_one_telling_sentence_counts_in_a_long_response(rater: ExemplarRater) -> None:
    filler = "The weather was grey all day. Trains ran late again."
    psi = rater.rate([item(filler), item(f"{filler} Sit here, please.")], [POLITE]).psi
    assert psi[1, 0] > psi[0, 0]


def test_swapping_the_examples_flips_the_sign(rater: ExemplarRater) -> None:
    rude = Rule("rude", "Rude.", "respect", follows=POLITE.breaks, breaks=POLITE.follows)
    items = [item("Please come in."), item("Get lost.")]
    psi = rater.rate(items, [POLITE, rude]).psi
    np.testing.assert_allclose(psi[:, 0], -psi[:, 1], atol=1e-6)


def test_a_rating_does_not_depend_on_what_is_rated_beside_it(rater: ExemplarRater) -> None:
    rules = make_rules(5).rules
    items = [item(f"thing{i} is here. You asked for it, please.") for i in range(6)]
    whole = rater.rate(items, rules).psi
    for i in range(6):
        for j in range(5):
            alone = rater.rate([items[i]], [rules[j]]).psi[0, 0]
            assert abs(alone - whole[i, j]) < 1e-6


def test_ratings_lie_on_the_scale_and_unwanted_ones_are_nan(rater: ExemplarRater) -> None:
    wanted = np.array([[True, False], [False, True]])
    psi = rater.rate([item("Please!"), item("")], [POLITE, make_rules(1).rules[0]], wanted).psi
    np.testing.assert_array_equal(np.isnan(psi), ~wanted)
    assert np.nanmax(np.abs(psi)) <= 1


def test_a_rule_without_examples_is_named(rater: ExemplarRater) -> None:
    bare = Rule("bare", "Something.", "x", follows=POLITE.follows)
    with pytest.raises(UserError, match="'bare'"):
        rater.rate([item("a")], [bare])


def test_nothing_to_rate(rater: ExemplarRater) -> None:
    assert rater.rate([], [POLITE]).psi.shape == (0, 1)


def test_sentences_keep_every_word() -> None:
    text = "One. Two!\nThree? Four"
    assert sentences(text) == ["One.", "Two!", "Three?", "Four"]
    assert sentences("") == [""]


def test_recurring_words_outweigh_chance_ones() -> None:
    weights = wording(POLITE, Rarity.of(["Some other text."]))
    assert weights["please"] > abs(weights["please sit"]) > 0
    assert "sit" not in weights, "equally common on both sides"
    assert grams("don't") == {"don't"} == grams("Don\u2019t")


def test_relevance_spans_zero_to_one_per_prompt() -> None:
    random = np.random.default_rng(0)
    relevance = embedding_relevance(random.normal(size=(9, 4)), random.normal(size=(6, 4)))
    np.testing.assert_array_equal(relevance.min(axis=1), 0)
    np.testing.assert_array_equal(relevance.max(axis=1), 1)


def test_relevance_keeps_the_order_of_the_cosines() -> None:
    rules = np.eye(3)
    relevance = embedding_relevance(np.array([[0.8, 0.6, 0.0]]), rules)
    np.testing.assert_allclose(relevance, [[1, 0.75, 0]])


def test_one_rule_is_fully_relevant() -> None:
    assert embedding_relevance(np.eye(2), np.array([[1.0, 0.0]])).tolist() == [[1.0], [1.0]]


def test_prompt_relevance_prefers_the_rule_that_shares_words() -> None:
    rules = [
        Rule("locks", "The response refuses to open locks.", "x", "The user asks about locks !"),
        Rule("pills", "The response gives no dose of pills.", "x", "The user asks about pills !"),
    ]
    prompts = [prompt_from_text("pills pills"), prompt_from_text("locks locks")] * 2
    relevance = prompt_relevance(prompts, rules, HashEmbedder())
    assert relevance.tolist() == [[0, 1], [1, 0]] * 2
