"""The question put to a language model: its wording, its tokens, and the tokens of its answers.

    instructions, prompt | response | rule, end of turn

The three parts are tokenised apart, so that one rule's tokens never depend on another part: the
first two can be computed once and every rule branch from them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rmexp.backbone.text import fixed_date
from rmexp.errors import UserError
from rmexp.fingerprint import Fingerprint, fingerprint
from rmexp.preferences import Prompt, prompt_text
from rmexp.rules import Rule

ANSWERS = ("Yes", "No", "Irrelevant")
INSTRUCTIONS = (
    "You will read a conversation, an assistant's response to its last message, and a rule. "
    "Does the response follow the rule? Answer with one word: Yes, No, or Irrelevant if the rule "
    "has nothing to do with the conversation.\n\n"
)
LIST_INSTRUCTIONS = (
    "You will read a conversation, an assistant's response to its last message, and numbered "
    "rules. For each rule, say whether the response follows it. Write one line for each rule: its "
    "number, a colon, and Yes, No, or Irrelevant if the rule has nothing to do with the "
    "conversation. Write nothing else.\n\n"
)
_CONVERSATION = "Conversation:\n"
_RESPONSE = "\n\nResponse:\n"
_RULE = "\n\nRule: "
# Small models forget the instructions on the way; where only the answer's word can be read, not
# the odds of all three, that would lose the rating.
_CUE = "\n\nAnswer (one word, Yes, No or Irrelevant):"
_LEAST_PROMPT = 4  # the prompt keeps a fourth of the room
_MARK = "@@rmexp-question@@"


@dataclass(frozen=True)
class Question:
    """The token ids of one response's question, but for the rule.

    Attributes:
        prompt: instructions and prompt, what two responses share.
        response: the response.
        cut: tokens that were cut from the prompt's left or the response's right.
    """

    prompt: tuple[int, ...]
    response: tuple[int, ...]
    cut: int


def question_text(prompt: Prompt, response: str, rule: Rule) -> str:
    """The whole question as one user message, for endpoints that take messages."""
    return (
        f"{INSTRUCTIONS}{_CONVERSATION}{prompt_text(prompt)}{_RESPONSE}{response}"
        f"{_RULE}{rule.sentence}{_CUE}"
    )


def list_text(prompt: Prompt, response: str, rules: Sequence[Rule]) -> str:
    """A question about several rules at once, to be answered with one numbered line for each."""
    listed = "\n".join(f"{n}. {rule.sentence}" for n, rule in enumerate(rules, 1))
    return (
        f"{LIST_INSTRUCTIONS}{_CONVERSATION}{prompt_text(prompt)}{_RESPONSE}{response}"
        f"\n\nRules:\n{listed}\n\nAnswers:"
    )


class YesNoTemplate:
    """Token ids of questions and answers under a model's chat template.

    Args:
        tokenizer: with a chat template.
        max_length: tokens of prompt and response with all that stands around them, rule excluded.

    Raises:
        UserError: no chat template, or the template does not keep the three answers apart.
    """

    def __init__(self, tokenizer: Any, max_length: int):
        if not tokenizer.chat_template:
            raise UserError(
                "rater.model: its tokenizer has no chat template; use an instruction-tuned model"
            )
        self._tokenizer = tokenizer
        self._max_length = max_length
        rendered = tokenizer.apply_chat_template(
            [{"role": "user", "content": _MARK}],
            tokenize=False,
            add_generation_prompt=True,
            enable_thinking=False,
            **fixed_date(tokenizer),
        )
        before, _, self._after = rendered.partition(_MARK)
        self._before = self._ids(before + INSTRUCTIONS + _CONVERSATION)
        self._between = self._ids(_RESPONSE)
        self.answer_ids = self._answers()

    @property
    def fingerprint(self) -> Fingerprint:
        """By every token that a question is made with, and the length."""
        return fingerprint(
            "yes_no",
            before=self._before,
            between=self._between,
            rule=_RULE,
            after=self._after,
            answers=self.answer_ids.tolist(),
            max_length=self._max_length,
            least_prompt=_LEAST_PROMPT,
        )

    def question(self, prompt: Prompt, response: str) -> Question:
        """Tokens of a prompt and a response, cut where they are too long together.

        The prompt loses its beginning down to a quarter of the room, then the response its end:
        whether a response follows a rule cannot be told without any of what it answers.
        """
        of_prompt, of_response = self._ids(prompt_text(prompt)), self._ids(response)
        room = max(self._max_length - len(self._before) - len(self._between), 0)
        length = min(len(of_prompt), max(room - len(of_response), room // _LEAST_PROMPT))
        kept_prompt = of_prompt[len(of_prompt) - length :]
        kept_response = of_response[: room - length]
        cut = len(of_prompt) + len(of_response) - len(kept_prompt) - len(kept_response)
        return Question(
            tuple(self._before + kept_prompt), tuple(self._between + kept_response), cut
        )

    def branch(self, rule: Rule) -> tuple[int, ...]:
        """Tokens of a rule with the end of the turn: after the last one stands the answer."""
        return tuple(self._ids(_RULE + rule.sentence + self._after))

    def _answers(self) -> NDArray[np.int64]:
        """The first token of each answer as it is tokenised at its place."""
        ids = []
        context = self._ids(self._after)
        for answer in ANSWERS:
            whole = self._ids(self._after + answer)
            if whole[: len(context)] != context or len(whole) == len(context):
                raise UserError(
                    f"rater.model: its tokenizer merges the answer '{answer}' with the end of the "
                    "chat template; this model cannot be read token by token"
                )
            ids.append(whole[len(context)])
        if len(set(ids)) != len(ids):
            raise UserError(
                "rater.model: the answers Yes, No and Irrelevant do not begin with different tokens"
            )
        return np.array(ids, np.int64)

    def _ids(self, text: str) -> list[int]:
        ids: list[int] = self._tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]
        return ids


def psi_and_relevance(
    log_weights: NDArray[np.floating],
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Ratings from the three answers (method, section 1 and 3).

    With P renormalised over Yes, No and Irrelevant: ``psi = (P(Yes) - P(No)) / (P(Yes) + P(No))``
    and ``relevance = 1 - P(Irrelevant)``.

    Args:
        log_weights: ``[..., 3]``, logits or log probabilities of Yes, No, Irrelevant.

    >>> psi, relevance = psi_and_relevance(np.log([[0.6, 0.2, 0.2]]))
    >>> psi.round(4).tolist(), relevance.round(4).tolist()
    ([0.5], [0.800000011920929])
    """
    weights = np.asarray(log_weights, np.float64)
    weights = np.exp(weights - weights.max(axis=-1, keepdims=True))
    yes, no, irrelevant = np.moveaxis(weights, -1, 0)
    decided = yes + no
    with np.errstate(invalid="ignore"):
        psi = np.where(decided > 0, (yes - no) / decided, 0)
    return psi.astype(np.float32), (decided / (decided + irrelevant)).astype(np.float32)
