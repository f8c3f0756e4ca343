"""Where a sweep stands, as the controller tells it after each event."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Progress:
    """Where a sweep stands.

    Attributes:
        target: finished trials wanted in the study.
        complete, pruned, failed, running: trials by state.
        best: best objective so far; None with several objectives.
        best_number: the trial that has it.
        event: what has just happened, in words.
        seconds_left: estimate; None before the first trial of this run has ended.
    """

    target: int
    complete: int
    pruned: int
    failed: int
    running: int
    best: float | None
    best_number: int | None
    event: str
    seconds_left: float | None


def said(params: dict[str, Any]) -> str:
    """Searched keys with their values, on one line."""
    return ", ".join(
        f"{k}={v:.3g}" if isinstance(v, float) else f"{k}={json.dumps(v)}"
        for k, v in params.items()
    )
