"""Preference pairs: reading, checking, splitting by prompt."""

from rmexp.preferences.pair import (
    Message,
    Pair,
    Prompt,
    prompt_from_messages,
    prompt_from_text,
    prompt_text,
)

__all__ = [
    "Message",
    "Pair",
    "Prompt",
    "prompt_from_messages",
    "prompt_from_text",
    "prompt_text",
]
