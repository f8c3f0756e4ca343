"""From a prompt and a response to token ids: rendering, truncation, padding token.

Truncation cuts the prompt from its left, so that its end and the response stay; only a response
that alone is too long is cut, at its right. What the template puts around them (BOS, EOS, the
closing of a turn) is never cut.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from rmexp.errors import UserError
from rmexp.fingerprint import Fingerprint, fingerprint
from rmexp.preferences.pair import Prompt, prompt_text

TemplateName = Literal["auto", "chat", "plain", "pair"]
_MARK = "@@rmexp-response@@"
_DATE = datetime(2024, 7, 26)
_ASKS_DATE = re.compile(r"""strftime_now\(\s*(["'])(.*?)\1\s*\)""")


@dataclass(frozen=True, slots=True)
class Tokens:
    """One sequence.

    Attributes:
        ids: int32 ``[tokens]``.
        second_segment: where token type 1 begins; the length where all are of type 0.
        has_types: whether the model reads token types.
        cut_prompt: prompt tokens that truncation removed.
        cut_response: response tokens that truncation removed.
    """

    ids: NDArray[np.int32]
    second_segment: int
    has_types: bool
    cut_prompt: int
    cut_response: int


def common_prefix(sequences: Sequence[Sequence[int] | NDArray[np.int32]]) -> int:
    """How many first tokens all sequences share, leaving each at least one of its own.

    >>> common_prefix([[1, 2, 3, 4], [1, 2, 5]])
    2
    >>> common_prefix([[1, 2], [1, 2, 3]])
    1
    """
    shortest = min(len(s) for s in sequences)
    first = np.asarray(sequences[0])
    shared = shortest
    for other in sequences[1:]:
        differ = np.flatnonzero(first[:shared] != np.asarray(other)[:shared])
        shared = int(differ[0]) if len(differ) else shared
    return max(min(shared, shortest - 1), 0)


def fixed_date(tokenizer: Any) -> dict[str, str]:
    """What ``apply_chat_template`` is given so that no text changes overnight.

    Templates print today's date where they are given none (Llama 3.2) or by asking for it
    (SmolLM3), which transformers lets no argument answer.
    """
    template = _ASKS_DATE.sub(
        lambda asked: repr(_DATE.strftime(asked[2])), tokenizer.get_chat_template()
    )
    return {"date_string": f"{_DATE:%d %b %Y}", "chat_template": template}


class TextTemplate:
    """How one (prompt, response) becomes tokens, fixed by tokenizer, form and length.

    Forms:
        chat: the tokenizer's chat template, tokenised without further special tokens (so one
            BOS, the template's), ending as the template ends a turn.
        plain: ``Human: {x}\\n\\nAssistant: {y}`` (shared form of the method's authors), with the
            tokenizer's own special tokens and, for causal models, one EOS.
        pair: the tokenizer's encoding of two segments, for encoders.
        auto: pair for encoders; for causal models chat where there is a template, else plain.

    Raises:
        UserError: the form does not suit the tokenizer.
    """

    def __init__(self, tokenizer: Any, *, name: TemplateName, max_length: int, causal: bool):
        if name == "auto":
            name = ("chat" if tokenizer.chat_template else "plain") if causal else "pair"
        if name == "chat" and not tokenizer.chat_template:
            raise UserError("template=chat: this model's tokenizer has no chat template, use plain")
        if name == "pair" and causal:
            raise UserError("template=pair is for encoders: use chat or plain with causal models")
        if name not in ("chat", "plain", "pair"):
            raise UserError(f"template={name}: use one of auto, chat, plain, pair")
        if max_length < 8:
            raise UserError(f"max_length={max_length}: use at least 8 tokens")
        if not tokenizer.is_fast:
            raise UserError("this model has only a slow tokenizer: rmexp needs a fast one")
        self.tokenizer = tokenizer
        self.name = name
        self.max_length = max_length
        self.causal = causal
        self.has_types = "token_type_ids" in tokenizer.model_input_names and not causal
        self._date = fixed_date(tokenizer) if name == "chat" else {}
        self._tail = self._chat_tail() if name == "chat" else ""

    @property
    def fingerprint(self) -> Fingerprint:
        """Identity of everything that decides the ids of a text."""
        backend = self.tokenizer.backend_tokenizer
        return fingerprint(
            "template",
            name=self.name,
            max_length=self.max_length,
            causal=self.causal,
            types=self.has_types,
            tokenizer=fingerprint("tokenizer", backend=_stable_backend(backend.to_str())),
            # Two models with one tokenizer.json may end their texts by different tokens.
            special=self.tokenizer.special_tokens_map,
            all_special=sorted(self.tokenizer.all_special_ids),
            chat_template=str(self.tokenizer.chat_template) if self.name == "chat" else "",
            date=str(_DATE),
        )

    def encode(self, prompts: Sequence[Prompt], responses: Sequence[str]) -> list[Tokens]:
        """Tokens of each (prompt, response); a pure function of each text alone."""
        encode = self._encode_pairs if self.name == "pair" else self._encode_texts
        result: list[Tokens] = []
        for at in range(0, len(prompts), _AT_ONCE):
            result += encode(prompts[at : at + _AT_ONCE], responses[at : at + _AT_ONCE])
        return result

    def _encode_texts(self, prompts: Sequence[Prompt], responses: Sequence[str]) -> list[Tokens]:
        rendered = [self._render(p, r) for p, r in zip(prompts, responses, strict=True)]
        encoded = self.tokenizer(
            [text for text, _, _ in rendered],
            add_special_tokens=self.name == "plain",
            return_offsets_mapping=True,
            return_attention_mask=False,
            verbose=False,
        )
        special = set(self.tokenizer.all_special_ids)
        result = []
        for i, (_, start, end) in enumerate(rendered):
            ids = np.asarray(encoded["input_ids"][i], dtype=np.int32)
            offsets = np.asarray(encoded["offset_mapping"][i], dtype=np.int64).reshape(-1, 2)
            # A token across the border (the space before a word) belongs to the response.
            part = np.where(offsets[:, 1] <= start, _PROMPT, _RESPONSE)
            part[(offsets[:, 0] >= end) & (offsets[:, 1] > offsets[:, 0])] = _FIXED
            if self.name == "plain":
                added = offsets[:, 0] == offsets[:, 1]
                part[added & np.isin(ids, list(special))] = _FIXED
                if self._needs_eos(ids):
                    ids = np.append(ids, np.int32(self.tokenizer.eos_token_id))
                    part = np.append(part, _FIXED)
            elif len(ids) and ids[0] == self.tokenizer.bos_token_id:
                part[0] = _FIXED
            result.append(self._fit(ids, part))
        return result

    def _needs_eos(self, ids: NDArray[np.int32]) -> bool:
        eos = self.tokenizer.eos_token_id
        return self.causal and eos is not None and (len(ids) == 0 or int(ids[-1]) != eos)

    def _encode_pairs(self, prompts: Sequence[Prompt], responses: Sequence[str]) -> list[Tokens]:
        encoded = self.tokenizer([prompt_text(p) for p in prompts], list(responses), verbose=False)
        result = []
        for i in range(len(prompts)):
            segments = encoded.sequence_ids(i)
            part = np.array([_FIXED if s is None else (_PROMPT, _RESPONSE)[s] for s in segments])
            result.append(self._fit(np.asarray(encoded["input_ids"][i], dtype=np.int32), part))
        return result

    def _fit(self, ids: NDArray[np.int32], part: NDArray[np.int64]) -> Tokens:
        prompt, response = np.flatnonzero(part == _PROMPT), np.flatnonzero(part == _RESPONSE)
        room = max(0, self.max_length - int(np.sum(part == _FIXED)))
        kept_response = min(len(response), room)
        kept_prompt = min(len(prompt), room - kept_response)
        cut_prompt, cut_response = len(prompt) - kept_prompt, len(response) - kept_response
        if cut_prompt or cut_response:
            keep = np.ones(len(ids), dtype=bool)
            keep[prompt[:cut_prompt]] = False
            keep[response[kept_response:]] = False
            ids, part = ids[keep], part[keep]
        first = np.flatnonzero(part == _RESPONSE)
        second = len(ids)
        if self.has_types and self.name == "pair":
            second = int(first[0]) if len(first) else len(ids) - 1
        return Tokens(ids, second, self.has_types, cut_prompt, cut_response)

    def _render(self, prompt: Prompt, response: str) -> tuple[str, int, int]:
        """Text, and where the response begins and ends in it, in characters."""
        if self.name == "plain":
            head = plain_prompt(prompt)
            return head + response, len(head), len(head) + len(response)
        text = self._apply_chat(prompt, response)
        end = len(text) - len(self._tail) if text.endswith(self._tail) else len(text)
        for shown in (response, response.strip()):  # many templates trim what they are given
            if text[:end].endswith(shown):
                return text, end - len(shown), end
        # The template rewrites the response: it begins where another response would differ.
        other = self._apply_chat(prompt, _MARK)
        start = next((i for i, (a, b) in enumerate(zip(text, other, strict=False)) if a != b), end)
        return text, min(start, end), end

    def _apply_chat(self, prompt: Prompt, response: str) -> str:
        messages = [{"role": m.role, "content": m.content} for m in prompt]
        messages.append({"role": "assistant", "content": response})
        try:
            return self.tokenizer.apply_chat_template(messages, tokenize=False, **self._date)
        except Exception as error:  # jinja's errors: templates refuse roles by raising
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
            raise UserError(
                f"the model's chat template refuses a dialogue with roles "
                f"{[m['role'] for m in messages]}: {reason}; use template=plain"
            ) from None

    def _chat_tail(self) -> str:
        from rmexp.preferences.pair import prompt_from_text

        return self._apply_chat(prompt_from_text("x"), _MARK).rpartition(_MARK)[2]


# Texts in one call of the tokenizer, which keeps offsets of every token as Python objects.
_AT_ONCE = 1024
_PROMPT, _RESPONSE, _FIXED = 0, 1, 2


def _stable_backend(text: str) -> str:
    """The tokenizer's own JSON without truncation and padding, which calls may have left set."""
    import json

    state = json.loads(text)
    state.pop("truncation", None)
    state.pop("padding", None)
    return json.dumps(state, sort_keys=True)


def plain_prompt(prompt: Prompt) -> str:
    r"""The prompt in the authors' plain form, up to where the response begins.

    >>> from rmexp.preferences.pair import Message
    >>> plain_prompt((Message("user", "Hi"),))
    'Human: Hi\n\nAssistant: '
    """
    speaker = {"user": "Human: ", "assistant": "Assistant: ", "system": ""}
    turns = [speaker[m.role] + m.content for m in prompt]
    return "\n\n".join([*turns, speaker["assistant"]])


def choose_pad_token(tokenizer: Any, vocabulary: int) -> int:
    """Set the tokenizer's pad token where it lacks one or shares it with EOS; return its id.

    Plain transformers pools at the last token that is not the pad token. A text that ends in EOS
    is therefore only scored equally there if pad is another token, so one that no text uses is
    taken from the vocabulary: one named pad, else reserved or unused, else unknown.

    Args:
        tokenizer: changed in place.
        vocabulary: rows of the embedding table.
    """
    own = tokenizer.pad_token_id
    ends = {tokenizer.eos_token_id, tokenizer.bos_token_id}
    if own is not None and own not in ends and own < vocabulary:
        return int(own)
    added = {
        token.content: index
        for index, token in sorted(tokenizer.added_tokens_decoder.items())
        if token.special and index not in ends and index < vocabulary
    }
    for word in ("pad", "reserved", "unused"):
        for content, index in added.items():
            if word in content.lower():
                tokenizer.pad_token = content
                return int(index)
    unknown = tokenizer.unk_token_id
    if unknown is not None and unknown not in ends and unknown < vocabulary:
        tokenizer.pad_token = tokenizer.unk_token
        return int(unknown)
    if tokenizer.eos_token_id is None:
        raise UserError("this model's tokenizer has neither a pad nor an end token")
    tokenizer.pad_token = tokenizer.eos_token
    return int(tokenizer.eos_token_id)
