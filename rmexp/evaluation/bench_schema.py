"""What RewardBench 1 and 2 share of their rows: checks of the schema, prompts, dialogues."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rmexp.errors import UserError
from rmexp.preferences.pair import Prompt, prompt_from_messages, prompt_from_text


def require_columns(where: str, row: Any, columns: Sequence[str]) -> None:
    """UserError unless the row is an object with these columns."""
    if not isinstance(row, Mapping):
        raise UserError(f"{where}: expected an object, got {type(row).__name__}")
    for column in columns:
        if row.get(column) is None:
            raise UserError(f"{where}: no '{column}'; the schema is {', '.join(columns)}")


def require_options(where: str, row: Mapping[str, Any]) -> None:
    """UserError unless ``chosen``, ``rejected`` and ``num_correct`` hold options of both kinds."""
    for side in ("chosen", "rejected"):
        texts = row[side]
        if not isinstance(texts, list) or not texts or not all(isinstance(t, str) for t in texts):
            raise UserError(f"{where}: '{side}' must be a list of one text or more")
    count = row["num_correct"]
    options = len(row["chosen"]) + len(row["rejected"])
    if isinstance(count, bool) or not isinstance(count, int) or not 1 <= count < options:
        raise UserError(f"{where}: num_correct={count} of {options} options")


def prompt_of(where: str, prompt: Any) -> Prompt:
    """A prompt from a text or a list of messages; UserError names the row."""
    if isinstance(prompt, str):
        return prompt_from_text(prompt)
    try:
        return prompt_from_messages(prompt)
    except (ValueError, TypeError, KeyError) as error:
        raise UserError(f"{where}: prompt: {error}") from error


def dialogue(prompt: Prompt, response: str) -> list[dict[str, str]]:
    """A prompt with its response as chat messages."""
    turns = [(message.role, message.content) for message in prompt]
    return [{"role": r, "content": c} for r, c in [*turns, ("assistant", response)]]
