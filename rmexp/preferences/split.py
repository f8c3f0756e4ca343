"""Splitting by prompt: no prompt, nor a near copy of one, stands on two sides."""

from __future__ import annotations

import hashlib
import re
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

from rmexp.errors import UserError
from rmexp.preferences.near import near_copies
from rmexp.preferences.pair import Pair, prompt_text


@dataclass(frozen=True)
class Splits:
    """Three parts that share no prompt.

    Attributes:
        train: pairs to label and train on; human preferences are not looked at.
        validation: pairs whose human preference steers the search.
        test: pairs that the search never sees.
        grouped: pairs kept on one side because their prompt equals another's but for case,
            punctuation and spaces.
        near: prompts kept on another's side because they are near copies of it (see
            :func:`rmexp.preferences.near.near_copies`); system messages are not compared.
    """

    train: tuple[Pair, ...]
    validation: tuple[Pair, ...]
    test: tuple[Pair, ...]
    grouped: int
    near: int = 0


def prompt_key(pair: Pair) -> str:
    """The prompt without case, punctuation and spacing: equal for exact and near copies."""
    return _words(prompt_text(pair.prompt))


def _compared(pair: Pair) -> str:
    # A system message shared by all prompts would make all of them near copies.
    return _words(" ".join(m.content for m in pair.prompt if m.role != "system"))


def _words(text: str) -> str:
    return " ".join(re.findall(r"\w+", text.lower()))


def split_by_prompt(
    pairs: Sequence[Pair], *, train: float, validation: float, test: float, seed: int
) -> Splits:
    """Split pairs into three parts by a hash of their prompt.

    The parts are filled category by category, in the order of a hash of (seed, prompt): the same
    prompt falls on the same side whatever else is read beside it, up to the rounding of shares.

    Args:
        pairs: all pairs.
        train: share of the pairs, in [0, 1].
        validation: share of the pairs.
        test: share of the pairs; the three sum to 1.
        seed: another seed, another split.

    Raises:
        UserError: for shares that do not sum to 1, or a part that stays empty though wanted.
    """
    shares = {"train": train, "validation": validation, "test": test}
    if any(not 0 <= s <= 1 for s in shares.values()) or abs(sum(shares.values()) - 1) > 1e-6:
        raise UserError(
            f"data.split: train, validation and test must sum to 1, got {train} + {validation} "
            f"+ {test}"
        )
    groups: dict[str, list[Pair]] = defaultdict(list)
    for pair in pairs:
        groups[prompt_key(pair)].append(pair)
    exact = len(groups)
    groups = _joined(groups)
    by_category: dict[str, list[list[Pair]]] = defaultdict(list)
    for key in sorted(groups, key=lambda k: hashlib.sha256(f"{seed}\0{k}".encode()).digest()):
        by_category[groups[key][0].category].append(groups[key])
    parts: dict[str, list[Pair]] = {name: [] for name in shares}
    placed = 0
    for category in sorted(by_category):
        for group in by_category[category]:
            placed += len(group)
            # The part that lags furthest behind its share of what is placed so far.
            name = max(shares, key=lambda n: shares[n] * placed - len(parts[n]))
            parts[name].extend(group)
    for name, share in shares.items():
        if share > 0 and not parts[name]:
            raise UserError(
                f"data.split.{name}: no pair falls into it; {len(groups)} distinct prompts are "
                "too few for this split"
            )
    order = {id(pair): n for n, pair in enumerate(pairs)}
    train_, validation_, test_ = (
        tuple(sorted(part, key=lambda p: order[id(p)])) for part in parts.values()
    )
    return Splits(train_, validation_, test_, grouped=len(pairs) - exact, near=exact - len(groups))


def _joined(groups: dict[str, list[Pair]]) -> dict[str, list[Pair]]:
    """Groups of equal prompts, those of near copies made one under their first key."""
    keys = sorted(groups)
    joined: dict[str, list[Pair]] = defaultdict(list)
    for key, first in zip(keys, near_copies([_compared(groups[k][0]) for k in keys]), strict=True):
        joined[keys[first]].extend(groups[key])
    return joined
