"""What a study stores of a trial's record beside its objectives."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rmexp.sweep.samplers import VIOLATIONS
from rmexp.trial.record import TrialRecord

OUTCOME = ("reason", "metrics", VIOLATIONS)
_GUARDS = "guards/"


def outcome_attrs(record: TrialRecord) -> dict[str, Any]:
    """Attributes of a finished trial: its reason, metrics, and by how much it breaks each guard."""
    attrs: dict[str, Any] = {"reason": record.reason, "metrics": record.metrics}
    if broken := guard_values(record.metrics):
        attrs[VIOLATIONS] = list(broken.values())
    return attrs


def guard_values(metrics: Mapping[str, float]) -> dict[str, float]:
    """By how much each guard is broken, by its expression; 0 or less is kept."""
    return {n.removeprefix(_GUARDS): v for n, v in metrics.items() if n.startswith(_GUARDS)}
