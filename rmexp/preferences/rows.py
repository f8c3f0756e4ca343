"""From the rows that data sets hold to pairs: the shapes we know, and their errors by line."""

from __future__ import annotations

import difflib
import functools
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


FIELDS = (
    "id",
    "prompt",
    "response_a",
    "response_b",
    "preference",
    "chosen",
    "rejected",
    "response",
    "category",
    "tags",
    "kind",
    "refusal",
)


_RESPONSES = ("response_a", "response_b", "chosen", "rejected", "response")


class RowError(UserError):
    """A row that cannot be used.

    Attributes:
        reason: the message without place and particulars: rows of one reason are counted together.
        where: file and line.
        missing: fields of which one would have made the row usable.
    """

    def __init__(
        self, where: str, reason: str, particulars: str = "", missing: tuple[str, ...] = ()
    ):
        super().__init__(f"{where}: {reason}{particulars}")
        self.reason, self.where, self.missing = reason, where, missing


@dataclass(frozen=True)
class ColumnMap:
    """Which column of the source holds which field of a pair.

    ``columns`` maps our names (see ``FIELDS``) to the source's names; a name left out stands for
    itself.

    Raises:
        UserError: for a name that is none of ours.
    """

    columns: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name in self.columns:
            if name not in FIELDS:
                raise UserError(f"data.columns.{name}: no such field; use {', '.join(FIELDS)}")

    def get(self, row: Mapping[str, Any], name: str) -> Any:
        """The row's value for one of our names, None where absent."""
        return row.get(self.columns.get(name, name))


def shuffled_side(seed: int, key: str) -> Side:
    """The side on which the preferred response goes: a fair coin keyed by seed and content."""
    digest = hashlib.sha256(f"{seed}\0{key}".encode("utf-8", "surrogatepass")).digest()
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
        raise RowError(where, "expected a JSON object", f", got {type(row).__name__}")
    try:
        return _pair(row, where, columns, seed)
    except RowError as error:
        if told := _misspelt(error, row, columns):
            raise told from error
        raise


def _pair(row: Mapping[str, Any], where: str, columns: ColumnMap, seed: int) -> Pair:
    get = functools.partial(columns.get, row)
    preference: Side | None
    if get("response_a") is not None or get("response_b") is not None:
        prompt = read_prompt(_required(get("prompt"), "prompt", where), where)
        a = _response(get("response_a"), "response_a", where)
        b = _response(get("response_b"), "response_b", where)
        preference = _preference(get("preference"), where)
    else:
        if get("chosen") is not None or get("rejected") is not None:
            prompt, good, bad = _chosen_rejected(
                get("prompt"), get("chosen"), get("rejected"), where
            )
        elif get("response") is not None:
            prompt = read_prompt(_required(get("prompt"), "prompt", where), where)
            good, bad = _ranked(get("response"), where)
        else:
            missing = "response_a" if get("prompt") is not None else "prompt"
            wanted = ("prompt",) if missing == "prompt" else _RESPONSES
            raise RowError(where, f"missing field '{missing}'", _known_shapes(row), wanted)
        preference = shuffled_side(seed, f"{prompt}\0{good}\0{bad}")
        a, b = (good, bad) if preference == "a" else (bad, good)
    _refuse_broken_text((a, b), prompt, where)
    if a.strip() == b.strip():
        raise RowError(where, "the two responses are identical")
    return Pair(
        id=where if get("id") is None else str(get("id")),
        prompt=prompt,
        response_a=a,
        response_b=b,
        preference=preference,
        category=str(get("category") or ""),
        tags=_tags(get("tags")),
        kind=str(get("kind") or ""),
        refusal=str(get("refusal") or ""),
    )


def responses_from_row(row: Mapping[str, Any], where: str) -> tuple[Prompt, dict[str, str]]:
    """The prompt of a row, and its responses by the field each stands in.

    Args:
        row: with ``prompt`` and ``response``, or a pair: ``response_a`` and ``response_b``, or
            ``chosen`` and ``rejected``.
        where: file and line, for errors.

    Raises:
        UserError: naming ``where`` and the field.
    """
    if not isinstance(row, Mapping):
        raise RowError(where, "expected a JSON object", f", got {type(row).__name__}")
    try:
        return _responses(row, where)
    except RowError as error:
        if told := _misspelt(error, row, ColumnMap()):
            raise told from error
        raise


def _responses(row: Mapping[str, Any], where: str) -> tuple[Prompt, dict[str, str]]:
    get = row.get
    names: tuple[str, ...]
    if get("response_a") is not None or get("response_b") is not None:
        names = ("response_a", "response_b")
    elif get("chosen") is not None or get("rejected") is not None:
        prompt, chosen, rejected = _chosen_rejected(
            get("prompt"), get("chosen"), get("rejected"), where
        )
        _refuse_broken_text((chosen, rejected), prompt, where)
        return prompt, {"chosen": chosen, "rejected": rejected}
    else:
        names = ("response",)
    prompt = read_prompt(_required(get("prompt"), "prompt", where), where)
    responses = {name: _response(get(name), name, where) for name in names}
    _refuse_broken_text(tuple(responses.values()), prompt, where)
    return prompt, responses


def _misspelt(error: RowError, row: Mapping[str, Any], columns: ColumnMap) -> RowError | None:
    """The error with the field of the row whose name is nearly that of a missing one, if any."""
    own = [columns.columns.get(name, name) for name in FIELDS]
    others = [key for key in map(str, row) if key not in own]
    for name in error.missing:
        wanted = columns.columns.get(name, name)
        if near := difflib.get_close_matches(wanted, others, n=1, cutoff=0.8):
            meant = f"; the row has '{near[0]}': did you mean '{wanted}'?"
            return RowError(error.where, error.reason, meant)
    return None


def _known_shapes(row: Mapping[str, Any]) -> str:
    return (
        f"; the row has {', '.join(map(str, row)) or 'nothing'}; known shapes: "
        f"{'; '.join(SHAPES)}; name other columns by data.columns"
    )


def _tags(value: Any) -> tuple[str, ...]:
    if isinstance(value, str):
        return (value,)
    return tuple(str(tag) for tag in value) if isinstance(value, Sequence) else ()


def _ranked(value: Any, where: str) -> tuple[str, str]:
    """The two responses of a tuple whose first is the better."""
    if isinstance(value, str) or not isinstance(value, Sequence) or len(value) != 2:
        raise RowError(where, "'response' must hold two texts")
    return _response(value[0], "response", where), _response(value[1], "response", where)


def _refuse_broken_text(responses: tuple[str, ...], prompt: Prompt, where: str) -> None:
    # JSON can spell half of a surrogate pair, which no tokenizer or file takes.
    for text in (*responses, *(message.content for message in prompt)):
        try:
            text.encode()
        except UnicodeEncodeError as error:
            raise RowError(
                where, "a text is not valid Unicode (half of a surrogate pair)"
            ) from error


def _required(value: Any, name: str, where: str) -> Any:
    if value is None:
        raise RowError(where, f"missing field '{name}'", missing=(name,))
    return value


def _preference(value: Any, where: str) -> Side | None:
    known: dict[Any, Side | None] = {None: None, "": None, "a": "a", "b": "b", "A": "a", "B": "b"}
    if isinstance(value, (str, type(None))) and value in known:
        return known[value]
    raise RowError(where, '\'preference\' must be "a", "b" or absent', f", got {value!r}")


def read_prompt(value: Any, where: str) -> Prompt:
    """A prompt from a text, a Human/Assistant dialogue, or a list of messages.

    The one reader of prompts: a rating is found again by its prompt's messages.

    Raises:
        UserError: naming ``where``.
    """
    if isinstance(value, str):
        if not value.strip():
            raise RowError(where, "the prompt is empty")
        if value.startswith((_HUMAN, _HUMAN.lstrip())):
            return _dialogue(value, where)
        return prompt_from_text(value)
    try:
        prompt = prompt_from_messages(value)
    except (KeyError, TypeError) as error:
        raise RowError(where, "'prompt' must be a text or a list of {role, content}") from error
    except ValueError as error:
        raise RowError(where, str(error)) from error
    if not prompt[-1].content.strip():
        raise RowError(where, "the prompt is empty")
    return prompt


def _response(value: Any, name: str, where: str) -> str:
    value = _required(value, name, where)
    text = value if isinstance(value, str) else _last_assistant(value, name, where)
    if _is_dialogue(text):
        raise RowError(where, f"'{name}' is a whole dialogue, not a response")
    if not text.strip():
        raise RowError(where, f"'{name}' is empty")
    return text


def _last_assistant(value: Any, name: str, where: str) -> str:
    try:
        role, content = value[0]["role"], value[0]["content"]
        if len(value) == 1 and role == "assistant" and isinstance(content, str):
            return content
    except (KeyError, TypeError, IndexError):
        pass
    raise RowError(where, f"'{name}' must be a text or one assistant message")


def _chosen_rejected(
    prompt: Any, chosen: Any, rejected: Any, where: str
) -> tuple[Prompt, str, str]:
    for name, value in (("chosen", chosen), ("rejected", rejected)):
        _required(value, name, where)
    # Some sources give the prompt beside the whole dialogues: these then say it all.
    if prompt is not None and not (_is_dialogue(chosen) and _is_dialogue(rejected)):
        return (
            read_prompt(prompt, where),
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
        raise RowError(where, "chosen and rejected answer different prompts")
    return prompt_a, good, bad


def _is_dialogue(value: Any) -> bool:
    if isinstance(value, str):
        return value.startswith((_HUMAN, _HUMAN.lstrip())) and _ASSISTANT in value
    return isinstance(value, Sequence) and len(value) > 1


def _split_messages(value: Any, name: str, where: str) -> tuple[Prompt, str]:
    try:
        *before, last = value
        if last["role"] != "assistant":
            raise ValueError(f"'{name}' must end with an assistant message")
        return prompt_from_messages(before), _response([last], name, where)
    except RowError:
        raise
    except (KeyError, TypeError) as error:
        raise RowError(where, f"'{name}' must be a list of {{role, content}}") from error
    except ValueError as error:
        raise RowError(where, str(error)) from error


def _split_dialogue(text: str, name: str, where: str) -> tuple[Prompt, str]:
    """Cut a Human/Assistant dialogue before its last assistant turn."""
    at = text.rfind(_ASSISTANT)
    if at < 0:
        reason = f"'{name}' has no '\\n\\nAssistant:' turn and there is no prompt"
        raise RowError(where, reason, missing=("prompt",))
    response = text[at + len(_ASSISTANT) :].strip()
    if not response:
        raise RowError(where, f"'{name}' ends with an empty assistant turn")
    if _HUMAN in text[at:]:
        raise RowError(where, f"'{name}' ends with a human turn")
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
            raise RowError(where, "a dialogue must start with '\\n\\nHuman:'")
        if found is None:
            break
        role = "user" if found[1] == _HUMAN else "assistant"
        position = found[0] + len(found[1])
    if not messages or messages[-1].role != "user":
        raise RowError(where, "the prompt must end with a human turn")
    if not messages[-1].content:
        raise RowError(where, "the prompt is empty")
    return tuple(messages)
