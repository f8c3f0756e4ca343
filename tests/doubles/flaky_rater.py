"""A rater that cannot rate some responses as long as a file is there."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from word_rater import WordRater


class FlakyRater(WordRater):
    """Rates no response that begins with an I while the file ``down`` exists."""

    def __init__(self, down: str):
        super().__init__()
        self.down = Path(down)

    def rate(self, items: Any, rules: Any, wanted: Any = None) -> Any:
        rated = super().rate(items, rules, wanted)
        if self.down.exists():
            rated.psi[[item.response.startswith("I") for item in items]] = np.nan
        return rated
