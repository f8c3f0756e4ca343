"""What the pool promises: rules that can be judged on one response, and no two alike."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from rmexp.rules import load_rule_set, named_sets, pool
from rmexp.rules.load import POOL

RULES = pool().rules
# MiniLM's cosine of two sentences; the pool's own highest is below it.
MOST_ALIKE = 0.80
COMPARATIVE = re.compile(
    r"\b(best|better|worse|worst|more|most|less|least|than|superior|preferable|\w+est of)\b", re.I
)


def test_there_are_a_hundred_rules_in_twelve_categories_or_more() -> None:
    assert len(RULES) == 100
    assert len(set(pool().ids)) == 100
    sizes = Counter(rule.category for rule in RULES)
    assert len(sizes) >= 12
    assert min(sizes.values()) >= 3


def test_every_rule_is_whole() -> None:
    for rule in RULES:
        assert re.fullmatch(r"[a-z0-9_]+", rule.id)
        assert rule.sentence.startswith("The response"), rule.id
        assert rule.sentence.endswith("."), rule.id
        assert rule.applies_when, rule.id
        assert len(rule.follows) == len(rule.breaks) == 3, rule.id


def test_no_rule_compares() -> None:
    for rule in RULES:
        assert not COMPARATIVE.search(rule.sentence), rule.sentence


def test_no_example_serves_twice() -> None:
    responses = Counter(e.response for rule in RULES for e in (*rule.follows, *rule.breaks))
    assert [text for text, times in responses.items() if times > 1] == []


def test_every_rule_shows_both_sides_of_one_prompt() -> None:
    for rule in RULES:
        shared = {e.prompt for e in rule.follows} & {e.prompt for e in rule.breaks}
        assert shared, rule.id


def test_a_file_holds_one_category() -> None:
    files = {path.stem for path in POOL.glob("*.yaml")} - {"sets"}
    assert files == {rule.category for rule in RULES}


def test_no_two_sentences_say_the_same(tmp_path: Path) -> None:
    from rmexp.backbone.embedding import SentenceEncoder
    from rmexp.backbone.sources import resolve_model

    encoder = SentenceEncoder(resolve_model("minilm", tmp_path))
    vectors = encoder.embed([rule.sentence for rule in RULES])
    cosine = np.triu(vectors @ vectors.T, 1)
    i, j = np.unravel_index(cosine.argmax(), cosine.shape)
    assert cosine.max() < MOST_ALIKE, f"{RULES[i].id} ~ {RULES[j].id}"


@pytest.mark.parametrize("name", named_sets())
def test_every_named_set_resolves_to_rules_of_the_pool(name: str) -> None:
    rules = load_rule_set(name)
    assert rules.name == name
    assert set(rules.ids) <= set(pool().ids)
    assert len(set(rules.ids)) == len(rules) >= 3


def test_the_sets_are_what_their_names_say() -> None:
    assert len(load_rule_set("core20")) == 20
    assert load_rule_set("safety100").rules == RULES
    for category in {rule.category for rule in RULES}:
        assert {rule.category for rule in load_rule_set(category)} == {category}
    balance = load_rule_set("refusal_balance")
    assert {"over_refusal", "refusal_style"} <= {rule.category for rule in balance}
    assert len({rule.category for rule in load_rule_set("core20")}) >= 10
