"""Preference pairs: reading, checking, splitting by prompt."""

from rmexp.preferences.pair import (
    Message,
    Pair,
    Prompt,
    prompt_from_messages,
    prompt_from_text,
    prompt_text,
)
from rmexp.preferences.read import (
    PreferenceData,
    pairs_fingerprint,
    read_files,
    read_hub,
    read_starter,
)
from rmexp.preferences.report import ReadReport
from rmexp.preferences.split import Splits, split_by_prompt

__all__ = [
    "Message",
    "Pair",
    "PreferenceData",
    "Prompt",
    "ReadReport",
    "Splits",
    "pairs_fingerprint",
    "prompt_from_messages",
    "prompt_from_text",
    "prompt_text",
    "read_files",
    "read_hub",
    "read_starter",
    "split_by_prompt",
]
