"""Splitting: no prompt, nor a near copy of one, on two sides."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from rmexp.errors import UserError
from rmexp.preferences import (
    Message,
    Pair,
    Splits,
    prompt_from_text,
    read_files,
    read_starter,
    split_by_prompt,
)
from rmexp.preferences.near import near_copies
from rmexp.preferences.split import prompt_key

SHARES = {"train": 0.5, "validation": 0.15, "test": 0.35}


def pair(name: str, prompt: str, category: str = "") -> Pair:
    return Pair(name, prompt_from_text(prompt), "yes", "no", "a", category)


def split(pairs: list[Pair] | tuple[Pair, ...], seed: int = 0, **shares: float) -> Splits:
    return split_by_prompt(pairs, **(shares or SHARES), seed=seed)


def distinct(count: int) -> list[Pair]:
    rng = random.Random(0)
    return [pair(f"{n}", " ".join(str(rng.random()) for _ in range(6))) for n in range(count)]


def sides(splits: Splits) -> dict[str, str]:
    return {p.id: part for part in SHARES for p in getattr(splits, part)}


def test_every_pair_falls_into_one_part_in_reading_order() -> None:
    pairs = distinct(200)
    splits = split(pairs)
    assert [len(getattr(splits, part)) for part in SHARES] == [100, 30, 70]
    assert len(sides(splits)) == 200
    order = [int(p.id) for p in splits.train]
    assert order == sorted(order)


def test_the_side_hangs_on_seed_and_prompt_not_on_order_or_responses() -> None:
    pairs = distinct(200)
    shuffled = random.Random(1).sample(pairs, len(pairs))
    assert sides(split(pairs)) == sides(split(shuffled))
    assert sides(split(pairs)) != sides(split(pairs, seed=1))


def test_equal_prompts_and_those_that_differ_in_case_or_punctuation_stay_together() -> None:
    pairs = distinct(60)
    pairs += [
        Pair(f"{p.id}'", prompt_from_text(f"  {p.prompt[0].content.upper()}?!"), "c", "d")
        for p in pairs
    ]
    splits = split(pairs)
    where = sides(splits)
    assert all(where[f"{n}"] == where[f"{n}'"] for n in range(60))
    assert (splits.grouped, splits.near) == (60, 0)


def test_near_copies_stay_together_and_are_counted() -> None:
    pairs = distinct(60)
    pairs += [pair(f"{p.id}'", p.prompt[0].content + " please") for p in pairs]
    splits = split(pairs)
    where = sides(splits)
    assert all(where[f"{n}"] == where[f"{n}'"] for n in range(60))
    assert (splits.grouped, splits.near) == (0, 60)


def test_a_system_message_does_not_make_prompts_alike() -> None:
    system = Message("system", "You are a kind and careful helper. " * 20)
    pairs = [Pair(p.id, (system, *p.prompt), "yes", "no") for p in distinct(40)]
    assert split(pairs).near == 0


def test_every_category_is_in_every_part() -> None:
    pairs = [pair(p.id, p.prompt[0].content, category=str(int(p.id) % 5)) for p in distinct(200)]
    for part in SHARES:
        assert len({p.category for p in getattr(split(pairs), part)}) == 5


@pytest.mark.parametrize(
    "shares",
    [
        {"train": 0.5, "validation": 0.5, "test": 0.5},
        {"train": 1.5, "validation": -0.5, "test": 0.0},
    ],
)
def test_shares_that_do_not_sum_to_one(shares: dict[str, float]) -> None:
    with pytest.raises(UserError, match=r"data\.split: .* sum to 1"):
        split(distinct(10), **shares)


def test_a_part_that_stays_empty_though_wanted() -> None:
    same = [pair(str(n), "one and the same prompt") for n in range(50)]
    with pytest.raises(UserError, match=r"data\.split\.\w+: no pair falls into it; 1 distinct"):
        split(same)
    assert len(split(same, train=1.0, validation=0.0, test=0.0).train) == 50


@pytest.mark.parametrize(
    "name", ["starter", "pku-saferlhf/pairs-5k.json.gz", "hh-rlhf/harmless-base-test.jsonl.gz"]
)
def test_no_prompt_of_real_data_leaks(name: str, request: pytest.FixtureRequest) -> None:
    if name == "starter":
        pairs = read_starter().pairs
    else:
        folder: Path = request.getfixturevalue("shared_data")
        pairs = read_files(folder / name, on_invalid="drop").pairs
    splits = split(pairs)
    texts = {p.id: prompt_key(p) for p in pairs}
    keys = sorted(set(texts.values()))
    group = dict(zip(keys, near_copies(keys), strict=True))
    found = [{group[texts[p.id]] for p in getattr(splits, part)} for part in SHARES]
    assert not found[0] & found[2]
    assert not found[0] & found[1]
    assert not found[1] & found[2]
    assert len(splits.test) == pytest.approx(0.35 * len(pairs), abs=15)
