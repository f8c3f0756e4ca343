"""The config of a trial that takes about a second: a tiny model and an instant rater."""

from __future__ import annotations

from pathlib import Path
from typing import Any


def quick_config(tmp_path: Path, **more: Any) -> dict[str, Any]:
    """Plain data of a config; ``more`` replaces whole sections."""
    return {
        "r": 1,
        "epochs": 1,
        "data": {"limit": 40},
        "rules": {"ids": ["answers_alarming_wording", "no_invented_intent"]},
        "rater": {"kind": "custom", "target": "word_rater:WordRater"},
        "model": {"name": "tiny"},
        "trainer": {"threads": 1},
        "tracker": {"kind": "none"},
        "cache_dir": str(tmp_path / "cache"),
        **more,
    }
