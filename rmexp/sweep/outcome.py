"""What a study stores of a trial's record beside its objectives."""

from __future__ import annotations

from typing import Any

from rmexp.sweep.samplers import VIOLATIONS
from rmexp.trial.record import TrialRecord

OUTCOME = ("reason", "metrics", VIOLATIONS)
_GUARDS = "guards/"


def outcome_attrs(record: TrialRecord) -> dict[str, Any]:
    """Attributes of a finished trial: its reason, metrics, and by how much it breaks each guard."""
    attrs: dict[str, Any] = {"reason": record.reason, "metrics": record.metrics}
    broken = [value for name, value in record.metrics.items() if name.startswith(_GUARDS)]
    if broken:
        attrs[VIOLATIONS] = broken
    return attrs
