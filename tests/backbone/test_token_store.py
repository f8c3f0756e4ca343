from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from transformers import AutoTokenizer

from rmexp.backbone.text import TextTemplate
from rmexp.backbone.tokens import TokenStore, same_tokens
from rmexp.errors import UserError
from rmexp.preferences.pair import prompt_from_text


@pytest.fixture
def template(tiny: Path) -> TextTemplate:
    return TextTemplate(
        AutoTokenizer.from_pretrained(tiny), name="plain", max_length=64, causal=True
    )


PROMPTS = [prompt_from_text("one"), prompt_from_text("two " * 30)]


def test_a_text_is_tokenised_once_even_for_other_sides_and_sets(
    template: TextTemplate, tmp_path: Path
):
    first = TokenStore(template, tmp_path)
    made = first.tokens([*PROMPTS, PROMPTS[0]], ["a", "b", "c"])
    assert (first.tokenised, first.reused) == (3, 0)

    second = TokenStore(template, tmp_path)
    found = second.tokens([PROMPTS[0], PROMPTS[1]], ["c", "b"])
    assert (second.tokenised, second.reused) == (0, 2)
    assert same_tokens(found[0], made[2])
    assert found[1].cut_prompt == made[1].cut_prompt > 0


def test_only_new_texts_are_tokenised(template: TextTemplate, tmp_path: Path):
    TokenStore(template, tmp_path).tokens(PROMPTS, ["a", "b"])
    store = TokenStore(template, tmp_path)
    store.tokens([*PROMPTS, PROMPTS[0]], ["a", "b", "new"])
    assert (store.tokenised, store.reused) == (1, 2)
    assert TokenStore(template, tmp_path).tokens([PROMPTS[0]], ["new"])[0].ids.dtype == np.int32


def test_tokens_are_memory_mapped(template: TextTemplate, tmp_path: Path):
    TokenStore(template, tmp_path).tokens(PROMPTS, ["a", "b"])
    item = TokenStore(template, tmp_path).tokens(PROMPTS, ["a", "b"])[0]
    assert not item.ids.flags.owndata
    assert not item.ids.flags.writeable


def test_another_length_is_another_store(template: TextTemplate, tmp_path: Path):
    TokenStore(template, tmp_path).tokens(PROMPTS, ["a", "b"])
    longer = TextTemplate(template.tokenizer, name="plain", max_length=128, causal=True)
    store = TokenStore(longer, tmp_path)
    assert len(store.tokens(PROMPTS, ["a", "b"])[1].ids) > 64
    assert store.tokenised == 2


@pytest.mark.parametrize("name", ["plain", "chat"])
def test_another_end_token_is_another_store(name: str, tiny: Path, tmp_path: Path):
    """Of two models with one tokenizer.json."""
    ends = {}
    for eos in ("</s>", "<|assistant|>"):
        tokenizer = AutoTokenizer.from_pretrained(tiny)
        tokenizer.eos_token = eos
        form = TextTemplate(tokenizer, name=name, max_length=64, causal=True)
        found = TokenStore(form, tmp_path).tokens(PROMPTS, ["a", "b"])
        ends[tokenizer.eos_token_id] = [int(t.ids[-1]) for t in found]
    assert ends == {2: [2, 2], 5: [5, 5]}


def test_a_half_written_shard_is_not_read(template: TextTemplate, tmp_path: Path):
    store = TokenStore(template, tmp_path)
    store.tokens(PROMPTS, ["a", "b"])
    folder = tmp_path / "tokens" / template.fingerprint.short
    (folder / ".shard-broken").mkdir()
    assert [p.name for p in folder.iterdir() if not p.name.startswith(".")]
    assert TokenStore(template, tmp_path).tokens(PROMPTS, ["a", "b"])


def test_an_unwritable_cache_is_a_user_error(template: TextTemplate, tmp_path: Path):
    (tmp_path / "tokens").write_text("a file")
    with pytest.raises(UserError, match="cannot write"):
        TokenStore(template, tmp_path).tokens(PROMPTS, ["a", "b"])
