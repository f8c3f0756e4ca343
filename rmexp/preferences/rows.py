"""From the rows that data sets hold to pairs: the shapes we know, and their errors by line."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from rmexp.errors import UserError
from rmexp.preferences.pair import (
    Message,
    Pair,
    Prompt,
    Side,
    prompt_from_messages,
    prompt_from_text,
)

_HUMAN, _ASSISTANT = "\n\nHuman:", "\n\nAssistant:"
SHAPES = (
    "prompt, response_a, response_b[, preference]",
    "prompt, chosen, rejected",
    "chosen, rejected (HH dialogues, or message lists with a common prompt)",
    "prompt, response: [safer, more harmful] (PKU tuples)",
)


@dataclass(frozen=True)
class ColumnMap:
    """Which column of the source holds which field of a pair.

    ``columns`` maps our names (prompt, response_a, response_b, preference, chosen, rejected,
    category, tags, id) to the source's names; a name left out stands for itself.
    """

    columns: Mapping[str, str] = field(default_factory=dict)

    def get(self, row: Mapping[str, Any], name: str) -> Any:
        """The row's value for one of our names, None where absent."""
        return row.get(self.columns.get(name, name))


def shuffled_side(seed: int, key: str) -> Side:
    """The side on which the preferred response goes: a fair coin keyed by seed and content."""
    digest = hashlib.sha256(f"{seed}\0{key}".encode()).digest()
    return "a" if digest[0] & 1 else "b"


def pair_from_row(
    row: Mapping[str, Any], where: str, *, columns: ColumnMap | None = None, seed: int = 0
) -> Pair:
    """Read a pair from a row of any known shape.

    Sources that put the preferred response first (chosen/rejected, PKU tuples) get their sides
    drawn by a coin of ``seed`` and content, so that no reader can learn from the order.

    Args:
        row: a JSON object or table row.
        where: file and line, for errors.
        columns: names of the source's columns where they differ from ours.
        seed: of the coin.

    Raises:
        UserError: naming ``where`` and the field.
    """
    columns = columns or ColumnMap()
    if not isinstance(row, Mapping):
        raise UserError(f"{where}: expected a JSON object, got {type(row).__name__}")
    chosen, rejected = columns.get(row, "chosen"), columns.get(row, "rejected")
    response = row.get("response")
    if columns.get(row, "response_a") is not None or columns.get(row, "response_b") is not None:
        prompt = _prompt(_required(columns.get(row, "prompt"), "prompt", where), where)
        a = _response(columns.get(row, "response_a"), "response_a", where)
        b = _response(columns.get(row, "response_b"), "response_b", where)
        preference = _preference(columns.get(row, "preference"), where)
    elif chosen is not None or rejected is not None:
        prompt, good, bad = _chosen_rejected(columns.get(row, "prompt"), chosen, rejected, where)
        preference = shuffled_side(seed, f"{prompt}\0{good}\0{bad}")
        a, b = (good, bad) if preference == "a" else (bad, good)
    elif isinstance(response, Sequence) and not isinstance(response, str):
        if len(response) != 2:
            raise UserError(f"{where}: 'response' must hold two texts, got {len(response)}")
        prompt = _prompt(_required(columns.get(row, "prompt"), "prompt", where), where)
        good, bad = (_response(text, "response", where) for text in response)
        preference = shuffled_side(seed, f"{prompt}\0{good}\0{bad}")
        a, b = (good, bad) if preference == "a" else (bad, good)
    else:
        missing = "response_a" if columns.get(row, "prompt") is not None else "prompt"
        raise UserError(f"{where}: missing field '{missing}'; known shapes: {'; '.join(SHAPES)}")
    if a.strip() == b.strip():
        raise UserError(f"{where}: the two responses are identical")
    tags = columns.get(row, "tags")
    return Pair(
        id=str(columns.get(row, "id") or where),
        prompt=prompt,
        response_a=a,
        response_b=b,
        preference=preference,
        category=str(columns.get(row, "category") or ""),
        tags=tuple(str(t) for t in tags) if isinstance(tags, Sequence) else (),
        kind=str(row.get("kind") or ""),
        refusal=str(row.get("refusal") or ""),
    )


def _required(value: Any, name: str, where: str) -> Any:
    if value is None:
        raise UserError(f"{where}: missing field '{name}'")
    return value


def _preference(value: Any, where: str) -> Side | None:
    known: dict[Any, Side | None] = {None: None, "": None, "a": "a", "b": "b", "A": "a", "B": "b"}
    if isinstance(value, (str, type(None))) and value in known:
        return known[value]
    raise UserError(f'{where}: \'preference\' must be "a", "b" or absent, got {value!r}')


def _prompt(value: Any, where: str) -> Prompt:
    if isinstance(value, str):
        if not value.strip():
            raise UserError(f"{where}: the prompt is empty")
        if value.startswith((_HUMAN, _HUMAN.lstrip())):
            return _dialogue(value, where)
        return prompt_from_text(value)
    try:
        prompt = prompt_from_messages(value)
    except (KeyError, TypeError) as error:
        raise UserError(
            f"{where}: 'prompt' must be a text or a list of {{role, content}}"
        ) from error
    except ValueError as error:
        raise UserError(f"{where}: {error}") from error
    if not prompt[-1].content.strip():
        raise UserError(f"{where}: the prompt is empty")
    return prompt


def _response(value: Any, name: str, where: str) -> str:
    if value is None:
        raise UserError(f"{where}: missing field '{name}'")
    if not isinstance(value, str):
        value = _last_assistant(value, name, where)
    if not value.strip():
        raise UserError(f"{where}: '{name}' is empty")
    return str(value)


def _last_assistant(value: Any, name: str, where: str) -> str:
    try:
        if len(value) == 1 and value[0]["role"] == "assistant":
            return str(value[0]["content"])
    except (KeyError, TypeError, IndexError):
        pass
    raise UserError(f"{where}: '{name}' must be a text or one assistant message")


def _chosen_rejected(
    prompt: Any, chosen: Any, rejected: Any, where: str
) -> tuple[Prompt, str, str]:
    for name, value in (("chosen", chosen), ("rejected", rejected)):
        _required(value, name, where)
    if prompt is not None:
        return (
            _prompt(prompt, where),
            _response(chosen, "chosen", where),
            _response(rejected, "rejected", where),
        )
    if isinstance(chosen, str) and isinstance(rejected, str):
        prompt_a, good = _split_dialogue(chosen, "chosen", where)
        prompt_b, bad = _split_dialogue(rejected, "rejected", where)
    else:
        prompt_a, good = _split_messages(chosen, "chosen", where)
        prompt_b, bad = _split_messages(rejected, "rejected", where)
    if prompt_a != prompt_b:
        raise UserError(f"{where}: chosen and rejected answer different prompts")
    return prompt_a, good, bad


def _split_messages(value: Any, name: str, where: str) -> tuple[Prompt, str]:
    try:
        *before, last = value
        if last["role"] != "assistant" or not str(last["content"]).strip():
            raise ValueError(f"'{name}' must end with an assistant message that is not empty")
        return prompt_from_messages(before), str(last["content"])
    except (KeyError, TypeError) as error:
        raise UserError(f"{where}: '{name}' must be a list of {{role, content}}") from error
    except ValueError as error:
        raise UserError(f"{where}: {error}") from error


def _split_dialogue(text: str, name: str, where: str) -> tuple[Prompt, str]:
    """Cut a Human/Assistant dialogue before its last assistant turn."""
    at = text.rfind(_ASSISTANT)
    if at < 0:
        raise UserError(f"{where}: '{name}' has no '\\n\\nAssistant:' turn and there is no prompt")
    response = text[at + len(_ASSISTANT) :].strip()
    if not response:
        raise UserError(f"{where}: '{name}' ends with an empty assistant turn")
    return _dialogue(text[:at], where), response


def _dialogue(text: str, where: str) -> Prompt:
    if not text.startswith("\n\n"):
        text = "\n\n" + text
    messages: list[Message] = []
    position = 0
    role = ""
    while True:
        turns = [(text.find(mark, position), mark) for mark in (_HUMAN, _ASSISTANT)]
        found = min((t for t in turns if t[0] >= 0), default=None)
        body = text[position : found[0] if found else len(text)].strip()
        if role:
            messages.append(Message(role, body))
        elif body:
            raise UserError(f"{where}: a dialogue must start with '\\n\\nHuman:'")
        if found is None:
            break
        role = "user" if found[1] == _HUMAN else "assistant"
        position = found[0] + len(found[1])
    if not messages or messages[-1].role != "user":
        raise UserError(f"{where}: the prompt must end with a human turn")
    if not messages[-1].content:
        raise UserError(f"{where}: the prompt is empty")
    return tuple(messages)
