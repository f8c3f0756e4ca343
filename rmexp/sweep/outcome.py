"""What a study stores of a trial's record beside its objectives."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from rmexp.evaluation.objective import constraint_violation
from rmexp.sweep.samplers import VIOLATIONS
from rmexp.trial.record import TrialRecord

_PART = "validation/"


@dataclass(frozen=True)
class Outcome:
    """Attributes of a finished trial."""

    attrs: dict[str, Any]

    ATTRS: ClassVar[tuple[str, ...]] = ("reason", "metrics", VIOLATIONS)

    @classmethod
    def of(cls, record: TrialRecord, guards: Sequence[str]) -> Outcome:
        """What to store.

        Args:
            record: the trial's.
            guards: comparisons of validation metrics, such as ``accuracy >= 0.6``.

        Raises:
            UserError: a guard names a metric that there is not.
        """
        attrs: dict[str, Any] = {"reason": record.reason, "metrics": record.metrics}
        if guards and record.state == "complete":
            known = {
                n.removeprefix(_PART): v for n, v in record.metrics.items() if n.startswith(_PART)
            }
            attrs[VIOLATIONS] = [constraint_violation(guard, known) for guard in guards]
        return cls(attrs)
