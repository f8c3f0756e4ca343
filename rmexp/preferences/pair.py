"""A preference pair: one prompt, two responses, perhaps a human preference."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Literal

Side = Literal["a", "b"]
ROLES = ("system", "user", "assistant")


@dataclass(frozen=True, slots=True)
class Message:
    """One turn of a dialogue."""

    role: str
    content: str


Prompt = tuple[Message, ...]


@dataclass(frozen=True, slots=True)
class Pair:
    """A prompt with two responses.

    Attributes:
        id: unique within its data set.
        prompt: the dialogue so far; the last message is the user's.
        response_a: one response.
        response_b: the other.
        preference: the side that a human prefers, or None where nobody said.
        category: free word for grouping, ``""`` where unknown.
        tags: free words.
        kind: what the pair shows (starter data: harmful, looks_dangerous, both_refuse,
            both_answer), ``""`` where unknown.
        refusal: which responses refuse (``a``, ``b``, ``both``, ``none``), ``""`` where unknown.
        group: pairs of one group are not independent, such as one task in several languages; ``""``
            where only those of one prompt are not.
    """

    id: str
    prompt: Prompt
    response_a: str
    response_b: str
    preference: Side | None = None
    category: str = ""
    tags: tuple[str, ...] = ()
    kind: str = ""
    refusal: str = ""
    group: str = ""

    @property
    def chosen(self) -> str:
        """The response that the human prefers; ValueError without a preference."""
        return self._side(True)

    @property
    def rejected(self) -> str:
        """The other response; ValueError without a preference."""
        return self._side(False)

    def _side(self, preferred: bool) -> str:
        if self.preference is None:
            raise ValueError(f"pair {self.id} has no human preference")
        return self.response_a if (self.preference == "a") == preferred else self.response_b


def prompt_from_text(text: str) -> Prompt:
    """A prompt of one user message."""
    return (Message("user", text),)


def prompt_from_messages(messages: Iterable[Mapping[str, str]]) -> Prompt:
    """A prompt from ``[{"role": ..., "content": ...}, ...]``.

    Raises:
        ValueError: for an unknown role, a content that is no text, an empty list, or a last
            message that is not the user's.
    """
    prompt = tuple(Message(str(m["role"]), m["content"]) for m in messages)
    if not prompt:
        raise ValueError("the prompt has no message")
    for message in prompt:
        if not isinstance(message.content, str):
            raise ValueError("the content of a message must be a text")
        if message.role not in ROLES:
            raise ValueError(f"unknown role {message.role!r}: use one of {', '.join(ROLES)}")
    if prompt[-1].role != "user":
        raise ValueError("the prompt must end with a user message")
    return prompt


def prompt_text(prompt: Prompt) -> str:
    """The prompt as text: one user message as it is, a dialogue with its speakers named.

    >>> prompt_text((Message("user", "Hi"),))
    'Hi'
    """
    if len(prompt) == 1 and prompt[0].role == "user":
        return prompt[0].content
    return "\n\n".join(f"{m.role.capitalize()}: {m.content}" for m in prompt)
