"""docs/starter-data.md quotes what ships, and draws it as it says."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rmexp.preferences import read_starter
from rmexp.rules import pool

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "starter-data.md").read_text("utf-8")


def drawn(things: Sequence[Any]) -> list[Any]:
    return sorted(things, key=lambda t: hashlib.sha256(t.id.encode()).hexdigest())[:10]


def test_the_page_shows_the_ten_of_each_that_the_hash_draws() -> None:
    shown = re.findall(r"^### \d+\. `(\w[\w-]*)`", PAGE, flags=re.M)
    expected = [*drawn(read_starter().pairs), *drawn(pool().rules)]
    assert shown == [thing.id for thing in expected]


def test_the_page_quotes_them_word_for_word() -> None:
    quoted = PAGE.replace("\n> ", "\n")
    for pair in drawn(read_starter().pairs):
        for text in (pair.response_a, pair.response_b, *(m.content for m in pair.prompt)):
            assert text in quoted, pair.id
    for rule in drawn(pool().rules):
        assert rule.sentence in PAGE
        for example in (*rule.follows, *rule.breaks):
            assert f"| {example.prompt} | {example.response} |" in PAGE, rule.id
