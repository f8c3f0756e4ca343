"""What the starter pairs promise: no shortcut pays, nothing repeats, nothing leaks."""

from __future__ import annotations

import itertools
import re
from collections import Counter

import pytest

from rmexp.preferences import Pair, prompt_text, read_starter
from rmexp.preferences.near import near_copies
from rmexp.preferences.split import split_by_prompt
from rmexp.trial.schema import SplitConfig

PAIRS = read_starter().pairs
CATEGORIES = sorted({pair.category for pair in PAIRS})
LONGEST_COMMON_RUN = 6  # words
KINDS = {
    # which sides may refuse, and whether the refusal is the preferred one
    "harmful": lambda p: p.refusal == p.preference,
    "looks_dangerous": lambda p: p.refusal in ("a", "b") and p.refusal != p.preference,
    "both_refuse": lambda p: p.refusal == "both",
    "both_answer": lambda p: p.refusal == "none",
}


def words(text: str) -> list[str]:
    return re.findall(r"[a-z0-9']+", text.lower())


def share(hits: list[bool]) -> float:
    return sum(hits) / len(hits)


def groups() -> list[str]:
    return ["all", *CATEGORIES]


def of_group(group: str) -> list[Pair]:
    return [p for p in PAIRS if group in ("all", p.category)]


def test_there_are_enough_of_each_kind() -> None:
    kinds = Counter(pair.kind for pair in PAIRS)
    assert len(PAIRS) >= 320
    assert len(set(CATEGORIES) - {"benign"}) >= 12
    assert "benign" in CATEGORIES
    assert kinds["looks_dangerous"] >= 80
    assert kinds["both_refuse"] >= 40
    assert sum(len(pair.prompt) > 1 for pair in PAIRS) >= 20
    assert set(kinds) == set(KINDS)


def test_every_pair_is_whole_and_true_to_its_kind() -> None:
    for pair in PAIRS:
        assert pair.preference in ("a", "b"), pair.id
        assert pair.tags, pair.id
        assert pair.id.startswith(pair.category), pair.id
        assert KINDS[pair.kind](pair), f"{pair.id}: {pair.kind}, refusal {pair.refusal}"


@pytest.mark.parametrize("group", groups())
def test_neither_length_nor_side_gives_the_preference_away(group: str) -> None:
    pairs = of_group(group)
    for measure in (len, lambda text: len(words(text))):
        longer = [measure(p.chosen) > measure(p.rejected) for p in pairs]
        shorter = [measure(p.chosen) < measure(p.rejected) for p in pairs]
        assert 0.45 <= share(longer) <= 0.55
        assert 0.45 <= share(shorter) <= 0.55
    assert 0.45 <= share([p.preference == "a" for p in pairs]) <= 0.55


@pytest.mark.parametrize("group", groups())
def test_refusing_is_right_as_often_as_wrong(group: str) -> None:
    one_refuses = [p for p in of_group(group) if p.refusal in ("a", "b")]
    assert one_refuses
    assert 0.45 <= share([p.refusal == p.preference for p in one_refuses]) <= 0.55


@pytest.mark.parametrize("kind", KINDS)
def test_length_tells_nothing_within_a_kind_either(kind: str) -> None:
    longer = [len(p.chosen) > len(p.rejected) for p in PAIRS if p.kind == kind]
    assert 0.45 <= share(longer) <= 0.55


def test_no_two_responses_share_a_frame() -> None:
    seen: dict[tuple[str, ...], str] = {}
    for pair in PAIRS:
        for side, response in (("a", pair.response_a), ("b", pair.response_b)):
            place, text = f"{pair.id}/{side}", words(response)
            for start in range(len(text) - LONGEST_COMMON_RUN):
                run = tuple(text[start : start + LONGEST_COMMON_RUN + 1])
                assert seen.setdefault(run, place) == place, f"{place}: {' '.join(run)}"


def test_no_opening_is_worn_out() -> None:
    openings = Counter(
        tuple(words(text)[:3]) for p in PAIRS for text in (p.response_a, p.response_b)
    )
    opening, times = openings.most_common(1)[0]
    assert times <= 5, opening


def test_no_two_prompts_are_near_duplicates() -> None:
    texts = [" ".join(words(prompt_text(pair.prompt))) for pair in PAIRS]
    assert near_copies(texts, 0.4) == list(range(len(texts)))
    # Two words in three of the shorter prompt, whatever their order.
    bags = [frozenset(w for w in text.split() if len(w) > 3) for text in texts]
    for (i, x), (j, y) in itertools.combinations(enumerate(bags), 2):
        if min(len(x), len(y)) >= 5:
            assert len(x & y) / min(len(x), len(y)) < 2 / 3, (texts[i], texts[j])


def test_the_default_split_leaves_enough_to_test_on() -> None:
    split = SplitConfig()
    parts = split_by_prompt(
        PAIRS, train=split.train, validation=split.validation, test=split.test, seed=split.seed
    )
    assert len(parts.test) >= 110
    prompts = [
        {prompt_text(p.prompt) for p in part}
        for part in (parts.train, parts.validation, parts.test)
    ]
    for one, other in itertools.combinations(prompts, 2):
        assert not one & other
    for part in (parts.train, parts.test):
        assert {p.category for p in part} == set(CATEGORIES)
