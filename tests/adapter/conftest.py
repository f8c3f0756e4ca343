"""What this folder's tests share."""

from __future__ import annotations

from pathlib import Path

import pytest
from word_pairs import WORDS

from rmexp.rules import Rule, RuleSet


@pytest.fixture(scope="session")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("adapter-cache")


@pytest.fixture(scope="session")
def rules() -> RuleSet:
    return RuleSet("four", tuple(Rule(w, f"The response names the {w}.", "x") for w in WORDS))
