"""The Tracker protocol."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol


@dataclass(frozen=True)
class RunInfo:
    """What identifies a run at the tracker.

    Attributes:
        id: the same for the same (study, trial, attempt), so that logging again resumes the run.
        name: for people.
        group: the study; None outside a sweep.
        job_type: trial, confirm, rerun, seed, rate, label, adapter, controller.
        config: plain data, one flat level of dotted keys.
        directory: the tracker writes below it.
        tags: free words.
    """

    id: str
    name: str
    group: str | None
    job_type: str
    config: Mapping[str, Any]
    directory: Path
    tags: tuple[str, ...] = field(default=())


class Tracker(Protocol):
    """Takes what a trial logs, and at last its state."""

    def log(self, metrics: Mapping[str, float], *, step_metric: str, step: float) -> None:
        """Log metrics at a step of the axis ``step_metric`` (such as ``epoch``)."""

    def table(self, name: str, columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
        """Log a table that a person can read."""

    def finish(self, state: str, reason: str, summary: Mapping[str, Any]) -> None:
        """Close the run as complete, pruned or failed, with its final numbers."""


class NullTracker:
    """Logs nothing; wandb is not imported."""

    def log(self, metrics: Mapping[str, float], *, step_metric: str, step: float) -> None:
        """Do nothing."""

    def table(self, name: str, columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
        """Do nothing."""

    def finish(self, state: str, reason: str, summary: Mapping[str, Any]) -> None:
        """Do nothing."""


def flatten(plain: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested plain data as one level of dotted keys.

    >>> flatten({"a": {"b": 1}, "c": [1, 2]})
    {'a.b': 1, 'c': [1, 2]}
    """
    flat: dict[str, Any] = {}
    for key, value in plain.items():
        if isinstance(value, Mapping):
            flat.update(flatten(value, f"{prefix}{key}."))
        else:
            flat[f"{prefix}{key}"] = value
    return flat
