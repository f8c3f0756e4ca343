from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from rmexp.adapter.text import fair_shares, trio_tokens
from rmexp.backbone.load import load_tokenizer
from rmexp.backbone.sources import resolve_model
from rmexp.errors import UserError
from rmexp.preferences import Pair, prompt_from_text

PAIR = Pair("p", prompt_from_text("How do I boil an egg?"), "In water.", "I cannot help.")


def _tokenizer(name: str, cache: Path) -> object:
    return load_tokenizer(resolve_model(name, cache), 300)


def test_a_causal_sequence_has_one_begin_and_one_end(cache: Path) -> None:
    tokenizer = _tokenizer("tiny", cache)
    (tokens,) = trio_tokens([PAIR], tokenizer, causal=True, max_length=500)
    ids = tokens.ids.tolist()
    assert ids.count(tokenizer.bos_token_id) == ids.count(tokenizer.eos_token_id) == 1
    assert (ids[0], ids[-1]) == (tokenizer.bos_token_id, tokenizer.eos_token_id)
    assert tokenizer.decode(ids[1:-1]) == (
        "Prompt:\nHow do I boil an egg?\n\nResponse A:\nIn water.\n\nResponse B:\nI cannot help."
    )


def test_an_encoder_has_the_responses_as_second_segment(cache: Path) -> None:
    tokenizer = _tokenizer("tiny_encoder", cache)
    (tokens,) = trio_tokens([PAIR], tokenizer, causal=False, max_length=500)
    ids = tokens.ids.tolist()
    assert (ids[0], ids[-1]) == (tokenizer.cls_token_id, tokenizer.sep_token_id)
    assert tokens.has_types
    second = tokenizer.decode(ids[tokens.second_segment : -1])
    assert second == "\n\nResponse A:\nIn water.\n\nResponse B:\nI cannot help."


def test_swapped_sides_are_one_sequence(cache: Path) -> None:
    swapped = replace(PAIR, response_a=PAIR.response_b, response_b=PAIR.response_a)
    tokenizer = _tokenizer("tiny", cache)
    one, other = trio_tokens([PAIR, swapped], tokenizer, causal=True, max_length=500)
    np.testing.assert_array_equal(one.ids, other.ids)


def test_a_long_trio_keeps_a_share_of_every_part(cache: Path) -> None:
    long = Pair("p", prompt_from_text("x" * 500 + "END"), "B" + "b" * 300, "A" + "a" * 400)
    tokenizer = _tokenizer("tiny", cache)
    (tokens,) = trio_tokens([long], tokenizer, causal=True, max_length=200)
    assert len(tokens.ids) == 200
    text = tokenizer.decode(tokens.ids.tolist()[1:-1])
    prompt, first, second = (text.split(":\n")[i] for i in (1, 2, 3))
    assert prompt.startswith("x")
    assert "END\n\nResponse A" in prompt
    assert first.startswith("Bbbb")
    assert second.startswith("Aaaa")
    kept = [prompt.count("x") + 3, first.count("b") + 1, len(second)]
    assert max(kept) - min(kept) <= 1
    assert (tokens.cut_prompt, tokens.cut_response) == (503 - kept[0], 702 - kept[1] - kept[2])


def test_no_share_is_left_unused() -> None:
    generator = np.random.default_rng(0)
    for _ in range(200):
        lengths = generator.integers(0, 50, 3).tolist()
        room = int(generator.integers(0, 120))
        shares = fair_shares(lengths, room)
        assert all(s <= n for s, n in zip(shares, lengths, strict=True))
        assert sum(shares) == min(room, sum(lengths))


def test_no_room_is_an_error(cache: Path) -> None:
    with pytest.raises(UserError, match="max_length: 20 tokens are too few"):
        trio_tokens([PAIR], _tokenizer("tiny", cache), causal=True, max_length=20)
