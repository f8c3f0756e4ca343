from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from transformers import AutoTokenizer

from rmexp.backbone.text import TextTemplate, choose_pad_token
from rmexp.errors import UserError
from rmexp.preferences.pair import Message, prompt_from_text

DIALOGUE = (Message("user", "Hi"), Message("assistant", "Hello"), Message("user", "Why?"))


def form(path: Path, name: str, max_length: int = 512, causal: bool = True) -> TextTemplate:
    return TextTemplate(
        AutoTokenizer.from_pretrained(path), name=name, max_length=max_length, causal=causal
    )


def text_of(template: TextTemplate, prompt, response: str) -> str:
    return template.tokenizer.decode(template.encode([prompt], [response])[0].ids)


def test_chat_has_one_bos_and_is_what_the_template_renders(tiny: Path):
    chat = form(tiny, "chat")
    ids = chat.encode([DIALOGUE], ["Because."])[0].ids
    assert ids[0] == chat.tokenizer.bos_token_id
    assert int((ids == chat.tokenizer.bos_token_id).sum()) == 1
    assert text_of(chat, DIALOGUE, "Because.") == (
        "<s><|user|>Hi</s><|assistant|>Hello</s><|user|>Why?</s><|assistant|>Because.</s>"
    )


def test_plain_is_the_authors_form_with_one_bos_and_one_eos(tiny: Path):
    plain = form(tiny, "plain")
    assert text_of(plain, DIALOGUE, "Because.") == (
        "<s>Human: Hi\n\nAssistant: Hello\n\nHuman: Why?\n\nAssistant: Because.</s>"
    )


def test_plain_adds_no_second_eos(tiny: Path):
    plain = form(tiny, "plain")
    assert text_of(plain, prompt_from_text("Hi"), "Yes</s>").count("</s>") == 1


@pytest.mark.parametrize("name", ["chat", "plain"])
@pytest.mark.parametrize("response", ["Fine.", "Fine. " * 40])
def test_the_end_survives_truncation(tiny: Path, name: str, response: str):
    template = form(tiny, name, max_length=32)
    item = template.encode([prompt_from_text("word " * 50)], [response])[0]
    assert len(item.ids) == 32
    assert item.ids[0] == template.tokenizer.bos_token_id
    assert item.ids[-1] == template.tokenizer.eos_token_id


def test_the_prompt_is_cut_from_its_left_and_the_response_kept(tiny: Path):
    template = form(tiny, "plain", max_length=48)
    prompt = prompt_from_text("first " + "x" * 100 + " last")
    item = template.encode([prompt], ["short answer"])[0]
    text = template.tokenizer.decode(item.ids)
    assert text.endswith("last\n\nAssistant: short answer</s>")
    assert "first" not in text
    assert item.cut_response == 0
    assert item.cut_prompt > 0


def test_a_response_too_long_is_cut_at_its_right_and_counted(tiny: Path):
    template = form(tiny, "plain", max_length=32)
    item = template.encode([prompt_from_text("Hi")], ["begin" + "y" * 100])[0]
    assert template.tokenizer.decode(item.ids).startswith("<s>begin")
    assert item.cut_response == 105 - 30


def test_a_template_that_trims_still_finds_the_response(tiny: Path):
    template = form(tiny, "chat", max_length=24)
    template.tokenizer.chat_template = (
        "{{ bos_token }}{% for m in messages %}[{{ m['content'] | trim }}]{% endfor %}!"
    )
    trimmed = TextTemplate(template.tokenizer, name="chat", max_length=24, causal=True)
    item = trimmed.encode([prompt_from_text("p" * 60)], ["  padded answer \n"])[0]
    assert trimmed.tokenizer.decode(item.ids).endswith("[padded answer]!")
    assert item.cut_response == 0


def test_a_template_that_rewrites_the_response_is_followed(tiny: Path):
    tokenizer = AutoTokenizer.from_pretrained(tiny)
    tokenizer.chat_template = (
        "{% for m in messages %}<{{ m['content'].split('|') | last }}>{% endfor %}"
    )
    template = TextTemplate(tokenizer, name="chat", max_length=16, causal=True)
    item = template.encode([prompt_from_text("p" * 60)], ["hidden|shown"])[0]
    assert tokenizer.decode(item.ids).endswith("<shown>")


@pytest.mark.parametrize(
    "date",
    [
        "{% if not date_string is defined %}{% set date_string = strftime_now('%d %b %Y') %}"
        "{% endif %}{{ date_string }}",
        "{% set today = strftime_now('%d %b %Y') %}{{ today }}",
    ],
    ids=["llama 3.2", "smollm3"],
)
def test_the_date_does_not_move_texts(date: str, tiny: Path):
    tokenizer = AutoTokenizer.from_pretrained(tiny)
    tokenizer.chat_template = date + "{% for m in messages %}{{ m['content'] }}{% endfor %}"
    template = TextTemplate(tokenizer, name="chat", max_length=64, causal=True)
    assert text_of(template, prompt_from_text("p"), "r").startswith("26 Jul 2024")


def test_a_template_that_refuses_a_role_is_a_user_error(tiny: Path):
    tokenizer = AutoTokenizer.from_pretrained(tiny)
    tokenizer.chat_template = (
        "{% for m in messages %}{% if m['role'] == 'system' %}"
        "{{ raise_exception('no system role') }}{% endif %}{{ m['content'] }}{% endfor %}"
    )
    template = TextTemplate(tokenizer, name="chat", max_length=64, causal=True)
    with pytest.raises(UserError, match=r"no system role.*template=plain"):
        template.encode([(Message("system", "s"), Message("user", "u"))], ["r"])


def test_pair_types_the_second_segment_as_plain_tokenizer_does(tiny_encoder: Path):
    template = form(tiny_encoder, "auto", causal=False)
    item = template.encode([prompt_from_text("Hi")], ["Yes"])[0]
    plain = template.tokenizer("Hi", "Yes")
    assert item.ids.tolist() == plain["input_ids"]
    types = (np.arange(len(item.ids)) >= item.second_segment).astype(int)
    assert types.tolist() == plain["token_type_ids"]


def test_encoder_truncation_keeps_separators(tiny_encoder: Path):
    template = form(tiny_encoder, "pair", max_length=16, causal=False)
    item = template.encode([prompt_from_text("abcdefghijklm")], ["nopqrs"])[0]
    assert template.tokenizer.decode(item.ids) == "[CLS]ghijklm[SEP]nopqrs[SEP]"


def test_auto_chooses_by_what_the_tokenizer_has(tiny: Path, tiny_encoder: Path):
    assert form(tiny, "auto").name == "chat"
    assert form(tiny_encoder, "auto", causal=False).name == "pair"
    tokenizer = AutoTokenizer.from_pretrained(tiny)
    tokenizer.chat_template = None
    assert TextTemplate(tokenizer, name="auto", max_length=64, causal=True).name == "plain"


def test_forms_that_do_not_fit_are_refused(tiny: Path, tiny_encoder: Path):
    with pytest.raises(UserError, match="no chat template"):
        form(tiny_encoder, "chat", causal=False)
    with pytest.raises(UserError, match="for encoders"):
        form(tiny, "pair")
    with pytest.raises(UserError, match="max_length"):
        form(tiny, "chat", max_length=4)


def test_a_text_is_encoded_alone_as_in_company(tiny: Path):
    template = form(tiny, "chat")
    prompts = [prompt_from_text("a"), DIALOGUE, prompt_from_text("word " * 20)]
    together = template.encode(prompts, ["x", "y", "z"])
    for i, prompt in enumerate(prompts):
        alone = template.encode([prompt], ["xyz"[i]])[0]
        assert alone.ids.tolist() == together[i].ids.tolist()


def test_the_fingerprint_moves_with_what_decides_the_ids(tiny: Path):
    base = form(tiny, "chat").fingerprint
    assert form(tiny, "chat").fingerprint == base
    assert form(tiny, "plain").fingerprint != base
    assert form(tiny, "chat", max_length=100).fingerprint != base
    other = AutoTokenizer.from_pretrained(tiny)
    other.chat_template += "!"
    assert TextTemplate(other, name="chat", max_length=512, causal=True).fingerprint != base


@pytest.mark.parametrize(("pad", "expected"), [(None, 0), ("</s>", 0), ("<|user|>", 4)])
def test_the_pad_token_ends_no_text(tiny: Path, pad: str | None, expected: int):
    tokenizer = AutoTokenizer.from_pretrained(tiny)
    tokenizer.pad_token = pad
    assert choose_pad_token(tokenizer, 262) == expected
    assert tokenizer.pad_token_id == expected
