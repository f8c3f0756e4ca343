"""From a trio of prompt and two responses to one sequence of tokens."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rmexp.backbone.text import Tokens
from rmexp.errors import UserError
from rmexp.preferences import Pair, prompt_text

_HEADS = ("Prompt:\n", "\n\nResponse A:\n", "\n\nResponse B:\n")


def trio_tokens(
    pairs: Sequence[Pair], tokenizer: Any, *, causal: bool, max_length: int
) -> list[Tokens]:
    """Tokens of each pair: prompt, response A, response B (method, section 7).

    Which response stands first is decided by the texts (the shorter, then by alphabet): critical
    rules do not change when the sides are swapped, so the adapter must not either.

    Where a trio is too long, its three parts get equal shares, and what a shorter part leaves goes
    to the others. A prompt is cut from its left, a response at its right.

    Args:
        pairs: the pairs; preferences are not looked at.
        tokenizer: of the backbone.
        causal: whether the backbone reads a sequence at its last token; it then ends in EOS. An
            encoder's sequence stands between its own marks, the responses as second segment.
        max_length: most tokens of a sequence.

    Raises:
        UserError: max_length leaves no room for the texts.
    """
    begin, end = _marks(tokenizer, causal)
    heads = [_ids(tokenizer, head) for head in _HEADS]
    fixed = len(begin) + len(end) + sum(len(head) for head in heads)
    if max_length < fixed + 3:
        raise UserError(f"max_length: {max_length} tokens are too few; use {fixed + 3} or more")
    has_types = "token_type_ids" in tokenizer.model_input_names and not causal
    result = []
    for pair in pairs:
        responses = sorted((pair.response_a, pair.response_b), key=lambda t: (len(t), t))
        parts = [_ids(tokenizer, text) for text in (prompt_text(pair.prompt), *responses)]
        prompt, first, second = fair_shares([len(p) for p in parts], max_length - fixed)
        kept = (parts[0][len(parts[0]) - prompt :], parts[1][:first], parts[2][:second])
        ids = [begin, *(x for both in zip(heads, kept, strict=True) for x in both), end]
        result.append(
            Tokens(
                np.concatenate(ids).astype(np.int32),
                len(begin) + len(heads[0]) + prompt,
                has_types,
                len(parts[0]) - prompt,
                len(parts[1]) - first + len(parts[2]) - second,
            )
        )
    return result


def fair_shares(lengths: Sequence[int], room: int) -> list[int]:
    """Shares of a room: equal ones, and what a short part leaves goes to the longer.

    >>> fair_shares([2, 90, 8], 30), fair_shares([50, 50, 50], 32), fair_shares([1, 2, 3], 30)
    ([2, 20, 8], [10, 11, 11], [1, 2, 3])
    """
    shares = [0] * len(lengths)
    order = sorted(range(len(lengths)), key=lambda i: lengths[i])
    for place, i in enumerate(order):
        shares[i] = min(lengths[i], room // (len(lengths) - place))
        room -= shares[i]
    return shares


def _marks(tokenizer: Any, causal: bool) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
    """What stands before and after the texts."""
    begin: list[int] = []
    if not causal:
        begin, end = [tokenizer.cls_token_id], [tokenizer.sep_token_id]
    else:
        own = tokenizer("", verbose=False)["input_ids"]
        begin = [i for i in own[:1] if i == tokenizer.bos_token_id]
        end = [tokenizer.eos_token_id]
    known = [[i for i in ids if i is not None] for ids in (begin, end)]
    return np.array(known[0], np.int32), np.array(known[1], np.int32)


def _ids(tokenizer: Any, text: str) -> NDArray[np.int32]:
    ids = tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]
    return np.asarray(ids, np.int32)
